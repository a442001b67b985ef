"""A metric: how many predictions equal a reference."""

from swift_sdk import metric

SPACE = " \t\n\r\f\v"


@metric("exact_match", summary="Share of predictions that equal a reference", higher_is_better=True)
class ExactMatch:
    """One object takes in a part of the evaluation; `merge` puts the parts together."""

    def __init__(self):
        self.right = 0
        self.count = 0

    def update(self, examples):
        """Takes a batch in."""
        for example in examples:
            text = example.text.strip(SPACE)
            self.right += any(text == one.strip(SPACE) for one in example.texts)
            self.count += 1

    def state(self):
        """What was taken in, as JSON."""
        return {"right": self.right, "count": self.count}

    def merge(self, state):
        """Takes in what another object took in."""
        self.right += state["right"]
        self.count += state["count"]

    def compute(self):
        """The numbers; None is left out, for a mean of nothing is none."""
        return {"exact_match": self.right / self.count if self.count else None}
