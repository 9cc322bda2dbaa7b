"""AddressBook: where the hosts of the nodes are, without asking DNS on the hot path."""

from __future__ import annotations

import ipaddress
import logging
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from gevent import socket

from scheduler.errors import NodeUnreachable

log = logging.getLogger(__name__)

#: A getaddrinfo row: family, type, protocol, canonical name, socket address.
AddressRow = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """A node address taken apart, once."""

    is_tls: bool
    host: str
    port: int
    prefix: str  # path before the engine's own, without a trailing slash
    host_header: str

    @classmethod
    def parse(cls, address: str) -> Origin:
        parts = urlsplit(address)
        is_tls = parts.scheme == "https"
        host = parts.hostname or ""
        port = parts.port or (443 if is_tls else 80)
        shown = f"[{host}]" if ":" in host else host
        host_header = shown if parts.port is None else f"{shown}:{parts.port}"
        return cls(is_tls, host, port, parts.path.rstrip("/"), host_header)


class AddressBook:
    """Origins and socket addresses by node address. `refresh` asks DNS; the hot path reads what it found.

    `refresh_names` is called now and then, so that a node may move behind its name.
    """

    def __init__(self) -> None:
        self._origins: dict[str, Origin] = {}
        self._rows: dict[tuple[str, int], list[AddressRow]] = {}

    def origin(self, address: str) -> Origin:
        """A node address taken apart."""
        origin = self._origins.get(address)
        if origin is None:
            origin = self._origins[address] = Origin.parse(address)
        return origin

    def rows(self, origin: Origin) -> list[AddressRow]:
        """Where to connect to. Asks DNS only where nobody has yet. Raises NodeUnreachable."""
        return self._rows.get((origin.host, origin.port)) or self.refresh(origin)

    def refresh(self, origin: Origin) -> list[AddressRow]:
        """Look the host up again; called by the health checks. What was found before stays where this fails."""
        try:
            rows: list[AddressRow] = socket.getaddrinfo(origin.host, origin.port, 0, socket.SOCK_STREAM)
        except OSError as error:
            raise NodeUnreachable(f"the name {origin.host} was not found ({error})") from error
        rows = [row for row in rows if not _is_refused(row[4][0])]
        if not rows:
            raise NodeUnreachable(f"the name {origin.host} leads to no address that may be used")
        self._rows[origin.host, origin.port] = rows
        return rows

    def refresh_names(self) -> None:
        """Look every name in use up again."""
        for origin in [origin for origin in self._origins.values() if not _is_literal(origin.host)]:
            try:
                self.refresh(origin)
            except NodeUnreachable as error:
                log.warning("what was known of it stays in use: %s", error)

    def forget(self, address: str) -> None:
        """Forget a node address that is no longer used."""
        origin = self._origins.pop(address, None)
        if origin is not None:
            self._rows.pop((origin.host, origin.port), None)


def _is_literal(host: str) -> bool:
    """True for an address in digits, which leads nowhere else."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_refused(text: str) -> bool:
    """True for addresses that no node can have: link-local (clouds keep secrets there), multicast, unspecified."""
    ip = ipaddress.ip_address(text.split("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    ip = mapped or ip
    return ip.is_link_local or ip.is_multicast or ip.is_unspecified
