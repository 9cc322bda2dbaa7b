"""GeneratedText: the text one request gets, whole or as server-sent events."""

import json
import re
import time
from collections.abc import Iterator
from typing import Any

from scheduler.simulation.http_request import BadRequest, Request
from scheduler.simulation.reply import Piece
from scheduler.simulation.settings import SimulationSettings


class GeneratedText:
    """The text one request gets, whole or as events. Durations are seconds."""

    def __init__(self, request: Request, n: int, settings: SimulationSettings) -> None:
        self._request = request
        self._model = request.model or settings.models[0]
        self._is_chat = request.path.endswith("/chat/completions")
        self._id = f"chatcmpl-sim-{n}" if self._is_chat else f"cmpl-sim-{n}"
        self._prompt_tokens = prompt_tokens(request)
        wanted = number(request, "max_tokens", settings.tokens)
        self.tokens = max(1, int(number(request, "max_completion_tokens", wanted)))
        self.ttft_s = number(request, "sim_ttft_ms", settings.ttft_s * 1000) / 1000
        self.gap_s = number(request, "sim_gap_ms", settings.gap_s * 1000) / 1000
        self._bytes = int(number(request, "sim_bytes", 0))
        self.is_stream = request.document.get("stream") is True

    def document(self) -> bytes:
        """The whole answer as JSON; with `sim_bytes` exactly so long, as far as its frame allows."""
        mark = "\x00"
        text = "".join(f"t{at} " for at in range(self.tokens))
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": "length"}
        if self._is_chat:
            choice["message"] = {"role": "assistant", "content": mark}
        else:
            choice["text"] = mark
        document = {
            "id": self._id,
            "object": "chat.completion" if self._is_chat else "text_completion",
            "created": int(time.time()),
            "model": self._model,
            "choices": [choice],
            "usage": usage(self._prompt_tokens, self.tokens),
        }
        frame = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        before, _, after = frame.partition("\\u0000")
        if self._bytes:
            text = "x" * max(0, self._bytes - len(before.encode()) - len(after.encode()))
        return f"{before}{text}{after}".encode()

    def events(self) -> Iterator[Piece]:
        """The answer as server-sent events, a token each; with `sim_bytes` their texts add up to so many bytes."""
        if self._is_chat:
            yield self._event({"role": "assistant", "content": ""}, None), False
        mark = "\x00"
        before, _, after = self._event({"content": mark}, None).partition(b"\\u0000")
        for at in range(self.tokens):
            if self._bytes:
                text = b"x" * (self._bytes * (at + 1) // self.tokens - self._bytes * at // self.tokens)
            else:
                text = b"t%d " % at
            yield before + text + after, at > 0
        yield self._event({}, "length"), False
        options = self._request.document.get("stream_options") or {}
        if options.get("include_usage"):
            yield self._frame([], usage(self._prompt_tokens, self.tokens)), False
        yield b"data: [DONE]\n\n", False

    def _event(self, delta: dict[str, Any], finish_reason: str | None) -> bytes:
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": finish_reason}
        if self._is_chat:
            choice["delta"] = delta
        else:
            choice["text"] = delta.get("content", "")
        return self._frame([choice], None)

    def _frame(self, choices: list[Any], counts: dict[str, int] | None) -> bytes:
        document: dict[str, Any] = {
            "id": self._id,
            "object": "chat.completion.chunk" if self._is_chat else "text_completion",
            "created": int(time.time()),
            "model": self._model,
            "choices": choices,
        }
        if counts is not None:
            document["usage"] = counts
        return b"data: " + json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def number(request: Request, name: str, default: float) -> float:
    """A field of the body that is a number of 0 or more. Raises BadRequest."""
    value = request.document.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise BadRequest(f"{name} must be a number of 0 or more")
    return value


def listed(value: Any) -> list[Any]:
    """A value, or many, as a list."""
    return value if isinstance(value, list) else [value]


def words(value: Any) -> int:
    """How many tokens a text is said to have."""
    return max(1, len(re.findall(r"\S+", value if isinstance(value, str) else json.dumps(value))))


def prompt_tokens(request: Request) -> int:
    """How many tokens the prompt or the messages are said to have."""
    document = request.document
    return sum(words(item) for item in listed(document.get("messages") or document.get("prompt") or ""))


def usage(prompted: int, completed: int) -> dict[str, int]:
    """The `usage` object."""
    return {"prompt_tokens": prompted, "total_tokens": prompted + completed, "completion_tokens": completed}
