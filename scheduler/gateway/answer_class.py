"""AnswerClass: what a node's answer means for the request and for the node."""

from __future__ import annotations

from enum import Enum, auto

#: What engines say when they do not have a model (vLLM, SGLang, llama.cpp, Ollama).
_NO_SUCH_MODEL = (b"model_not_found", b"does not exist", b"not found", b"no such model", b"unknown model")


class AnswerClass(Enum):
    """What a node's answer means."""

    PASS = auto()  # goes to the caller
    BUSY = auto()  # the node is not ill, it has no room: another node, or later
    AUTH = auto()  # the node refuses our key: an operator has to look
    NO_SUCH_MODEL = auto()  # perhaps: the body decides
    SICK = auto()  # goes to the caller, and the node is probed
    REDIRECT = auto()  # never followed


def classify(status: int) -> AnswerClass:
    """The class of an answer by its status alone."""
    if status in (429, 503):
        return AnswerClass.BUSY
    if status in (401, 403):
        return AnswerClass.AUTH
    if status == 404:
        return AnswerClass.NO_SUCH_MODEL
    if status >= 500:
        return AnswerClass.SICK
    if 300 <= status < 400:
        return AnswerClass.REDIRECT
    return AnswerClass.PASS


def is_no_such_model(body: bytes) -> bool:
    """True where the body of a 404 speaks of the model; a path that the engine lacks is something else."""
    text = body[:4096].lower()
    return b"model" in text and any(phrase in text for phrase in _NO_SUCH_MODEL)
