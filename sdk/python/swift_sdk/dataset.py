"""Row preprocessors, and loaders of sources that swift does not know."""

from dataclasses import dataclass
from typing import Any, Callable, Mapping, Optional, Sequence

from .registry import declare
from .settings import Settings


class Drop(Exception):
    """Return or raise it for a row that is left out. The reason is a few words, the same for the same trouble: they are
    counted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass
class Source:
    """What the user named."""

    #: An absolute path, or whatever else stood in the dataset string.
    location: str
    subset: Optional[str]
    settings: Settings


def preprocessor(
    name: str, *, summary: str = "", datasets: Sequence[str] = (), settings: Optional[Mapping[str, Any]] = None
) -> Callable[[Any], Any]:
    """Declares a row preprocessor: what the user writes after `--preprocessor` is `name`.

    A function takes `(row)` or `(row, settings)`; a class has `process(self, row)` and may have `configure`. A row is a
    dict. The result is a canonical row, a list of several, or `Drop("no answer")`. An exception stops the dataset.
    `datasets` are ids of datasets that it is for, so that it need not be named.
    """
    return declare("preprocessor", name, summary, settings, ("process",), datasets=list(datasets))


def loader(
    name: str, *, summary: str = "", endings: Sequence[str] = (), settings: Optional[Mapping[str, Any]] = None
) -> Callable[[Any], Any]:
    """Declares a loader: what the user writes before `::` in a dataset string is `name`.

    The simple form is a generator function of `(source, cursor)` that yields pairs: an outcome (a row, a list of rows, or
    `Drop`), and the cursor after it, a short text. Called with that cursor it goes on with the next row; with None it
    starts. A class has `open(self, source, cursor)`, the generator `rows(self)`, and may have `length(self)`, the number of
    rows in all if that is known at once. `endings` are those of files that it reads (".tsv"), so that it need not be named.
    """
    return declare("dataset", name, summary, settings, ("open", "rows"), endings=list(endings))
