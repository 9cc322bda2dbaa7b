"""Fault: one way in which a simulated node misbehaves on command; FaultList: those in force."""

from dataclasses import dataclass, field
from itertools import count
from typing import Any

from scheduler.simulation.http_request import Request

# When the connection is ended or goes silent.
PHASES = ("accept", "head", "headers", "body", "stream")
_ALIASES = {"connect": "accept", "read": "headers"}
_BREAK: dict[str, Any] = {"phase": "headers", "after_chunks": 1, "partial_bytes": 0}

# Every kind with its own parameters and their defaults; README.md says what they mean.
KINDS: dict[str, dict[str, Any]] = {
    "reset": _BREAK,
    "close": _BREAK,
    "hang": {**_BREAK, "ms": None},
    "status": {"status": 503, "headers": {}, "body": None, "message": "simulated failure", "ms": 0},
    "redirect": {"status": 307, "location": "http://127.0.0.1:9/elsewhere"},
    "short_body": {"missing": 10},
    "drip": {"part": "body", "ms": 10, "bytes": 1},
    "garbage": {"data": "\x16\x03\x01 this is not HTTP\r\n\r\n", "hold": False},
    "interim": {"statuses": [103], "ms": 0},
    "bad_headers": {"variant": "control_char", "count": 200, "bytes": 100_000},
    "bad_chunk": {"after_chunks": 1, "size": "XYZ"},
    "eof_framed": {"done": True},
    "no_done": {},
    "inject": {"after_chunks": 1, "data": 'data: {"error": {"message": "engine failed", "code": 500}}\n\n'},
    "extra_bytes": {"data": "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nextra", "ms": 0},
    "close_after": {"ms": 0},
    "compressed": {},
    "early_status": {"status": 413, "message": "too large", "linger_ms": 1000},
    "set_cookie": {"value": "session=simulated; Path=/"},
    "slow_probe": {"ms": 1000},
    "probe_status": {"status": 503, "headers": {}, "body": None, "message": "simulated failure"},
    "refuse": {},
}
BAD_HEADERS = (
    "control_char",
    "bare_cr",
    "cl_and_te",
    "many",
    "huge",
    "duplicate_length",
    "negative_length",
    "te_unknown",
    "no_colon",
    "obs_fold",
)
_COMMON: dict[str, Any] = {"times": None, "path": None, "model": None, "match": None}
_BREAKING = ("reset", "close", "hang")


class BadFault(ValueError):
    """Raised for a fault that nobody can understand."""


@dataclass(slots=True)
class Fault:
    """A fault in force; `times` is how many more requests it hits (None: all), `hits` how many it has hit."""

    id: int
    kind: str
    times: int | None
    path: str | None
    model: str | None
    match: str | None
    params: dict[str, Any] = field(default_factory=dict)
    hits: int = 0

    def __getitem__(self, param: str) -> Any:
        return self.params[param]

    @property
    def stage(self) -> str:
        """When it is looked for: accept, head (of a request), probe, or request (read completely)."""
        if self.kind == "early_status":
            return "head"
        if self.kind in ("slow_probe", "probe_status"):
            return "probe"
        phase = self.params.get("phase")
        return phase if phase in ("accept", "head") else "request"

    def can_hit(self, request: Request | None) -> bool:
        """True where the filters fit. Without a `path` a fault hits inference requests only, never probes."""
        if request is None:
            return True
        if self.path is not None:
            if request.path != self.path:
                return False
        elif self.stage != "probe" and request.method != "POST":
            return False
        if self.stage in ("head", "probe"):
            return True
        if self.model is not None and request.model != self.model:
            return False
        return self.match is None or self.match.encode() in request.body

    def told(self) -> dict[str, Any]:
        """The fault as JSON."""
        names = ("id", "kind", "times", "path", "model", "match", "hits")
        return {**{name: getattr(self, name) for name in names}, **self.params}


class Hits(list[Fault]):
    """The faults that hit one request."""

    def of(self, kind: str, **params: Any) -> Fault | None:
        """The fault of that kind whose parameters are so, if any."""
        for fault in self:
            if fault.kind == kind and all(fault.params.get(name) == value for name, value in params.items()):
                return fault
        return None


class FaultList:
    """The faults in force, oldest first; of several of one kind and phase the oldest that fits hits."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._ids = count(1)

    def __repr__(self) -> str:
        return f"<FaultList {' '.join(fault.kind for fault in self._faults)}>"

    def add(self, described: dict[str, Any]) -> Fault:
        """Put a fault in force. Raises BadFault."""
        given = dict(described)
        kind = given.pop("kind", None)
        if kind not in KINDS:
            raise BadFault(f"unknown kind {kind!r}; known: {', '.join(sorted(KINDS))}")
        common = {name: given.pop(name, default) for name, default in _COMMON.items()}
        params = dict(KINDS[kind])
        unknown = sorted(set(given) - set(params))
        if unknown:
            raise BadFault(f"{kind} has no parameter {', '.join(unknown)}; known: {', '.join([*params, *_COMMON])}")
        params.update(given)
        if "phase" in params:
            params["phase"] = _ALIASES.get(params["phase"], params["phase"])
            if params["phase"] not in PHASES:
                raise BadFault(f"{kind}: phase must be one of {', '.join(PHASES)}")
        if kind == "bad_headers" and params["variant"] not in BAD_HEADERS:
            raise BadFault(f"bad_headers: variant must be one of {', '.join(BAD_HEADERS)}")
        fault = Fault(next(self._ids), kind, **common, params=params)
        if kind != "refuse":
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """End all faults; requests that they have hit stay hit."""
        self._faults.clear()

    def told(self) -> list[dict[str, Any]]:
        """All faults as JSON."""
        return [fault.told() for fault in self._faults]

    def take(self, stage: str, request: Request | None = None) -> Hits:
        """The faults that hit now, counted as hits."""
        hits = Hits()
        if not self._faults:
            return hits
        seen = set()
        for fault in self._faults:
            key = (fault.kind, fault.params.get("phase"))
            if fault.stage != stage or key in seen or fault.times == 0 or not fault.can_hit(request):
                continue
            seen.add(key)
            fault.hits += 1
            if fault.times is not None:
                fault.times -= 1
            hits.append(fault)
        return hits


def is_breaking(fault: Fault) -> bool:
    """True for the kinds that have a phase."""
    return fault.kind in _BREAKING
