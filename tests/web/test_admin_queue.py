"""/admin/queue: who waits and runs, and what can be done to them."""

from scheduler.core.node import Health
from scheduler.core.priority import Priority
from scheduler.core.ticket import Ticket
from tests.support.fakes import FakeLiveCall, some_record
from tests.web.conftest import GPU_1, Site


def wait(site: Site, request_id: str, priority: Priority = Priority.NORMAL) -> Ticket:
    """A request that is submitted now; it runs where there is a slot, and waits otherwise."""
    ticket = Ticket(request_id, "qwen", priority, site.now + 60)
    site.dispatcher.submit(ticket)
    record = some_record(request_id, priority=priority.label, client_request_id=f"mine-{request_id}", key_name="team")
    site.live_calls.add(
        FakeLiveCall(record, not ticket.is_waiting, lambda: site.dispatcher.abandon(ticket), site.dispatcher)
    )
    return ticket


def one_slot(site: Site) -> None:
    site.roster.register({**GPU_1, "max_concurrent": 1}, "op")
    site.dispatcher.set_health("gpu-1", Health.UP)


def test_the_queue_shows_who_waits_in_order_and_who_runs(site):
    one_slot(site)
    wait(site, "running")
    wait(site, "low", Priority.LOW)
    wait(site, "critical", Priority.CRITICAL)
    site.now += 2
    queue = site.get("/admin/queue").json
    assert (queue["waiting_total"], queue["running_total"]) == (2, 1)
    assert queue["waiting"][0] == {
        "id": "critical",
        "client_request_id": "mine-critical",
        "model": "qwen",
        "priority": "critical",
        "position": 1,
        "waited_ms": 2000.0,
        "expires_in_ms": 58000.0,
        "reason": "node gpu-1 at limit",
        "key_name": "team",
        "client": "10.0.0.9",
    }
    assert queue["waiting"][1]["id"] == "low"
    assert set(queue["running"][0]) == {
        "id", "client_request_id", "model", "priority", "node_id", "phase", "elapsed_ms", "bytes_out", "stream",
        "key_name", "client",
    }  # fmt: skip
    assert queue["running"][0]["elapsed_ms"] == 12.3


def test_the_limit_bounds_what_is_shown_and_not_what_is_counted(site):
    one_slot(site)
    for number in range(5):
        wait(site, f"req-{number}")
    queue = site.get("/admin/queue?limit=2").json
    assert (len(queue["waiting"]), queue["waiting_total"]) == (2, 4)
    assert site.get("/admin/queue?limit=x&color=red").json["error"]["details"] == [
        {"param": "limit", "message": "must be a whole number from 0 to 10000"},
        {"param": "color", "message": "unknown parameter"},
    ]


def test_a_waiting_request_can_be_moved(site):
    one_slot(site)
    wait(site, "running")
    wait(site, "first")
    wait(site, "second")
    reply = site.send("PATCH", "/admin/queue/second", {"priority": "HIGH"})
    assert reply.json == {"id": "second", "priority": "high"}
    assert [ticket["id"] for ticket in site.get("/admin/queue").json["waiting"]] == ["second", "first"]
    assert site.live_calls.get("second").record.priority == "high"
    assert site.events.events[-1].before == {"priority": "normal"}


def test_a_running_or_unknown_request_cannot_be_moved(site):
    one_slot(site)
    wait(site, "running")
    for request_id in ("running", "nobody"):
        reply = site.send("PATCH", f"/admin/queue/{request_id}", {"priority": "high"})
        assert (reply.status_code, reply.json["error"]["code"]) == (404, "request_not_found")
    assert site.live_calls.get("running").record.priority == "normal"


def test_a_priority_that_is_none_is_refused(site):
    for body in ({}, {"priority": "urgent"}, {"priority": 1}, {"priority": "high", "x": 1}):
        assert site.send("PATCH", "/admin/queue/x", body).json["error"]["code"] == "invalid_fields"


def test_a_request_can_be_cancelled(site):
    one_slot(site)
    wait(site, "running")
    wait(site, "waiting")
    reply = site.client.delete("/admin/requests/waiting")
    assert (reply.status_code, reply.json) == (202, {"id": "waiting", "cancelled": True})
    assert site.dispatcher.waiting_count == 0
    assert site.events.kinds[-1] == "request.cancelled"
    assert site.client.delete("/admin/requests/nobody").status_code == 404
