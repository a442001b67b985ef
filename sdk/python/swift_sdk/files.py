"""Reading files that the user named or granted. Needs `read = true` under `[capabilities]` of plugin.toml.

Paths are absolute, as they came to the plugin; nothing can be written. What is not granted is an `OSError`. Outside of a
component (in the author's own unit tests) these read the machine's files.
"""

import os
from dataclasses import dataclass
from typing import Iterator

try:
    import wit_world as _world
except ImportError:
    _world = None
try:
    from wit_world.imports import files as _host
except ImportError:
    _host = None

#: Bytes that `lines` asks for at once.
PIECE = 256 << 10


@dataclass
class Entry:
    """What lies in a folder."""

    name: str
    is_folder: bool
    size: int


def entries(path: str) -> list[Entry]:
    """What lies in a folder, sorted by name."""
    if _local():
        found = sorted(os.scandir(path), key=lambda one: one.name)
        return [Entry(one.name, one.is_dir(), 0 if one.is_dir() else one.stat().st_size) for one in found]
    return [Entry(one.name, one.is_folder, one.size) for one in _asked("entries", path)]


def size(path: str) -> int:
    """Bytes of a file."""
    return os.path.getsize(path) if _local() else _asked("size", path)


def read(path: str, offset: int, length: int) -> bytes:
    """At most `length` bytes from `offset` on; fewer only at the end of the file."""
    if _local():
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(length)
    return _asked("read", path, offset, length)


def lines(path: str, offset: int = 0) -> Iterator[tuple[bytes, int]]:
    """Lines from byte `offset` on, read in pieces: each without its end, and the offset of the one after it."""
    rest, at = b"", offset
    while True:
        piece = read(path, at + len(rest), PIECE)
        if not piece:
            break
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            at += len(line) + 1
            yield line.removesuffix(b"\r"), at
    if rest:
        yield rest.removesuffix(b"\r"), at + len(rest)


def _local() -> bool:
    return _world is None


def _asked(function: str, *arguments: object):
    if _host is None:
        raise PermissionError("this plugin reads no files: its plugin.toml needs `read = true` under [capabilities]")
    try:
        return getattr(_host, function)(*arguments)
    except Exception as error:
        if not hasattr(error, "value"):
            raise
        raise OSError(error.value) from None
