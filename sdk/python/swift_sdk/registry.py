"""What the author's file declared: kind, name, and the function or class."""

import inspect
import re
from dataclasses import dataclass, field
from typing import Any, Callable, Mapping, Optional

from .errors import Failed
from .settings import Settings

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\Z")


@dataclass
class Entry:
    """One declared function of a kind."""

    name: str
    summary: str
    #: The author's function or class, as it stands in the file.
    target: Any
    settings: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_class(self) -> bool:
        """Whether the author wrote a class."""
        return inspect.isclass(self.target)

    def object(self, values: Mapping[str, Any], offered: tuple[str, ...] = ()) -> tuple[Any, Settings]:
        """An object of the author's class that was configured (or the function), and the settings. Each of them is known,
        or `offered`: not set by the user, so nothing needs to read it."""
        settings = Settings(values, self.settings, offered)
        made = self.target
        if self.is_class:
            made = self.target()
            if hasattr(made, "configure"):
                made.configure(settings)
        settings.refuse_unknown(self.name)
        return made, settings


#: By kind ("reward", ...), in the order of the file.
ENTRIES: dict[str, dict[str, Entry]] = {}


def declare(
    kind: str, name: str, summary: str, settings: Optional[Mapping[str, Any]], methods: tuple[str, ...], **extra: Any
) -> Callable[[Any], Any]:
    """The decorator of a kind; `methods` are what a class must have, the first being enough where one is."""
    if not isinstance(name, str):
        raise TypeError(f'@{kind} needs a name: @{kind}("my_{kind}")')
    if not _NAME.match(name):
        raise ValueError(f'@{kind}("{name}"): a name has lower case letters, digits, "_" and "-"')

    def keep(target: Any) -> Any:
        if inspect.isclass(target):
            missing = [method for method in methods if not any(hasattr(target, one) for one in method.split("|"))]
            if missing:
                raise TypeError(f"the {kind} class {target.__name__} lacks {missing[0].replace('|', ' or ')}")
        elif not callable(target):
            raise TypeError(f"@{kind} stands before a function or a class")
        entries = ENTRIES.setdefault(kind, {})
        if name in entries:
            raise ValueError(f'there are two {kind} functions named "{name}"')
        entries[name] = Entry(name, summary, target, dict(settings or {}), extra)
        return target

    return keep


def find(kind: str, name: str) -> Entry:
    """The entry of this name."""
    entries = ENTRIES.get(kind, {})
    if name not in entries:
        raise Failed(f'this plugin has no {kind} "{name}"; it has {", ".join(entries)}')
    return entries[name]


def call_with(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Callable[..., Any]:
    """Calls `function` with as many of the arguments as it takes: `score(sample)`, `score(sample, state)`, ..."""
    parameters = inspect.signature(function).parameters.values()
    if any(one.kind is one.VAR_POSITIONAL for one in parameters):
        return function
    taken = sum(one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) for one in parameters)
    if taken >= len(arguments):
        return function
    return lambda *given: function(*given[:taken])
