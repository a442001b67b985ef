"""The interface `swift:model/adapter` over the author's model families."""

from typing import Any, Optional

from wit_world.imports import graph as host

# The generator calls the module by its interface alone where no other interface of the component has that name.
try:
    from wit_world.imports import swift_model_types as types
except ImportError:
    from wit_world.imports import types

from ..config import Config
from ..errors import Failed
from ..model import Graph
from ..registry import ENTRIES, Entry
from . import fallible

#: The task that the SDK's families build.
_TASK = "causal-lm"


class Adapter:
    """The export."""

    @staticmethod
    def claims(config: str) -> Optional[str]:
        try:
            found = _claimed(Config.parse(config))
        except Exception:
            # A config that cannot be read is not claimed.
            return None
        return found[1] if found else None

    @staticmethod
    @fallible
    def build(config: str, task: str, builder: host.Builder) -> None:
        if task != _TASK:
            raise Failed(f"the task `{task}` is not built; this family builds {_TASK}")
        read = Config.parse(config)
        found = _claimed(read)
        if found is None:
            built = ", ".join(one for entry in _entries() for one in entry.extra["types"])
            raise Failed(f"config.json: its `model_type` is not built by this plugin; built are {built}")
        entry, _ = found
        graph = Graph(builder, types)
        if entry.is_class:
            entry.target(read).build(graph)
        else:
            entry.target(graph, read)


def _entries() -> list[Entry]:
    return list(ENTRIES["model"].values())


def _claimed(config: Config) -> Optional[tuple[Entry, Any]]:
    """The family that builds such a model, and the `model_type` it is of."""
    model_type = config.optional_text("model_type")
    if model_type is not None:
        return next(((one, model_type) for one in _entries() if model_type in one.extra["types"]), None)
    named = config.texts("architectures") or []
    for one in _entries():
        if any(name in one.extra["architectures"] for name in named):
            return one, one.extra["types"][0]
    return None
