"""InferenceCall: a request as the gateway passes it on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from scheduler.core.priority import Priority
from scheduler.errors import BadCall
from scheduler.gateway.multipart import form_fields

#: The longest model name that is looked up.
MAX_MODEL_CHARS = 256


@dataclass(slots=True)
class InferenceCall:
    """A request as it goes to a node: body and headers as they came, and the little that was read from them."""

    path: str
    query: str
    headers: Mapping[str, str] = field(repr=False)  # those that may pass
    body: bytes = field(repr=False)
    model: str
    stream: bool
    priority: Priority
    queue_timeout_s: float
    client_request_id: str | None
    key_name: str | None
    client: str  # address of the caller


class _Head(msgspec.Struct):
    """What is read of a JSON body; everything else is skipped, never built."""

    model: Any = msgspec.UNSET
    stream: Any = False


_decoder = msgspec.json.Decoder(_Head)

# Half a pair is good JSON, which clients write that cut texts within an emoji; msgspec refuses it. What both halves
# begin with stands first, so that the search skips what does not.
_HALF_A_PAIR = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..\\u[dD])[c-fC-F][0-9a-fA-F]{2})"
)
#: Bodies with more escapes that may be such halves are not searched: it would hold up everybody else.
MAX_PERHAPS_HALF = 200_000


def read_model(content_type: str, body: bytes) -> tuple[str, bool]:
    """The model a body names, and whether it asks for a stream. Raises BadCall."""
    if content_type.partition(";")[0].strip().lower() == "multipart/form-data":
        fields = form_fields(content_type, body, ("model", "stream"))
        model: Any = fields.get("model", msgspec.UNSET)
        stream: Any = fields.get("stream", "").lower() == "true"
    else:
        try:
            head = _read_head(body)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise BadCall(f"The body is no JSON object: {_short(error)}.", "invalid_json") from None
        model, stream = head.model, head.stream
    if model is msgspec.UNSET or model is None:
        raise BadCall("The body names no model: set 'model'.", "missing_required_parameter", "model")
    if not isinstance(model, str) or not model.strip():
        raise BadCall("'model' must be a non-empty string.", "missing_required_parameter", "model")
    if len(model) > MAX_MODEL_CHARS or not model.isprintable():
        message = f"'model' must have at most {MAX_MODEL_CHARS} printable characters."
        raise BadCall(message, "missing_required_parameter", "model")
    return model, stream is True


def _read_head(body: bytes) -> _Head:
    """What is read of a JSON body. Raises MsgspecError, RecursionError or UnicodeDecodeError."""
    if not body.isascii():
        body.decode()  # msgspec looks at the encoding of those texts only that it builds
    try:
        return _decoder.decode(body)
    except msgspec.DecodeError:
        if not 0 < body.count(b"\\ud") + body.count(b"\\uD") <= MAX_PERHAPS_HALF:
            raise
        without, found = _HALF_A_PAIR.subn(rb"\\ufffd", body)
        if not found:
            raise
        return _decoder.decode(without)


def _short(error: BaseException) -> str:
    """Why a body could not be read; msgspec's messages quote positions, not contents."""
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
