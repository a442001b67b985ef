"""A reward: how many of the solution's words the completion has."""

from swift_sdk import reward


@reward("overlap", summary="Share of the solution's words that the completion has", settings={"lowercase": True})
def overlap(sample, state, settings):
    """A number between 0 and 1; None without a solution: then this function does not count."""
    if sample.solution is None:
        return None
    wanted = words(sample.solution, settings["lowercase"])
    if not wanted:
        return None
    found = words(sample.completion, settings["lowercase"])
    return len(wanted & found) / len(wanted)


def words(text, lowercase):
    """The distinct words of a text; as bytes, whose `lower` and `split` know ASCII alone."""
    text = text.encode()
    return set((text.lower() if lowercase else text).split())
