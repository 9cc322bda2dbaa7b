"""EngineKind: which engine a node runs, and how many requests it says it runs at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

VLLM, SGLANG, LLAMA_CPP, UNKNOWN = "vllm", "sglang", "llama.cpp", "unknown"

#: An engine's page as JSON; None where it has none.
Ask = Callable[[str], Any]

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,39}")

_VLLM_NOTE = "vLLM does not tell its limit: take its --max-num-seqs as max_concurrent, or less for long prompts."
_SGLANG_NOTE = "SGLang does not tell its limit here: take its --max-running-requests as max_concurrent."
_UNKNOWN_NOTE = "The engine is not known: take as max_concurrent what it bears at once without making callers wait."


@dataclass(frozen=True, slots=True)
class EngineKind:
    """What the engine's own pages say. `note`: what an operator must find out."""

    name: str = UNKNOWN
    version: str | None = None
    max_concurrent: int | None = None
    note: str | None = _UNKNOWN_NOTE

    @property
    def is_known(self) -> bool:
        return self.name != UNKNOWN


def recognise(owners: Iterable[str], ask: Ask) -> EngineKind:
    """The kind of engine. `owners` are the `owned_by` of its models; `ask` is called for as few pages as will do."""
    known = {owner.lower() for owner in owners}
    if VLLM in known:
        page = _object(ask("/version"))
        return EngineKind(VLLM, _version(page.get("version")), None, _VLLM_NOTE)
    if "llamacpp" in known:
        return _llama_cpp(ask) or EngineKind(LLAMA_CPP, note="llama.cpp did not tell its slots: see its --parallel.")
    if SGLANG in known:
        return _sglang(ask) or EngineKind(SGLANG, note=_SGLANG_NOTE)
    return _sglang(ask) or _llama_cpp(ask) or EngineKind()


def _llama_cpp(ask: Ask) -> EngineKind | None:
    page = _object(ask("/props"))
    slots = _count(page.get("total_slots"))
    return EngineKind(LLAMA_CPP, _version(page.get("build_info")), slots, None) if slots else None


def _sglang(ask: Ask) -> EngineKind | None:
    server = _object(ask("/get_server_info")) or _object(ask("/server_info"))
    is_sglang = "max_running_requests" in server
    if not is_sglang:
        model = _object(ask("/get_model_info")) or _object(ask("/model_info"))
        is_sglang = "model_path" in model and "is_generation" in model
    if not is_sglang:
        return None
    limit = _count(server.get("max_running_requests")) or _sglang_effective(server)
    return EngineKind(SGLANG, _version(server.get("version")), limit, None if limit else _SGLANG_NOTE)


def _sglang_effective(server: dict[str, Any]) -> int | None:
    """What SGLang has chosen by itself where nobody gave a limit: one number for each data-parallel rank."""
    states = server.get("internal_states")
    if not isinstance(states, list):
        return None
    limits = [_count(_object(state).get("effective_max_running_requests_per_dp")) for state in states]
    return sum(limit for limit in limits if limit) if limits and all(limits) else None


def _object(page: Any) -> dict[str, Any]:
    return page if isinstance(page, dict) else {}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _version(value: Any) -> str | None:
    """A version goes to terminals and pages: nothing but what versions are made of."""
    return value if isinstance(value, str) and _VERSION.fullmatch(value) else None
