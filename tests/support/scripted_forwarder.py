"""ScriptedForwarder: a forwarder whose nodes do as they are told, and a client that may leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from gevent.event import AsyncResult

from scheduler.errors import NodeError
from scheduler.gateway.ports import NodeTarget

#: What a node does with a call: answers this status and body, or fails with this error, or is silent (None).
Behaviour = tuple[int, bytes] | NodeError | None


class ScriptedForwarder:
    """Nodes behave as `behaviour[id]` says, else they answer 200. `delivered` keeps who got a call, in order."""

    def __init__(self) -> None:
        self.behaviour: dict[str, Behaviour | Callable[[], Behaviour]] = {}
        self.delivered: list[str] = []
        self.silent: list[ScriptedDelivery] = []

    def prepare(
        self, target: NodeTarget, path: str, query: str, headers: Mapping[str, str], body: bytes
    ) -> ScriptedDelivery:
        return ScriptedDelivery(self, target.id)

    def forget(self, address: str) -> None:
        pass


class ScriptedDelivery:
    """One call on its way."""

    is_connected = is_written = True

    def __init__(self, forwarder: ScriptedForwarder, node_id: str) -> None:
        self._forwarder = forwarder
        self._node_id = node_id
        self._aborted: AsyncResult[None] = AsyncResult()

    def send(self) -> ScriptedUpstream:
        self._forwarder.delivered.append(self._node_id)
        behaviour = self._forwarder.behaviour.get(self._node_id, (200, b"{}"))
        if callable(behaviour):
            behaviour = behaviour()
        if behaviour is None:
            self._forwarder.silent.append(self)
            self._aborted.get()
        if isinstance(behaviour, NodeError):
            raise behaviour
        assert behaviour is not None
        return ScriptedUpstream(*behaviour)

    def abort(self, error: Exception) -> None:
        if not self._aborted.ready():
            self._aborted.set_exception(error)

    def close(self) -> None:
        pass


class ScriptedUpstream:
    """An answer in one piece."""

    headers: Sequence[tuple[str, str]] = (("Content-Type", "application/json"),)
    is_framed = True

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self.content_length = len(body)
        self._body = body

    @property
    def is_finished(self) -> bool:
        return not self._body

    def read(self) -> bytes:
        body, self._body = self._body, b""
        return body

    def close(self) -> None:
        pass


class ScriptedClient:
    """A caller's connection; `leave` is the caller closing it."""

    def __init__(self) -> None:
        self.leave: Callable[[], None] = lambda: None

    def watch(self, on_gone: Callable[[], None]) -> None:
        self.leave = on_gone

    def unwatch(self) -> None:
        self.leave = lambda: None

    def progress(self) -> int:
        return 0

    def reset_on_close(self) -> None:
        pass

    def cut(self) -> None:
        pass
