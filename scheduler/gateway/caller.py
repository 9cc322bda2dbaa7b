"""Caller: who sends requests, by API key."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field

from scheduler.core.priority import Priority
from scheduler.errors import Unauthorized


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request, and how urgent it may be."""

    name: str | None  # of the key; None where no key is asked for
    priority: Priority = Priority.NORMAL  # where the request names none
    max_priority: Priority = Priority.CRITICAL
    key: bytes = field(default=b"", repr=False)

    def priority_for(self, asked: str | None) -> Priority:
        """The priority in force for what a request asks: without a wish the key's own, never above its highest."""
        return max(Priority.parse(asked, self.priority), self.max_priority)


#: Whoever calls where no keys are set.
ANYONE = Caller(None)


class KeyRing:
    """The keys that may call. Every key is compared, in constant time and as bytes, so that time tells nothing."""

    def __init__(self, callers: Sequence[Caller]) -> None:
        self._callers = tuple(callers)

    @property
    def is_open(self) -> bool:
        """True where no key is asked for."""
        return not self._callers

    def find(self, authorization: str | None, x_api_key: str | None) -> Caller:
        """The caller of a request by its `Authorization` or `x-api-key` header. Raises Unauthorized."""
        if not self._callers:
            return ANYONE
        key = _bearer(authorization) or x_api_key or ""
        sent = key.encode("latin-1", "replace")
        found: Caller | None = None
        for caller in self._callers:
            if hmac.compare_digest(caller.key, sent):
                found = caller
        if found is None:
            raise Unauthorized("The API key is missing or wrong: send 'Authorization: Bearer KEY' or 'x-api-key: KEY'.")
        return found


def _bearer(authorization: str | None) -> str | None:
    if authorization is None:
        return None
    scheme, _, key = authorization.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None
