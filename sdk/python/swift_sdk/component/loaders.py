"""The interface `swift:dataset/loaders` over the author's loaders."""

from typing import Any, Iterator, Optional

from wit_world.exports import loaders as wit

from ..dataset import Source
from ..errors import Failed
from ..registry import ENTRIES, find
from ..settings import Settings, parse
from . import fallible, infallible
from .rows import outcome


class Loaders:
    """The export."""

    @staticmethod
    @infallible
    def loaders() -> list[wit.Info]:
        return [wit.Info(one.name, one.summary, one.extra["endings"]) for one in ENTRIES["dataset"].values()]

    @staticmethod
    @fallible
    def open(name: str, source: wit.Source, cursor: Optional[str]) -> "Reader":
        entry = find("dataset", name)
        if not entry.is_class:
            _, settings = entry.object(parse(source.config))
            return Reader(entry.target(Source(source.location, source.subset, settings), cursor), None, cursor)
        settings = Settings(parse(source.config), entry.settings)
        made = entry.target()
        made.open(Source(source.location, source.subset, settings), cursor)
        settings.refuse_unknown(name)
        length = made.length() if hasattr(made, "length") else None
        return Reader(made.rows(), length, cursor)


class Reader:
    """A source that is being read. It looks one row ahead, so that the last batch knows that it is the last, and a source
    that cannot be opened fails in `open`."""

    def __init__(self, rows: Any, length: Optional[int], cursor: Optional[str]) -> None:
        try:
            self._rows: Iterator[Any] = iter(rows)
        except TypeError:
            raise Failed("a loader is a generator: it must `yield row, cursor`") from None
        self._length = length
        self._cursor = cursor or ""
        self._ahead = next(self._rows, None)

    @infallible
    def length(self) -> Optional[int]:
        return self._length

    @fallible
    def next(self, limit: int) -> wit.Batch:
        outcomes = []
        while self._ahead is not None and len(outcomes) < limit:
            try:
                result, self._cursor = self._ahead
            except (TypeError, ValueError):
                raise Failed("a loader must yield pairs: `yield row, cursor`") from None
            outcomes.append(outcome(result))
            self._ahead = next(self._rows, None)
        return wit.Batch(outcomes, str(self._cursor), self._ahead is None)
