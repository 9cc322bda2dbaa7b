"""Reply: what a simulated node is going to answer, before any fault touches it."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

# A piece of a body, and whether the pause between two tokens comes before it.
Piece = tuple[bytes, bool]


@dataclass(slots=True)
class Reply:
    """Status, headers without framing, and a body in pieces. `length` None means that it is streamed in chunks."""

    status: int
    headers: list[tuple[str, str]]
    pieces: Iterable[Piece]
    length: int | None
    delay_s: float = 0.0  # before the status line
    ttft_s: float = 0.0  # between headers and body, as uvicorn-based engines do when they stream
    gap_s: float = 0.0  # before each paced piece
    is_event_stream: bool = field(default=False)

    @classmethod
    def of_bytes(cls, body: bytes, content_type: str, status: int = 200, delay_s: float = 0.0) -> "Reply":
        """A reply with a known body."""
        return cls(status, [("content-type", content_type)], [(body, False)], len(body), delay_s=delay_s)

    @classmethod
    def of_json(cls, document: Any, status: int = 200, delay_s: float = 0.0) -> "Reply":
        """A reply with a JSON body, written as FastAPI writes it."""
        body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
        return cls.of_bytes(body, "application/json", status, delay_s)

    @classmethod
    def of_error(cls, status: int, message: str, param: str | None = None, error_type: str | None = None) -> "Reply":
        """An error in the shape of vLLM."""
        error_type = error_type or reason(status).replace(" ", "") + "Error"
        error = {"message": message, "type": error_type, "param": param, "code": status}
        return cls.of_json({"error": error}, status)


def reason(status: int) -> str:
    """The phrase of a status line."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
