"""The fields of the API: the only place that knows their names. Times are RFC 3339 UTC, durations milliseconds."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import Any

from scheduler.core.priority import Priority
from scheduler.core.snapshot import NodeView, QueueView
from scheduler.errors import UnknownRequest
from scheduler.gateway.live_calls import LiveCalls, RunningView
from scheduler.gateway.node_detail import NodeDetail
from scheduler.gateway.node_trial import TrialResult
from scheduler.gateway.ports import CleanupState, DatabaseSize, Event
from scheduler.gateway.record import RequestRecord

Json = dict[str, Any]

#: Of a record, in the order in which they are told.
RECORD_FIELDS = (
    *("id", "client_request_id", "model", "node_id", "priority", "status", "outcome", "stream", "path"),
    *("created_at", "started_at", "first_byte_at", "finished_at", "queue_ms", "ttfb_ms", "latency_ms"),
    *("http_status", "error_code", "error_message", "attempts", "prompt_tokens", "completion_tokens"),
    *("bytes_in", "bytes_out", "client", "key_name"),
)
_DURATIONS = ("queue_ms", "ttfb_ms", "latency_ms")


def time_json(at: float | None) -> str | None:
    """Seconds since the epoch as `2026-11-22T08:00:00.000Z`."""
    if at is None:
        return None
    # Rounded first: isoformat cuts, and 0.1235 s is stored as a little less.
    moment = datetime.fromtimestamp(round(at * 1000) / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def node_json(node: NodeDetail) -> Json:
    """A node as registered, without its key, and how it is."""
    shown = {
        "id": node.id,
        "address": node.address,
        "models": list(node.models),
        "max_concurrent": node.max_concurrent,
        "weight": node.weight,
        "labels": node.labels,
        "remark": node.remark,
        "has_api_key": node.has_api_key,
        "state": node.state,
        "health": node.health,
        "health_reason": node.health_reason,
        "in_flight": node.in_flight,
        "last_check_at": time_json(node.last_check_at),
        "since": time_json(node.since),
        "created_at": time_json(node.created_at),
        "updated_at": time_json(node.updated_at),
        "overrides": list(node.overrides),
        "warnings": list(node.warnings),
    }
    if node.address_note is not None:
        shown["address_note"] = node.address_note
    return shown


def trial_json(trial: TrialResult) -> Json:
    """How the trial of an address went, and what it proposes."""
    found = trial.findings
    return {
        "ok": trial.failed_step is None,
        "failed_step": trial.failed_step,
        "address": trial.address,
        "address_note": trial.address_note,
        "steps": [
            {"name": step.name, "ok": step.is_ok, "message": step.message, "duration_ms": _ms(step.duration_ms)}
            for step in found.steps
        ],
        "engine": found.engine,
        "engine_version": found.engine_version,
        "models": list(found.models),
        "max_concurrent": found.max_concurrent,
        "notes": list(found.notes),
        "registered_as": trial.registered_as,
        "registered_models": trial.registered_models,
    }


def record_json(record: RequestRecord | Mapping[str, Any], with_decision: bool = False) -> Json:
    """A record, live or from the log."""
    known: Mapping[str, Any] = asdict(record) if isinstance(record, RequestRecord) else record
    shown: Json = {}
    for name in RECORD_FIELDS:
        value = known.get(name)
        if name.endswith("_at"):
            value = time_json(value)
        elif name in _DURATIONS:
            value = _ms(value)
        shown[name] = value
    shown["attempts"] = [
        {**attempt, "start_ms": _ms(attempt["start_ms"]), "duration_ms": _ms(attempt["duration_ms"])}
        for attempt in known.get("attempts") or ()
    ]
    if with_decision:
        shown["decision"] = known.get("decision")
    return shown


def queue_json(queue: QueueView, running: Sequence[RunningView], running_total: int, calls: LiveCalls) -> Json:
    """Who waits, in order, and who runs."""
    waiting = []
    for ticket in queue.waiting:
        record = _record_of(calls, ticket.id)
        waiting.append(
            {
                "id": ticket.id,
                "client_request_id": record and record.client_request_id,
                "model": ticket.model,
                "priority": ticket.priority.label,
                "position": ticket.position,
                "waited_ms": _ms(ticket.waited_s * 1000),
                "expires_in_ms": _ms(ticket.expires_in_s * 1000),
                "reason": ticket.reason,
                "key_name": record and record.key_name,
                "client": record and record.client,
            }
        )
    return {
        "waiting": waiting,
        "running": [
            {name: _ms(value) if name == "elapsed_ms" else value for name, value in _running_items(view)}
            for view in running
        ],
        "waiting_total": queue.total,
        "running_total": running_total,
    }


def node_counts_json(nodes: Sequence[NodeView]) -> Json:
    """Nodes by health and by admin state: two axes, so that a draining node may be up as well."""
    health = Counter(node.health.value for node in nodes)
    state = Counter(node.state.value for node in nodes)
    return {
        "total": len(nodes),
        "up": health["up"],
        "down": health["down"],
        "unknown": health["unknown"],
        "draining": state["draining"],
        "disabled": state["disabled"],
    }


def by_priority_json(counts: Mapping[Priority, int]) -> Json:
    """Waiting requests by priority, the most urgent first."""
    return {priority.label: counts.get(priority, 0) for priority in Priority}


def database_json(size: DatabaseSize, cleanup: CleanupState) -> Json:
    """How much is kept, and what the clean-up of old records does."""
    return {
        "bytes": size.bytes,
        "rows_estimate": size.rows_estimate,
        "oldest_at": time_json(size.oldest_at),
        "cleanup": {
            "is_enabled": cleanup.is_enabled,
            "held": cleanup.held,
            "is_running": cleanup.is_running,
            "last_at": time_json(cleanup.last_at),
            "deleted_count": cleanup.deleted,
        },
    }


def event_json(event: Event) -> Json:
    """A line of the audit trail."""
    return {
        "at": time_json(event.at),
        "kind": event.kind,
        "subject": event.subject,
        "actor": event.actor,
        "before": event.before,
        "after": event.after,
        "note": event.note,
    }


def model_json(model: str, created_at: float) -> Json:
    """A model in OpenAI's shape."""
    return {"id": model, "object": "model", "created": int(created_at), "owned_by": "llm-scheduler"}


def _ms(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _record_of(calls: LiveCalls, request_id: str) -> RequestRecord | None:
    try:
        return calls.get(request_id).record
    except UnknownRequest:
        return None


def _running_items(view: RunningView) -> list[tuple[str, Any]]:
    return [(known.name, getattr(view, known.name)) for known in fields(view)]
