"""The guard of the admin side: its keys, and where state-changing calls may come from."""

import hmac
import time
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from flask import request
from werkzeug.exceptions import Forbidden, UnsupportedMediaType

from scheduler.errors import Unauthorized
from scheduler.gateway.ports import Event
from scheduler.web.context import services

#: Larger admin bodies are refused.
MAX_ADMIN_BODY = 1_000_000

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def has_key(authorization: str | None, keys: Sequence[bytes]) -> bool:
    """True where the header carries one of the keys, or where there are none to carry. Takes the same time for any."""
    if not keys:
        return True
    scheme, _, given = (authorization or "").partition(" ")
    # WSGI hands header bytes over as latin-1.
    given_bytes = given.strip().encode("latin-1", "replace")
    found = False
    for key in keys:
        found |= hmac.compare_digest(given_bytes, key)
    return found and scheme.lower() == "bearer"


class AdminGuard:
    """Lets an admin call pass, or raises; called before each one. `wall_clock` gives seconds since the epoch."""

    def __init__(self, wall_clock: Callable[[], float] = time.time) -> None:
        self._wall_clock = wall_clock
        self._refused_at: dict[str, float] = {}  # by address: one event a minute is enough to be seen

    def check(self) -> None:
        """Raises Unauthorized, Forbidden (another site's page) or UnsupportedMediaType."""
        request.max_content_length = MAX_ADMIN_BODY
        if not has_key(request.headers.get("Authorization"), services().admin_keys):
            self._note_refusal()
            raise Unauthorized
        if request.method not in _SAFE_METHODS:
            _check_origin()
            _check_content_type()

    def _note_refusal(self) -> None:
        now, client = self._wall_clock(), request.remote_addr or "unknown"
        if now - self._refused_at.get(client, 0.0) < 60:
            return
        if len(self._refused_at) >= 1000:
            self._refused_at.clear()
        self._refused_at[client] = now
        services().event_log.add(Event(now, "admin.refused", request.path[:200], client))


def _check_origin() -> None:
    """A browser must be on a page of ours. Others send neither header."""
    site = request.headers.get("Sec-Fetch-Site")
    origin = request.headers.get("Origin")
    if site is not None:
        is_ours = site in ("same-origin", "none")
    else:
        is_ours = origin is None or _host_and_port(origin) == _host_and_port(request.host_url)
    if not is_ours:
        raise Forbidden("State-changing calls from a browser must come from this server's own pages.")


def _host_and_port(url: str) -> tuple[str | None, int | None] | None:
    """Without the scheme: behind a proxy that ends TLS we see http where the browser sees https."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    default = _DEFAULT_PORTS.get(parts.scheme)
    return (parts.hostname, None if port == default else port) if parts.hostname else None


def _check_content_type() -> None:
    """A form of another site cannot send this type without asking first."""
    has_body = bool(request.content_length) or "Transfer-Encoding" in request.headers
    if request.mimetype != "application/json" and (has_body or request.method != "DELETE"):
        raise UnsupportedMediaType("State-changing calls need Content-Type: application/json.")
