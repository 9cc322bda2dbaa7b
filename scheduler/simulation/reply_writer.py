"""ReplyWriter: puts a reply on the wire, with whatever faults hit it."""

import time
import zlib
from collections.abc import Iterable, Iterator
from enum import Enum

import gevent

from scheduler.simulation.connection import Connection
from scheduler.simulation.faults import Fault, Hits, is_breaking
from scheduler.simulation.reply import Piece, Reply, reason

_BREATHE_PIECES = 32  # after so many pieces without a pause the other connections get a turn
_LENGTH_LIES = ("duplicate_length", "negative_length")


class CutShort(Exception):
    """Raised when a fault ends the connection; `reset` says with RST instead of FIN."""

    def __init__(self, reset: bool) -> None:
        super().__init__()
        self.reset = reset


class Framing(Enum):
    """How the end of a body is known."""

    LENGTH = "content-length"
    CHUNKED = "chunked"
    CONNECTION = "end of connection"


class ReplyWriter:
    """Writes one reply. Raises CutShort, PeerGone, OSError."""

    def __init__(self, connection: Connection, hits: Hits, keep_alive: bool = True, version: str = "1.1") -> None:
        self._connection = connection
        self._hits = hits
        self._version = version
        self._framing = Framing.LENGTH
        self.keeps_connection = keep_alive
        self.status: int | None = None

    def write(self, reply: Reply, *, is_head: bool = False) -> None:
        """Write it to its last byte."""
        self._break("headers")
        self._interim()
        reply = self._changed(reply)
        if reply.delay_s > 0:
            gevent.sleep(reply.delay_s)
        garbage = self._hits.of("garbage")
        if garbage is not None:
            self._connection.send(garbage["data"].encode("latin-1"))
            if garbage["hold"]:
                self._connection.wait(None)
            raise CutShort(reset=False)
        self.status = reply.status
        head = self._head(reply)
        if is_head:
            self._send(head, "head")
            return
        if self._framing is Framing.LENGTH and not self._hits and isinstance(reply.pieces, list):
            # Nothing is going to happen between the parts, so that they may leave together.
            self._connection.send(head + reply.pieces[0][0] if reply.pieces else head)
            self._write_pieces(reply.pieces[1:], reply.gap_s)
            return
        self._send(head, "head")
        self._break("body")
        if reply.ttft_s > 0:
            gevent.sleep(reply.ttft_s)
        self._write_pieces(reply.pieces, reply.gap_s)
        if self._framing is Framing.CHUNKED:
            extra = self._hits.of("extra_bytes", ms=0)
            self._send(b"0\r\n\r\n" + (extra["data"].encode("latin-1") if extra else b""), "body")
        if self._hits.of("short_body"):
            raise CutShort(reset=False)

    def afterwards(self) -> None:
        """What the faults do to the connection once the answer has ended."""
        extra = self._hits.of("extra_bytes")
        if extra is not None and extra["ms"]:
            self._connection.wait(extra["ms"] / 1000)
            self._connection.send(extra["data"].encode("latin-1"))
        close_after = self._hits.of("close_after")
        if close_after is not None:
            self._connection.wait(close_after["ms"] / 1000)
            self.keeps_connection = False

    # -- the reply --------------------------------------------------------------------------------

    def _changed(self, reply: Reply) -> Reply:
        for kind in ("status", "probe_status"):
            if fault := self._hits.of(kind):
                reply = status_reply(fault, reply)
        if fault := self._hits.of("redirect"):
            headers = [("location", fault["location"])]
            reply = Reply(fault["status"], headers, [], 0)
        if fault := self._hits.of("set_cookie"):
            reply.headers.append(("set-cookie", fault["value"]))
        eof_framed = self._hits.of("eof_framed")
        if reply.is_event_stream and (self._hits.of("no_done") or (eof_framed and not eof_framed["done"])):
            reply.pieces = (piece for piece in reply.pieces if piece[0] != b"data: [DONE]\n\n")
        if self._hits.of("compressed"):
            reply = compressed(reply)
        self._frame(reply)
        return reply

    def _frame(self, reply: Reply) -> None:
        if self._hits.of("short_body") or any(self._hits.of("bad_headers", variant=lie) for lie in _LENGTH_LIES):
            _measure(reply)
        chunked = (
            reply.length is None or self._hits.of("bad_chunk") or self._hits.of("bad_headers", variant="cl_and_te")
        )
        if self._hits.of("eof_framed") or (chunked and self._version == "1.0"):
            self._framing, self.keeps_connection = Framing.CONNECTION, False
        else:
            self._framing = Framing.CHUNKED if chunked else Framing.LENGTH
        extra = self._hits.of("extra_bytes", ms=0)
        if extra is not None and self._framing is Framing.LENGTH:
            # In one piece with the body, so that a reader finds both together.
            reply.pieces = [(_joined(reply.pieces) + extra["data"].encode("latin-1"), False)]
        if any(_is_in_stream(fault) for fault in self._hits):
            reply.pieces = _halved(reply.pieces)

    def _head(self, reply: Reply) -> bytes:
        lines = [f"HTTP/1.1 {reply.status} {reason(reply.status)}", "server: simulate-node"]
        lines += [f"{name}: {value}" for name, value in reply.headers]
        if self._framing is Framing.LENGTH:
            short = self._hits.of("short_body")
            lines.append(f"content-length: {(reply.length or 0) + (short['missing'] if short else 0)}")
        elif self._framing is Framing.CHUNKED:
            lines.append("transfer-encoding: chunked")
        if not self.keeps_connection:
            lines.append("connection: close")
        if bad := self._hits.of("bad_headers"):
            lines = _spoilt(lines, bad, reply.length)
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    # -- the body ---------------------------------------------------------------------------------

    def _write_pieces(self, pieces: Iterable[Piece], gap_s: float) -> None:
        due_s = time.monotonic()
        sent = 0
        for data, is_paced in pieces:
            if is_paced and gap_s > 0:
                # Against the beginning, not the last piece: otherwise each delay would slow the whole stream down.
                due_s += gap_s
                pause_s = due_s - time.monotonic()
            else:
                pause_s = 0.0
            if pause_s > 0:
                gevent.sleep(pause_s)
            elif sent % _BREATHE_PIECES == _BREATHE_PIECES - 1:
                gevent.sleep(0)
            if self._hits:
                self._happen(sent, data)
                self._send(self._framed(data), "body")
            else:
                self._connection.send(self._framed(data))
            sent += 1
        if self._hits:
            self._happen(sent, b"", at_end=True)

    def _framed(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self._framing is Framing.CHUNKED and data else data

    def _happen(self, sent: int, following: bytes, *, at_end: bool = False) -> None:
        for fault in self._hits:
            if not _is_in_stream(fault):
                continue
            if fault["after_chunks"] != sent and not (at_end and fault["after_chunks"] > sent):
                continue
            if fault.kind == "inject":
                self._send(self._framed(fault["data"].encode()), "body")
            elif fault.kind == "bad_chunk":
                self._send(fault["size"].encode("latin-1") + b"\r\nnonsense\r\n", "body")
                raise CutShort(reset=False)
            else:
                if fault["partial_bytes"]:
                    self._send(self._framed(following[: fault["partial_bytes"]]), "body")
                self._suffer(fault)

    # -- faults -----------------------------------------------------------------------------------

    def _interim(self) -> None:
        fault = self._hits.of("interim")
        for status in fault["statuses"] if fault else ():
            link = "link: </style.css>; rel=preload\r\n" if status == 103 else ""
            self._connection.send(f"HTTP/1.1 {status} {reason(status)}\r\n{link}\r\n".encode("latin-1"))
            if fault and fault["ms"]:
                gevent.sleep(fault["ms"] / 1000)

    def _break(self, phase: str) -> None:
        for fault in self._hits:
            if is_breaking(fault) and fault["phase"] == phase:
                self._suffer(fault)

    def _suffer(self, fault: Fault) -> None:
        suffer(self._connection, fault)

    def _send(self, data: bytes, part: str) -> None:
        drip = self._hits.of("drip", part=part)
        if drip is None:
            self._connection.send(data)
            return
        for at in range(0, len(data), drip["bytes"]):
            gevent.sleep(drip["ms"] / 1000)
            self._connection.send(data[at : at + drip["bytes"]])


def suffer(connection: Connection, fault: Fault) -> None:
    """Go silent (`hang`, until the peer leaves unless the fault says for how long) or raise CutShort."""
    if fault.kind != "hang":
        raise CutShort(reset=fault.kind == "reset")
    connection.wait(None if fault["ms"] is None else fault["ms"] / 1000)


def status_reply(fault: Fault, instead_of: Reply | None = None) -> Reply:
    """What an engine answers that fails with that status."""
    body = fault.params.get("body")
    if body is None:
        reply = Reply.of_error(fault["status"], fault["message"])
    elif isinstance(body, str):
        reply = Reply.of_bytes(body.encode(), "text/plain; charset=utf-8", fault["status"])
    else:
        reply = Reply.of_json(body, fault["status"])
    given = fault.params.get("headers") or {}
    reply.headers = [pair for pair in reply.headers if pair[0] not in {name.lower() for name in given}]
    reply.headers += [(name, str(value)) for name, value in given.items()]
    if instead_of is not None:
        reply.headers += [pair for pair in instead_of.headers if pair[0].startswith("x-sim-")]
    reply.delay_s = fault.params.get("ms", 0) / 1000
    return reply


def compressed(reply: Reply) -> Reply:
    """The reply with gzip, each piece of a stream flushed by itself."""
    packer = zlib.compressobj(wbits=31)

    def packed(pieces: Iterable[Piece]) -> Iterator[Piece]:
        for data, is_paced in pieces:
            yield packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH), is_paced
        yield packer.flush(), False

    reply.headers.append(("content-encoding", "gzip"))
    reply.pieces = packed(reply.pieces)
    if reply.length is not None:
        _measure(reply)
    return reply


