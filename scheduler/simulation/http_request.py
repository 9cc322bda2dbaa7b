"""Request: an HTTP/1.1 request as the simulated node received it, and the strict reader of its head."""

import hashlib
import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import unquote

MAX_HEAD_BYTES = 65_536

_REQUEST_LINE = re.compile(rb"([A-Z]+) ([!-~\x80-\xff]+) HTTP/1\.([01])")
_HEADER_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_FORM_MODEL = re.compile(rb'name="?model"?[^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]*)\r\n')


class BadRequest(Exception):
    """Raised when what a peer sent is no valid HTTP/1.1 request, or its body is none the engine understands."""


@dataclass
class Request:
    """A request; `body` and `sha256` are set once the body has been read, exactly as it was received."""

    method: str
    target: str
    version: str  # "1.0" or "1.1"
    headers: list[tuple[str, str]]  # order and case as received
    body: bytes = field(default=b"", repr=False)
    sha256: str = hashlib.sha256().hexdigest()

    @cached_property
    def path(self) -> str:
        """The path without its query."""
        return self.target.partition("?")[0]

    @cached_property
    def query(self) -> dict[str, str]:
        """The query's fields; of several with one name the last."""
        pairs = (pair.partition("=") for pair in self.target.partition("?")[2].split("&") if pair)
        return {unquote(name): unquote(value) for name, _, value in pairs}

    def header(self, name: str) -> str | None:
        """The first header of that name, in any case."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), None)

    @cached_property
    def content_length(self) -> int | None:
        """Bytes of the body, None where it is chunked. Raises BadRequest for framing that is ambiguous."""
        lengths = [value for name, value in self.headers if name.lower() == "content-length"]
        codings = [value for name, value in self.headers if name.lower() == "transfer-encoding"]
        if codings:
            if lengths or [coding.strip().lower() for coding in codings] != ["chunked"]:
                raise BadRequest("Transfer-Encoding must be chunked alone, and not together with Content-Length")
            return None
        if not lengths:
            return 0
        if len(lengths) > 1 or not re.fullmatch(r"[0-9]{1,12}", lengths[0]):
            raise BadRequest("there must be one Content-Length, a plain number")
        return int(lengths[0])

    @property
    def wants_keep_alive(self) -> bool:
        """True where the connection stays open after the answer."""
        connection = (self.header("connection") or "").lower()
        return "keep-alive" in connection if self.version == "1.0" else "close" not in connection

    @cached_property
    def document(self) -> dict[str, Any]:
        """The body's JSON object; empty where the body is none."""
        try:
            document = json.loads(self.body)
        except ValueError:
            return {}
        return document if isinstance(document, dict) else {}

    @cached_property
    def model(self) -> str | None:
        """What the JSON body or the multipart form names as its model."""
        if (self.header("content-type") or "").startswith("multipart/form-data"):
            match = _FORM_MODEL.search(self.body)
            return match[1].decode("utf-8", "replace") if match else None
        model = self.document.get("model")
        return model if isinstance(model, str) else None

    @cached_property
    def tag(self) -> str | None:
        """How a test marks its requests: the header `x-test-tag`, else the body's `sim_tag`."""
        tag = self.header("x-test-tag")
        return tag if tag is not None else self.document.get("sim_tag")

    def forget_body(self) -> None:
        """Let the body go; path, model and tag stay known."""
        _ = self.model, self.tag
        self.body = b""
        self.__dict__.pop("document", None)


def parse_head(head: bytes) -> Request:
    """The request of a head, given without its final blank line. Raises BadRequest."""
    lines = head.split(b"\r\n")
    line = _REQUEST_LINE.fullmatch(lines[0])
    if line is None:
        raise BadRequest(f"malformed request line {lines[0][:80]!r}")
    headers = []
    for raw in lines[1:]:
        name, colon, value = raw.partition(b":")
        if not colon or not _HEADER_NAME.fullmatch(name) or _CONTROL.search(value):
            raise BadRequest(f"malformed header line {raw[:80]!r}")
        headers.append((name.decode("ascii"), value.strip(b" \t").decode("latin-1")))
    version = f"1.{line[3].decode()}"
    hosts = sum(name.lower() == "host" for name, _ in headers)
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        raise BadRequest("there must be one Host header")
    return Request(line[1].decode(), line[2].decode("latin-1"), version, headers)
