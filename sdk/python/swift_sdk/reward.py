"""Reward functions: a completion in, a number or none out."""

import json
from dataclasses import dataclass, field
from typing import Any, Callable, Iterator, Mapping, Optional

from .registry import declare


@dataclass
class Message:
    """One message of the prompt; roles are system, user, assistant, tool_call, tool_response."""

    role: str
    content: str


class Columns(Mapping[str, Any]):
    """Every other column of a row, by name. A value is parsed from its JSON when it is read."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts

    def __getitem__(self, name: str) -> Any:
        return json.loads(self._texts[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def __repr__(self) -> str:
        return f"Columns({self._texts!r})"


@dataclass
class Sample:
    """One completion with all that is known of it."""

    prompt: list[Message]
    completion: str
    #: Tokens of the completion, its end included.
    completion_tokens: int = 0
    #: The column `solution`, as text.
    solution: Optional[str] = None
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class State:
    """Where the run is."""

    step: int = 0
    #: 0 where it is not known.
    max_steps: int = 0
    epoch: float = 0.0
    #: The run's seed, the only source of chance: `random.Random(state.seed)`.
    seed: int = 0
    #: Whatever else is known of the run.
    extra: Mapping[str, Any] = field(default_factory=dict)


def reward(
    name: str, *, summary: str = "", settings: Optional[Mapping[str, Any]] = None, whole_batch: bool = False
) -> Callable[[Any], Any]:
    """Declares a reward function: `swift plugin run FILE:name` calls it by `name`.

    A function takes `(sample)`, `(sample, state)` or `(sample, state, settings)`. A class has `score(self, sample, state)`,
    or `score_batch(self, samples, state)` with a list as long as the samples, and may have `configure(self, settings)`.
    With `whole_batch` a batch is never cut, which costs the parallel run: for a score that depends on the other samples.

    A result is a finite number, or None: no score, the function does not count for this sample. An exception fails the
    sample with its type, message and line as the reason; `Failed("words")` with the words alone.
    """
    return declare("reward", name, summary, settings, ("score|score_batch",), whole_batch=whole_batch)
