"""The component's side of the SDK: one module a kind with the class that implements its interface, and `seal`, which runs
last when a component is built. Only the entry file that the build makes imports from here."""

import importlib.machinery
import os
import random
import sys
from typing import Any, Callable, NoReturn, Sequence

from .. import log
from ..errors import Failed, describe
from ..registry import ENTRIES

try:
    from componentize_py_types import Err
except ImportError as error:
    raise ImportError("swift_sdk.component is for components alone") from error

_DECORATORS = {"dataset": "loader"}

# The module in C asks the host for the time by itself; without it `datetime` is the one in Python, which asks `time`.
sys.modules["_datetime"] = None  # type: ignore[assignment]

_NO_FILES = "a plugin has no files of its own: use swift_sdk.files, or read while the file is imported, at build time"
_NO_CLOCK = "a plugin has no clock: the same input must give the same result"
_NO_CHANCE = "a plugin has no chance of its own: use random.Random(state.seed)"
_NO_NETWORK = "a plugin has no sockets: use swift_sdk.http"
_NO_PROCESSES = "a plugin starts no processes"

# What would end the call without a word, because there is no WASI behind it: by module, and only where it was imported.
_REFUSED = {
    "builtins": (_NO_FILES, ["open"]),
    "io": (_NO_FILES, ["open", "open_code", "FileIO"]),
    "os": (_NO_FILES, ["open", "listdir", "scandir", "stat", "lstat", "mkdir", "remove", "rename", "readlink", "chdir"]),
    "random": (_NO_CHANCE, ["_urandom"]),
    "time": (
        _NO_CLOCK,
        ["time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time"]
        + ["process_time_ns", "sleep", "clock_gettime", "clock_gettime_ns"],
    ),
    "socket": (_NO_NETWORK, ["socket", "create_connection", "getaddrinfo", "gethostbyname", "gethostname"]),
    "subprocess": (_NO_PROCESSES, ["Popen", "run", "call", "check_call", "check_output"]),
}


def fallible(function: Callable[..., Any]) -> Callable[..., Any]:
    """For an export that has an error: an exception becomes its text."""

    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except BaseException as error:
            text = describe(error)
        raise Err(text)

    return call


def infallible(function: Callable[..., Any]) -> Callable[..., Any]:
    """For an export that has no error: an exception ends the call with its text."""

    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except BaseException as error:
            text = describe(error)
        log.abort(text)

    return call


class _NothingMoreToImport:
    """The last finder: a component holds what was imported when it was built, and nothing else."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> NoReturn:
        raise ImportError(
            f'"{name}" was not imported when the plugin was built; import it at the top of the file, '
            "not inside a function (a package may do so too: import the module it needs)"
        )


def seal(kinds: Sequence[str], entry: str) -> None:
    """Checks what the author's file declared, and takes away what has nothing behind it in a component, so that using it
    is an exception with a line instead of a trap without a word."""
    for kind in kinds:
        if not ENTRIES.get(kind):
            raise Failed(f"plugin.toml says `{kind}`, and {entry} declares none: write @{_DECORATORS.get(kind, kind)}")
    for kind in ENTRIES:
        if kind not in kinds:
            raise Failed(f'{entry} declares a {kind}, and `kind` in plugin.toml does not name it: add "{kind}"')
    # Where the classes of exported resources are looked for: a module named as the interface is.
    for interface in ("loaders", "templates"):
        if f"{__name__}.{interface}" in sys.modules:
            sys.modules[interface] = sys.modules[f"{__name__}.{interface}"]
    random.seed(0)
    sys.stdout, sys.stderr = log.Stream("INFO"), log.Stream("WARN")
    if "logging" in sys.modules:
        _logging_to_log(sys.modules["logging"])
    os.urandom = _refusal("os.urandom", _NO_CHANCE)
    for module, (reason, names) in _REFUSED.items():
        for name in names:
            if hasattr(sys.modules.get(module), name):
                setattr(sys.modules[module], name, _refusal(f"{module}.{name}".removeprefix("builtins."), reason))
    sys.meta_path[:] = [
        importlib.machinery.BuiltinImporter,
        importlib.machinery.FrozenImporter,
        _NothingMoreToImport,
    ]


def _refusal(name: str, reason: str) -> Callable[..., NoReturn]:
    def refused(*arguments: object, **options: object) -> NoReturn:
        raise PermissionError(f"{name}: {reason}")

    return refused


def _logging_to_log(logging: Any) -> None:
    """The standard library's logging writes to the log, and asks for no time."""

    class Handler(logging.Handler):
        def emit(self, record: Any) -> None:
            level = "ERROR" if record.levelno >= 40 else "WARN" if record.levelno >= 30 else "INFO"
            log._write(level if record.levelno >= 20 else "DEBUG", self.format(record))

    class Clock:
        time_ns = staticmethod(lambda: 0)
        time = staticmethod(lambda: 0.0)

    logging.time = Clock
    logging.root.handlers[:] = [Handler()]
    logging.lastResort = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


