"""The address of a caller, behind as many proxies as the settings trust."""

from __future__ import annotations

from typing import Any


def client_address(environ: dict[str, Any], trusted_proxies: int) -> str:
    """The address that the outermost trusted proxy saw; that of the connection where none is trusted.

    Each proxy appends the address it sees to X-Forwarded-For, so only so many entries from the right can be believed.
    """
    peer: str = environ.get("REMOTE_ADDR") or "local"
    if not trusted_proxies:
        return peer
    hops: list[str] = [hop.strip() for hop in str(environ.get("HTTP_X_FORWARDED_FOR", "")).split(",") if hop.strip()]
    if len(hops) < trusted_proxies:
        return hops[0] if hops else peer
    return hops[-trusted_proxies]
