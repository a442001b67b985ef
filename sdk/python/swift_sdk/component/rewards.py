"""The interface `swift:reward/rewards` over the author's reward functions."""

import json
import math
from typing import Any, Callable

from wit_world.exports import rewards as wit

from ..errors import Failed, describe
from ..registry import ENTRIES, call_with, find
from ..reward import Columns, Message, Sample, State
from ..settings import parse
from . import fallible, infallible


class _Chosen:
    """What `configure` set up in this instance."""

    score: Callable[..., Any]
    whole: bool


class Rewards:
    """The export."""

    @staticmethod
    @infallible
    def rewards() -> list[wit.Info]:
        return [wit.Info(one.name, one.summary, one.extra["whole_batch"]) for one in ENTRIES["reward"].values()]

    @staticmethod
    @fallible
    def configure(name: str, config: str) -> None:
        entry = find("reward", name)
        made, settings = entry.object(parse(config))
        if not entry.is_class:
            score = call_with(made, (None, None, None))
            _Chosen.score, _Chosen.whole = lambda sample, state: score(sample, state, settings), False
        elif hasattr(made, "score_batch"):
            _Chosen.score, _Chosen.whole = made.score_batch, True
        else:
            score = call_with(made.score, (None, None))
            _Chosen.score, _Chosen.whole = score, False

    @staticmethod
    @fallible
    def score(samples: list[wit.Sample], state: wit.State) -> list[Any]:
        given = [_sample(one) for one in samples]
        state = State(state.step, state.max_steps, state.epoch, state.seed, json.loads(state.extra))
        if not _Chosen.whole:
            return [_outcome(lambda one=one: _Chosen.score(one, state)) for one in given]
        scores = _Chosen.score(given, state)
        if not isinstance(scores, (list, tuple)) or len(scores) != len(given):
            what = f"{len(scores)} scores" if isinstance(scores, (list, tuple)) else type(scores).__name__
            raise Failed(f"score_batch gave {what} for {len(given)} samples")
        return [_outcome(lambda one=one: one) for one in scores]


def _sample(sample: wit.Sample) -> Sample:
    prompt = [Message(one.role, one.content) for one in sample.prompt]
    columns = Columns(dict(sample.columns))
    return Sample(prompt, sample.completion, sample.completion_tokens, sample.solution, columns)


def _outcome(score: Callable[[], Any]) -> Any:
    try:
        value = score()
    except BaseException as error:
        return wit.Outcome_Failed(describe(error))
    if value is None:
        return wit.Outcome_NoScore()
    if isinstance(value, Failed):
        return wit.Outcome_Failed(describe(value))
    try:
        number = None if isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None:
        return wit.Outcome_Failed(f"the score is no number but {type(value).__name__}")
    if not math.isfinite(number):
        return wit.Outcome_Failed(f"the score is {number}, not a finite number")
    return wit.Outcome_Score(number)
