"""What authors of swift plugins write in Python.

A plugin is a file with decorated functions or classes::

    from swift_sdk import reward

    @reward("overlap", summary="Share of the solution's words", settings={"lowercase": True})
    def overlap(sample, state, settings):
        if sample.solution is None:
            return None                      # no score: this function has nothing to say
        ...
        return 0.5

One file may hold several, of several kinds. `swift plugin build` makes a component of it that can only compute: no files,
no network, no clock, no chance that is not the run's. What it may do besides it imports from here: `log`, and `files` and
`http` where `plugin.toml` asks for them. `print` writes to the log.

The package imports nothing of the component's world when it is used outside of one, so a plugin's file can be imported and
unit-tested with any Python from 3.10 on.
"""

from . import files, http, log
from .config import Config, attention_windows
from .dataset import Drop, Source, loader, preprocessor
from .errors import Failed
from .metric import Example, Numbers, Tokens, metric
from .model import Graph, Mask, Param, Rows, Tensor, model
from .reward import Columns, Message, Sample, State, reward
from .rope import Rope
from .settings import Settings
from .template import template

__all__ = [
    "Columns",
    "Config",
    "Drop",
    "Example",
    "Failed",
    "Graph",
    "Mask",
    "Message",
    "Numbers",
    "Param",
    "Rope",
    "Rows",
    "Sample",
    "Settings",
    "Source",
    "State",
    "Tensor",
    "Tokens",
    "attention_windows",
    "files",
    "http",
    "loader",
    "log",
    "metric",
    "model",
    "preprocessor",
    "reward",
    "template",
]
