"""A dataset loader: text files with a query, a tab and a response in each line."""

from swift_sdk import Drop, files, loader


@loader("tsv", summary="Text files with a query and a response in each line", endings=[".tsv"])
def tsv(source, cursor):
    """Yields each row with the byte offset of the line after it, which is where reading goes on."""
    for line, offset in files.lines(source.location, int(cursor or 0)):
        query, tab, response = line.decode("utf-8").partition("\t")
        yield (row(query, response) if tab else Drop("no tab")), str(offset)


def row(query, response):
    """A canonical row."""
    return {"messages": [{"role": "user", "content": query}, {"role": "assistant", "content": response}]}
