"""HttpForwarder: sends calls to nodes with requests, over the NodeAdapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

from requests import Response

from scheduler.adapters.address_book import AddressBook
from scheduler.adapters.node_adapter import NodeAdapter, NodeRequest, UpstreamBody
from scheduler.errors import ReplyBroken
from scheduler.gateway.ports import NodeTarget


class HttpForwarder:
    """Prepares deliveries to nodes and owns the connections to them."""

    def __init__(self, book: AddressBook, clock: Callable[[], float], ca_file: str | None = None) -> None:
        self._book = book
        self._adapter = NodeAdapter(book, clock, ca_file)

    def prepare(
        self, target: NodeTarget, path: str, query: str, headers: Mapping[str, str], body: bytes
    ) -> HttpDelivery:
        """A delivery that has not begun. `headers` are the caller's that may pass; the node's key is added here."""
        own = dict(headers)
        if target.api_key:
            own["Authorization"] = f"Bearer {target.api_key}"
        return HttpDelivery(self._adapter, NodeRequest(target.address, f"{path}?{query}" if query else path, own, body))

    def sweep(self) -> None:
        """Close connections that have been idle for too long; called every second or so."""
        self._adapter.pool.sweep()

    def forget(self, address: str) -> None:
        """Close the idle connections to an address (its node was removed or moved)."""
        self._adapter.pool.forget(address)
        self._book.forget(address)

    def close(self) -> None:
        self._adapter.close()


class HttpDelivery:
    """One call on its way to a node."""

    __slots__ = ("_adapter", "_reply", "_request")

    def __init__(self, adapter: NodeAdapter, request: NodeRequest) -> None:
        self._adapter = adapter
        self._request = request
        self._reply: HttpUpstream | None = None

    @property
    def is_connected(self) -> bool:
        return self._request.is_connected

    @property
    def is_written(self) -> bool:
        return self._request.is_written

    def send(self) -> HttpUpstream:
        """Connect, write the call, read status and headers. Raises NodeError."""
        response = self._adapter.send(self._request, stream=True)
        self._reply = HttpUpstream(response)
        return self._reply

    def abort(self, error: Exception) -> None:
        """End it now, from any greenlet: whoever connects, writes or reads gets `error` raised."""
        self._request.abort(error)

    def close(self) -> None:
        """Give the connection back, or close it. Idempotent."""
        if self._reply is not None:
            self._reply.close()


class HttpUpstream:
    """An answer of a node, headers read, body still to come."""

    __slots__ = ("_body", "_pieces", "_response", "content_length", "headers", "status")

    def __init__(self, response: Response) -> None:
        body = cast(UpstreamBody, response.raw)
        self._response = response
        self._body = body
        self._pieces: Iterator[bytes] = response.iter_content(chunk_size=None)
        self.status: int = response.status_code
        self.headers: Sequence[tuple[str, str]] = body.headers
        self.content_length = body.content_length

    @property
    def is_finished(self) -> bool:
        """True once the last byte of the body has arrived."""
        return self._body.is_finished

    @property
    def is_framed(self) -> bool:
        """False where the end of the connection is the only end of the body."""
        return self._body.is_framed

    def read(self) -> bytes:
        """What has arrived, in one piece; b"" at the end of the body. Raises NodeError."""
        piece = next(self._pieces, b"")
        if not piece and not self._body.is_finished:
            raise ReplyBroken("the reply was read on after it had broken")  # an exhausted generator looks like an end
        return piece

    def close(self) -> None:
        """Give the connection back where the body has ended, close it otherwise. Idempotent."""
        self._body.close()
