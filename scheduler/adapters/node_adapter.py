"""NodeAdapter: a requests transport adapter that passes on what has arrived, as it arrives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from gevent import ssl
from requests import PreparedRequest, Response
from requests.adapters import BaseAdapter

from scheduler.adapters.address_book import AddressBook, Origin
from scheduler.adapters.connection_pool import ConnectionPool
from scheduler.adapters.node_connection import NodeConnection
from scheduler.adapters.response_reader import BadResponse, ResponseReader
from scheduler.errors import NodeClosed, NodeError, NodeProtocolError, NodeUnreachable, ReplyBroken


class NodeRequest(PreparedRequest):
    """A prepared request that can be aborted, in every phase, while an adapter sends it.

    `url` is the node's address with the path behind it; header names and values are sent as they are.
    """

    def __init__(self, address: str, target: str, headers: dict[str, str], body: bytes) -> None:
        super().__init__()
        self.address = address
        self.target = target  # path and query, as the engine gets them
        self.method = "POST"
        self.url = address + target
        self.headers = headers  # type: ignore[assignment]
        self.body = body
        self.connection: NodeConnection | None = None
        self.abort_error: Exception | None = None
        self.is_connected = False
        self.is_written = False

    def abort(self, error: Exception) -> None:
        """End it; whoever works on it gets `error`. The first error stays."""
        if self.abort_error is None:
            self.abort_error = error
            if self.connection is not None:
                self.connection.abort()


class NodeAdapter(BaseAdapter):
    """Sends a NodeRequest over a connection of its pool and gives a Response whose body is still to come.

    Neither redirects nor cookies nor proxies nor the environment exist here, and nothing is decoded. It has no clock:
    its caller aborts the request in time.
    """

    def __init__(self, book: AddressBook, clock: Callable[[], float], ca_file: str | None = None) -> None:
        super().__init__()
        self._book = book
        self.pool = ConnectionPool(clock)
        self._tls = _tls_context(ca_file)

    def send(  # type: ignore[override]
        self,
        request: NodeRequest,
        stream: bool = True,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> Response:
        """Connect, write, and read the head of the answer. Raises NodeError."""
        origin = self._book.origin(request.address)
        head = _request_head(request, origin)
        connection = self.pool.take(request.address)
        reader = ResponseReader()
        if connection is not None:
            try:
                return self._exchange(request, connection, reader, head)
            except (NodeUnreachable, NodeClosed):
                # A node may close an idle connection at any time: if it did so without a byte of answer, a fresh one
                # takes its place, and both count as one delivery.
                if reader.is_started or request.abort_error is not None:
                    raise
                request.is_written = request.is_connected = False
                reader = ResponseReader()
        return self._exchange(request, self._connect(request, origin), reader, head)

    def close(self) -> None:
        self.pool.close()

    def _connect(self, request: NodeRequest, origin: Origin) -> NodeConnection:
        rows = self._book.rows(origin)
        connection = request.connection = NodeConnection()
        try:
            if request.abort_error is not None:
                raise request.abort_error
            connection.open(rows, self._tls if origin.is_tls else None, origin.host)
        except OSError as error:
            connection.close()
            raise request.abort_error or NodeUnreachable(_reason(error)) from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _exchange(
        self, request: NodeRequest, connection: NodeConnection, reader: ResponseReader, head: bytes
    ) -> Response:
        request.connection = connection
        request.is_connected = True
        body = UpstreamBody(request, connection, reader, self.pool)
        try:
            if request.abort_error is not None:
                raise request.abort_error
            try:
                connection.write(head, request.body)  # type: ignore[arg-type]
            except OSError as error:
                # A node may answer and close before it has read a whole large call.
                if not body.read_what_is_there():
                    raise request.abort_error or NodeUnreachable(_reason(error)) from error
            request.is_written = True
            while not reader.is_head_complete:
                body.advance()
        except BaseException:
            body.close()
            raise
        # The node has answered, so the call is sent no more: a stream may last for an hour.
        request.body = b""
        return _response(request, reader, body)


class UpstreamBody:
    """The body of an answer: the raw object of a Response. Owns the connection until it is closed."""

    def __init__(
        self, request: NodeRequest, connection: NodeConnection, reader: ResponseReader, pool: ConnectionPool
    ) -> None:
        self._request = request
        self._connection: NodeConnection | None = connection
        self._reader = reader
        self._pool = pool
        self._has_begun = False  # a first byte of the body has been handed out

    @property
    def is_finished(self) -> bool:
        return self._reader.is_finished

    @property
    def is_framed(self) -> bool:
        return self._reader.is_framed

    @property
    def headers(self) -> list[tuple[str, str]]:
        return self._reader.headers

    @property
    def content_length(self) -> int | None:
        return self._reader.content_length

    def stream(self, amt: int | None = None, decode_content: bool | None = None) -> Iterator[bytes]:
        """Called by Response.iter_content: what has arrived, piece by piece, never decoded. Raises NodeError."""
        while piece := self.read():
            yield piece

    def read(self) -> bytes:
        """What has arrived, in one piece; b"" at the end of the body. Raises NodeError."""
        while not (piece := self._reader.take()):
            if self._reader.is_finished:
                return b""
            self.advance()
        self._has_begun = True
        return piece

    def advance(self) -> None:
        """Read once from the node. Raises NodeError."""
        connection, reader, request = self._connection, self._reader, self._request
        if connection is None:
            raise request.abort_error or ReplyBroken("the reply has been closed")
        error: OSError | None = None
        try:
            data = connection.read()
        except OSError as failure:
            data, error = b"", failure
        if request.abort_error is not None:
            raise request.abort_error
        if not data:
            self._end_of_connection(error)
            return
        try:
            reader.feed(data)
        except BadResponse as bad:
            kind: type[NodeError] = ReplyBroken if self._has_begun else NodeProtocolError
            raise kind(f"The node sent no usable answer: {bad}.") from None

    def read_what_is_there(self) -> bool:
        """After a failed write: True where the node has sent the head of an answer all the same."""
        try:
            while not self._reader.is_head_complete:
                self.advance()
        except NodeError:
            return False
        return True

    def close(self) -> None:
        """Give the connection back where the exchange has ended exactly, close it otherwise. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._request.connection = None
        reader = self._reader
        can_be_kept = reader.is_finished and reader.is_keep_alive and not reader.has_surplus
        if can_be_kept and self._request.abort_error is None:
            self._pool.give(self._request.address, connection)
        else:
            connection.close()

    release_conn = close  # what requests' Response.close calls

    def _end_of_connection(self, error: OSError | None) -> None:
        reader = self._reader
        if not reader.is_head_complete:
            raise NodeClosed("The node closed the connection before it answered.")
        if reader.is_framed or error is not None:
            if not self._has_begun:
                raise NodeClosed("The node closed the connection before the first byte of its answer.")
            raise ReplyBroken("The node closed the connection in the middle of its reply.")
        reader.is_finished = True


def _request_head(request: NodeRequest, origin: Origin) -> bytes:
    lines = [f"POST {origin.prefix}{request.target} HTTP/1.1\r\nHost: {origin.host_header}\r\n"]
    lines += [f"{name}: {value}\r\n" for name, value in request.headers.items()]
    lines.append(f"Content-Length: {len(request.body or b'')}\r\n\r\n")
    return "".join(lines).encode("latin-1")


def _response(request: NodeRequest, reader: ResponseReader, body: UpstreamBody) -> Response:
    response = Response()
    response.status_code = reader.status
    response.raw = body
    response.request = request
    response.url = request.url or ""
    return response


def _tls_context(ca_file: str | None) -> ssl.SSLContext:
    # gevent's own, which waits cooperatively whatever is patched; certificate and host name are checked by default.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca_file:
        context.load_verify_locations(ca_file)
    else:
        context.load_default_certs()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or 'handshake'})"
    return error.strerror or str(error) or type(error).__name__
