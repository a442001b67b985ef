"""HTTP to hosts that the user granted. Needs `net = ["api.example.com"]` under `[capabilities]` of plugin.toml.

Any answer is a `Response`, whatever its status; where there was none, a `ConnectionError` says why. Redirects are not
followed. Outside of a component there is no HTTP: test with a function of your own in its place.
"""

import json as _json
from dataclasses import dataclass
from typing import Any, Mapping, Optional, Union

try:
    from wit_world.imports import http as _host
except ImportError:
    _host = None


@dataclass
class Response:
    """An answer."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def text(self) -> str:
        """The body as UTF-8; what is none becomes the replacement character."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON."""
        return _json.loads(self.body)


def send(
    method: str,
    url: str,
    *,
    headers: Union[Mapping[str, str], list[tuple[str, str]], None] = None,
    body: Optional[bytes] = None,
    json: Any = None,
    timeout: float = 30.0,
) -> Response:
    """Sends a request; `json` is a value to send instead of a `body`; `timeout` is in seconds."""
    if _host is None:
        raise ConnectionError("there is no HTTP here: plugin.toml needs `net = [\"HOST\"]` under [capabilities]")
    pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers or [])
    if json is not None:
        body = _json.dumps(json, ensure_ascii=False).encode()
        pairs.append(("content-type", "application/json"))
    request = _host.Request(method, url, pairs, body or b"", max(1, round(timeout * 1000)))
    try:
        answer = _host.send(request)
    except Exception as error:
        if not hasattr(error, "value"):
            raise
        raise ConnectionError(error.value) from None
    return Response(answer.status, answer.headers, answer.body)


def get(url: str, **options: Any) -> Response:
    """A GET request."""
    return send("GET", url, **options)


def post(url: str, **options: Any) -> Response:
    """A POST request."""
    return send("POST", url, **options)
