"""Evaluation metrics: predictions and references in, named numbers out."""

from dataclasses import dataclass, field
from typing import Any, Callable, Mapping, Optional, Union

from .registry import declare


class Tokens(list):
    """Token ids; -100 marks a position that does not count."""


class Numbers(list):
    """Scores of candidates in a prediction, their relevances or labels in a reference."""


Answer = Union[str, Tokens, Numbers]


@dataclass
class Example:
    """One prediction."""

    prediction: Answer
    #: Any of them is right; none for a metric without references.
    references: list[Answer]
    #: Every other column of the row.
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The prediction of a metric of texts."""
        return _text(self.prediction, "prediction")

    @property
    def texts(self) -> list[str]:
        """The references of a metric of texts."""
        return [_text(one, "reference") for one in self.references]


def _text(answer: Answer, what: str) -> str:
    if isinstance(answer, str):
        return answer
    raise TypeError(f"this metric compares texts, and a {what} is {'token ids' if isinstance(answer, Tokens) else 'numbers'}")


def metric(
    name: str, *, summary: str = "", higher_is_better: bool = True, settings: Optional[Mapping[str, Any]] = None
) -> Callable[[Any], Any]:
    """Declares a metric, a class: `swift plugin run FILE:name` calls it by `name`.

    An evaluation is cut into batches; each is taken in by an object of its own, on all cores, and one last object puts the
    states together in the order of the data. The methods:

    - `configure(self, settings)`, if there are any;
    - `update(self, examples)` takes a batch in;
    - `state(self)` gives all that was taken in, as a value for JSON;
    - `merge(self, state)` takes in such a value of another object;
    - `compute(self)` gives a dict of numbers; None is left out (a mean of nothing).
    """
    return declare(
        "metric", name, summary, settings, ("update", "state", "merge", "compute"), higher_is_better=higher_is_better
    )
