"""The interface `swift:metric/metrics` over the author's metrics."""

import json
from typing import Any

from wit_world.exports import metrics as wit

from ..errors import Failed
from ..metric import Answer, Example, Numbers, Tokens
from ..registry import ENTRIES, find
from ..reward import Columns
from ..settings import parse
from . import fallible, infallible


class _Chosen:
    """What `configure` set up in this instance."""

    metric: Any


class Metrics:
    """The export."""

    @staticmethod
    @infallible
    def metrics() -> list[wit.Info]:
        return [wit.Info(one.name, one.summary, one.extra["higher_is_better"]) for one in ENTRIES["metric"].values()]

    @staticmethod
    @fallible
    def configure(name: str, config: str) -> None:
        entry = find("metric", name)
        if not entry.is_class:
            raise Failed(f'the metric "{name}" is a function; it must be a class with update, state, merge and compute')
        _Chosen.metric, _ = entry.object(parse(config))

    @staticmethod
    @fallible
    def update(examples: list[wit.Example]) -> None:
        _Chosen.metric.update([_example(one) for one in examples])

    @staticmethod
    @fallible
    def state() -> bytes:
        return json.dumps(_Chosen.metric.state(), ensure_ascii=False).encode()

    @staticmethod
    @fallible
    def merge(state: bytes) -> None:
        _Chosen.metric.merge(json.loads(state))

    @staticmethod
    @fallible
    def compute() -> list[tuple[str, float]]:
        numbers = _Chosen.metric.compute()
        if not isinstance(numbers, dict):
            raise Failed(f"compute gave {type(numbers).__name__}; it must give a dict of names and numbers")
        return [(str(name), float(number)) for name, number in numbers.items() if number is not None]


def _example(example: wit.Example) -> Example:
    references = [_answer(one) for one in example.references]
    return Example(_answer(example.prediction), references, Columns(dict(example.columns)))


def _answer(answer: Any) -> Answer:
    if isinstance(answer, wit.Answer_Text):
        return answer.value
    return Tokens(answer.value) if isinstance(answer, wit.Answer_Tokens) else Numbers(answer.value)
