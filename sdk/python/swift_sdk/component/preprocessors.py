"""The interface `swift:dataset/preprocessors` over the author's preprocessors."""

import json
from typing import Any, Callable

from wit_world.exports import preprocessors as wit

from ..dataset import Drop
from ..errors import Failed, describe
from ..registry import ENTRIES, call_with, find
from ..settings import parse
from . import fallible, infallible
from .rows import outcome

#: Most characters of a row that are shown with an error.
_SHOWN = 200


class _Chosen:
    """What `configure` set up in this instance."""

    process: Callable[[Any], Any]


class Preprocessors:
    """The export."""

    @staticmethod
    @infallible
    def preprocessors() -> list[wit.Info]:
        return [wit.Info(one.name, one.summary, one.extra["datasets"]) for one in ENTRIES["preprocessor"].values()]

    @staticmethod
    @fallible
    def configure(name: str, config: str) -> None:
        entry = find("preprocessor", name)
        made, settings = entry.object(parse(config))
        if entry.is_class:
            _Chosen.process = made.process
        else:
            process = call_with(made, (None, None))
            _Chosen.process = lambda row: process(row, settings)

    @staticmethod
    @fallible
    def process(rows: list[str]) -> list[Any]:
        return [_one(text) for text in rows]


def _one(text: str) -> Any:
    try:
        return outcome(_Chosen.process(json.loads(text)))
    except Drop as drop:
        return outcome(drop)
    except Exception as error:
        shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
        raise Failed(f"{describe(error)}, at the row {shown}") from None