def _is_in_stream(fault: Fault) -> bool:
    return fault.kind in ("inject", "bad_chunk") or fault.params.get("phase") == "stream"


def _joined(pieces: Iterable[Piece]) -> bytes:
    return b"".join(data for data, _ in pieces)


def _measure(reply: Reply) -> None:
    reply.pieces = list(reply.pieces)
    reply.length = sum(len(data) for data, _ in reply.pieces)


def _halved(pieces: Iterable[Piece]) -> Iterable[Piece]:
    """A body that is one piece as two, so that something can happen in its middle."""
    if not isinstance(pieces, list) or len(pieces) != 1:
        return pieces
    data, is_paced = pieces[0]
    return [(data[: len(data) // 2], is_paced), (data[len(data) // 2 :], False)]


def _spoilt(lines: list[str], bad: Fault, length: int | None) -> list[str]:
    added = {
        "control_char": ["x-bad: a\x01b"],
        "bare_cr": ["x-bad: a\rb"],
        "cl_and_te": [f"content-length: {length or 5}"],
        "many": [f"x-many-{at}: {at}" for at in range(bad["count"])],
        "huge": ["x-huge: " + "h" * bad["bytes"]],
        "duplicate_length": [f"content-length: {(length or 0) + 5}"],
        "negative_length": [],
        "te_unknown": ["transfer-encoding: gzip"],
        "no_colon": ["this line has no colon"],
        "obs_fold": ["x-folded: a", " b"],
    }[bad["variant"]]
    if bad["variant"] in ("negative_length", "te_unknown"):
        lines = [line for line in lines if not line.startswith(("content-length:", "transfer-encoding:"))]
    return [*lines, *added, *(["content-length: -1"] if bad["variant"] == "negative_length" else [])]
