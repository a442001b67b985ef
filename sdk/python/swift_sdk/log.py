"""Lines for the user and the author. `debug` lines are shown by `swift plugin test` and in debug logs alone."""

import sys

try:
    from wit_world.imports import log as _host
except ImportError:  # outside of a component: in the author's own unit tests
    _host = None


def debug(message: object) -> None:
    """For the author."""
    _write("DEBUG", message)


def info(message: object) -> None:
    """For the user."""
    _write("INFO", message)


def warn(message: object) -> None:
    """Something the user should look at."""
    _write("WARN", message)


def error(message: object) -> None:
    """Something is wrong."""
    _write("ERROR", message)


def abort(message: str) -> None:
    """Ends the call with this message; the SDK calls it with what is left of an exception."""
    if _host is None:
        raise SystemExit(message)
    _host.abort(message)


def _write(level: str, message: object) -> None:
    text = str(message).encode("utf-8", "replace").decode("utf-8")
    if _host is None:
        print(f"{level.lower()}: {text}", file=sys.stderr)
    else:
        _host.log(_host.Level[level], text)


class Stream:
    """Standard output or error of a component: whole lines go to the log."""

    encoding = "utf-8"

    def __init__(self, level: str) -> None:
        self._level = level
        self._line = ""

    def write(self, text: str) -> int:
        """Takes text; each line that is whole becomes a line of the log."""
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            _write(self._level, line)
        return len(text)

    def flush(self) -> None:
        """Writes what is no whole line yet."""
        if self._line:
            _write(self._level, self._line)
            self._line = ""

    def isatty(self) -> bool:
        """It is no terminal."""
        return False
