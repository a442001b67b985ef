"""A row preprocessor: rows with instruction, input and output to messages."""

from swift_sdk import Drop, preprocessor


@preprocessor("alpaca", summary="Rows with instruction, input and output to messages")
def alpaca(row):
    """One canonical row of each source row."""
    if not row.get("output"):
        return Drop("no answer")
    question = row["instruction"]
    if row.get("input"):
        question += "\n" + row["input"]
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": row["output"]},
        ]
    }
