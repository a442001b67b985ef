"""What preprocessors and loaders share: rows as JSON."""

import json
from typing import Any

# The generator calls the module by its interface alone where no other interface of the component has that name.
try:
    from wit_world.imports import swift_dataset_types as wit
except ImportError:
    from wit_world.imports import types as wit

from ..dataset import Drop
from ..errors import Failed, describe


def outcome(result: Any) -> Any:
    """What became of one row of the source."""
    if isinstance(result, Drop):
        return wit.Outcome_Dropped(describe(Failed(result.reason)))
    if isinstance(result, (list, tuple)):
        return wit.Outcome_Rows([_row(one) for one in result])
    return wit.Outcome_Row(_row(result))


def _row(row: Any) -> str:
    if not isinstance(row, dict):
        raise TypeError(f"a row must be a dict, not {type(row).__name__}; a row that is left out is Drop(\"reason\")")
    text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    text.encode("utf-8")
    return text
