"""Errors, and the one line that is left of an exception: its type, its message, and where in the author's files it was."""

import json
import os

_SDK = os.path.dirname(os.path.abspath(__file__))
_STANDARD_LIBRARY = os.path.dirname(os.path.dirname(os.path.abspath(json.__file__)))


class Failed(Exception):
    """Raise it with words for the user, who sees them as they are, without type, file and line.

    In a reward it is the reason why a sample that should have a score has none.
    """


def describe(error: BaseException) -> str:
    """`ValueError: no number in "abc" (polite.py:12)`; the text alone for `Failed`."""
    try:
        message = str(error)
    except Exception:
        message = "(its message cannot be shown)"
    if isinstance(error, Failed):
        return _encodable(message)
    text = type(error).__name__ + (f": {message}" if message else "")
    place = _place(error)
    text += f" ({place})" if place else ""
    if error.__cause__ is not None and error.__cause__ is not error:
        text += f", caused by {describe(error.__cause__)}"
    return _encodable(text)


def _place(error: BaseException) -> str:
    """The innermost line of the author's, or else the innermost."""
    inner, own = "", ""
    step = error.__traceback__
    while step is not None:
        path = step.tb_frame.f_code.co_filename
        inner = f"{_shown(path)}:{step.tb_lineno}"
        if not path.startswith((_SDK, _STANDARD_LIBRARY, "<")):
            own = inner
        step = step.tb_next
    return own or inner


def _shown(path: str) -> str:
    """A path as the author knows it. While a component is built its folders are /0, /1, ..."""
    parts = path.split("/")
    if len(parts) > 2 and parts[0] == "" and parts[1].isdigit():
        return "/".join(parts[2:])
    return parts[-1]


def _encodable(text: str) -> str:
    """Text without halves of surrogate pairs, which cannot leave the component."""
    return text.encode("utf-8", "replace").decode("utf-8")
