"""Recorded arrivals: what came once, read from the records of `GET /admin/requests`."""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any

from scheduler.capacity.arrivals import Arrival, ServiceTime
from scheduler.core.priority import Priority

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Recording:
    """Arrivals in order of time, and for how many of them the service time had to be guessed."""

    arrivals: tuple[Arrival, ...]
    guessed: int


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one record tells; `service_s` is None where the request never ran to an end."""

    created_at_s: float
    model: str
    priority: Priority
    service_s: float | None
    left_after_s: float | None


def read_records(text: str) -> list[Record]:
    """The records in a page of `GET /admin/requests`, in a JSON list of records, or in CSV with a header line.

    Raises ValueError where it is none of these.
    """
    if not text.lstrip("\ufeff \t\r\n").startswith(("{", "[")):
        return list(csv.DictReader(io.StringIO(text.lstrip("\ufeff"))))
    content = json.loads(text.lstrip("\ufeff"))
    records = content.get("requests") if isinstance(content, dict) else content
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ValueError('holds no records; it must be like the answer of GET /admin/requests: {"requests": [...]}')
    return records


def recorded_arrivals(
    records: Iterable[Record],
    *,
    queue_timeout_s: float,
    seed: int,
    scale: float = 1.0,
    fallback: ServiceTime | None = None,
    gives_up_after_s: float | None = None,
) -> Recording:
    """The recorded requests as arrivals; the first comes at 0 s, and `scale` 2 lets them come twice as fast.

    The service time is latency - queue. Requests that got no slot then, or still run, would take one here: they get
    the service time of another request of their model, drawn at random, else `fallback`. A client that left while its
    request was waiting leaves here after the same time, and all others after `gives_up_after_s`. A record that stands
    there twice, as on pages that overlap, counts once. Raises ValueError for a record that cannot be read.
    """
    seen = []
    ids = set()
    for number, record in enumerate(records, 1):
        try:
            if record.get("id") in ids:
                continue
            seen.append(_read(record))
        except (KeyError, TypeError, ValueError) as error:
            said = f"has no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"record {number}: {said}") from None
        if record.get("id"):
            ids.add(record["id"])
    seen.sort(key=lambda one: one.created_at_s)
    known: dict[str, list[float]] = {}
    for one in seen:
        if one.service_s is not None:
            known.setdefault(one.model, []).append(one.service_s)
    random = Random(seed)
    arrivals = []
    guessed = 0
    for one in seen:
        service_s = one.service_s
        if service_s is None:
            guessed += 1
            service_s = _guess(one.model, known, fallback, random)
        at_s = (one.created_at_s - seen[0].created_at_s) / scale
        patience_s = gives_up_after_s if one.left_after_s is None else one.left_after_s
        arrivals.append(Arrival(at_s, one.model, one.priority, service_s, queue_timeout_s, patience_s))
    return Recording(tuple(arrivals), guessed)


def _guess(model: str, known: Mapping[str, list[float]], fallback: ServiceTime | None, random: Random) -> float:
    if model in known:
        return random.choice(known[model])
    if fallback is None:
        raise ValueError(f"no request for '{model}' ran to an end, so its service time is not known; say what it is")
    return fallback.draw(random)


def _read(record: Record) -> _Seen:
    created_at_s = _time(record["created_at"])
    model = str(record["model"] or "")
    if not model:
        raise ValueError("has no model")
    latency_ms, queue_ms = _number(record.get("latency_ms")), _number(record.get("queue_ms"))
    service_s = None
    if record.get("started_at") and latency_ms is not None:
        service_s = max(0.0, latency_ms - (queue_ms or 0.0)) / 1000
    has_left = record.get("outcome") == "client_closed" and not record.get("started_at") and latency_ms is not None
    left_after_s = latency_ms / 1000 if has_left and latency_ms is not None else None
    return _Seen(created_at_s, model, Priority.parse(record.get("priority"), Priority.NORMAL), service_s, left_after_s)


def _time(value: Any) -> float:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError(f"created_at is {value!r}, not a time like 2026-11-22T08:00:00.000Z") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _number(value: Any) -> float | None:
    return None if value is None or value == "" else float(value)
