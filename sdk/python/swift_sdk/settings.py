"""The user's settings of one function. A setting that nothing reads is refused by name."""

import difflib
import json
from typing import Any, Iterable, Iterator, Mapping, Optional

from .errors import Failed

_MISSING = object()
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list", dict: "an object"}


class Settings:
    """What the user set, over the defaults that the author declared.

    Declared in the decorator (`settings={"lowercase": True}`), a setting is read as `settings["lowercase"]`. A class may
    instead read with `settings.get("lowercase", True)` in its `configure`. A value must be of its default's type.
    """

    def __init__(
        self, values: Mapping[str, Any], declared: Optional[Mapping[str, Any]] = None, offered: Iterable[str] = ()
    ) -> None:
        self._values = dict(values)
        self._declared = dict(declared or {})
        self._known = {*self._declared, *offered}
        for name, default in self._declared.items():
            self._checked(name, default)

    def __getitem__(self, name: str) -> Any:
        """A setting that was declared, or one that the user has to give."""
        return self._checked(name, self._declared.get(name, _MISSING))

    def get(self, name: str, default: Any = None) -> Any:
        """What the user set, or else what was declared, or else `default`."""
        return self._checked(name, self._declared.get(name, default))

    def __contains__(self, name: str) -> bool:
        """Whether the user set it."""
        self._known.add(name)
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        """Names of all settings, for those who take any name."""
        names = sorted(set(self._values) | set(self._declared))
        self._known.update(names)
        return iter(names)

    def refuse_unknown(self, function: str) -> None:
        """Refuses what nothing read, by name. Called for you after `configure`."""
        for name in self._values:
            if name in self._known:
                continue
            near = difflib.get_close_matches(name, self._known, 1)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            known = ", ".join(sorted(self._known)) or "none"
            raise Failed(f'{function} has no setting "{name}"{hint} (its settings: {known})')

    def _checked(self, name: str, default: Any) -> Any:
        self._known.add(name)
        if name not in self._values:
            if default is _MISSING:
                raise Failed(f'the setting "{name}" is needed')
            return default
        value = self._values[name]
        if default is _MISSING or default is None:
            return value
        kind = next((kind for kind in _KINDS if isinstance(default, kind)), None)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if kind is None or (isinstance(value, kind) and (kind is bool or not isinstance(value, bool))):
            return value
        raise Failed(f'the setting "{name}" must be {_KINDS[kind]}, not {json.dumps(value, ensure_ascii=False)[:100]}')


def parse(config: str) -> dict[str, Any]:
    """The settings of a `configure` call."""
    try:
        values = json.loads(config)
    except ValueError as error:
        raise Failed(f"the settings are no JSON: {error}") from None
    if not isinstance(values, dict):
        raise Failed("the settings must be a JSON object")
    return values
