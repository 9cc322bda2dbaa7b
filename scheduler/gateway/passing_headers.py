"""Which headers pass between callers and nodes."""

from __future__ import annotations

from collections.abc import Iterable

#: They speak of one connection, not of the message (RFC 9110, 7.6.1), or are made anew on each side.
_HOP_BY_HOP = frozenset(
    [
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-authentication-info",
    ]
)
_PROXY = frozenset(
    ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto", "x-real-ip"]
)
_COOKIES = frozenset({"cookie", "set-cookie", "set-cookie2"})

#: Ours to answer or to set: keys never reach a node, and the length is counted again.
_REQUEST_OURS = frozenset(
    ["host", "content-length", "expect", "authorization", "x-api-key", "x-priority", "x-queue-timeout", "x-request-id"]
)
_RESPONSE_OURS = frozenset(["server", "date", "x-request-id", "cache-control", "x-accel-buffering"])

_NO_REQUEST = _HOP_BY_HOP | _PROXY | _COOKIES | _REQUEST_OURS
_NO_RESPONSE = _HOP_BY_HOP | _PROXY | _COOKIES


def request_headers(headers: Iterable[tuple[str, str]], connection: str | None) -> dict[str, str]:
    """Of a caller's headers, those that go to a node; `connection` is the value of `Connection`."""
    named = _named_in(connection)
    return {
        name: value
        for name, value in headers
        if (lower := name.lower()) not in _NO_REQUEST and lower not in named and not lower.startswith("x-scheduler-")
    }


def response_headers(headers: Iterable[tuple[str, str]], is_event_stream: bool) -> list[tuple[str, str]]:
    """Of a node's headers, those that go to the caller; what `Connection` names stays behind."""
    rows = list(headers)
    named = _named_in(", ".join(value for name, value in rows if name.lower() == "connection"))
    ours = _RESPONSE_OURS if is_event_stream else _RESPONSE_OURS - {"cache-control"}
    return [
        (name, value)
        for name, value in rows
        if (lower := name.lower()) not in _NO_RESPONSE
        and lower not in ours
        and lower not in named
        and not lower.startswith("x-scheduler-")
    ]


def _named_in(connection: str | None) -> frozenset[str]:
    if not connection:
        return frozenset()
    return frozenset(token.strip().lower() for token in connection.split(","))
