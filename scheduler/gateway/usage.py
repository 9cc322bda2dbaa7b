"""UsageTap: the token counts of an answer, read from its bytes in passing."""

from __future__ import annotations

from collections import deque

import msgspec

#: Engines put `usage` behind everything else; so much of the end is kept.
TAIL_BYTES = 4096


class _Usage(msgspec.Struct):
    """OpenAI's names, and those of /v1/responses and /v1/messages."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


_decoder = msgspec.json.Decoder(_Usage)


class UsageTap:
    """Keeps the end of an answer as it passes; `counts` looks for the last `usage` that is an object."""

    __slots__ = ("_pieces",)

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque(maxlen=8)

    def see(self, piece: bytes) -> None:
        """A piece of the answer passes."""
        self._pieces.append(piece if len(piece) <= TAIL_BYTES else piece[-TAIL_BYTES:])

    def counts(self) -> tuple[int | None, int | None]:
        """(prompt tokens, completion tokens); None where the engine sent none."""
        tail = b"".join(self._pieces)
        at = len(tail)
        while (at := tail.rfind(b'"usage"', 0, at)) >= 0:
            usage = _object_after(tail, at + len(b'"usage"'))
            if usage is not None:
                prompt = usage.prompt_tokens if usage.prompt_tokens is not None else usage.input_tokens
                completion = usage.completion_tokens if usage.completion_tokens is not None else usage.output_tokens
                return prompt, completion
        return None, None


def _object_after(text: bytes, at: int) -> _Usage | None:
    """The usage object that follows a key, or None where something else does."""
    start = text.find(b"{", at)
    if start < 0 or text[at:start].strip() != b":":
        return None
    depth = 0
    for end in range(start, min(len(text), start + TAIL_BYTES)):
        if text[end] == 0x7B:
            depth += 1
        elif text[end] == 0x7D:
            depth -= 1
            if depth == 0:
                try:
                    return _decoder.decode(text[start : end + 1])
                except msgspec.MsgspecError:
                    return None
    return None
