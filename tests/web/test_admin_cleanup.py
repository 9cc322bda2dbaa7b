"""/admin/requests/cleanup, and what /admin/status says of the database."""

import time

import pytest

from scheduler.gateway.ports import CleanupState, DatabaseSize


def test_a_dry_run_counts_and_deletes_nothing(site):
    site.cleanup.found_matching = 12
    site.cleanup.found_state = CleanupState(True, "the clock seems to have been set", False, None, 0)
    reply = site.send("POST", "/admin/requests/cleanup", {"older_than": "7d", "dry_run": True})
    assert reply.status_code == 200
    assert (reply.json["matching"], reply.json["dry_run"]) == (12, True)
    assert reply.json["held"] == "the clock seems to have been set"
    assert site.cleanup.asked == []
    assert site.events.kinds == []


@pytest.mark.parametrize(("older_than", "seconds"), [("7d", 604_800), ("36h", 129_600), ("1.5m", 90), ("0s", 0)])
def test_old_records_are_deleted_on_demand_and_that_is_noted(site, older_than, seconds):
    site.cleanup.found_matching = 3
    reply = site.send("POST", "/admin/requests/cleanup", {"older_than": older_than})
    assert (reply.status_code, reply.json["matching"]) == (202, 3)
    (before,) = site.cleanup.asked
    assert before == pytest.approx(time.time() - seconds, abs=5)
    (event,) = site.events.events
    assert (event.kind, event.after["matching"]) == ("requests.cleanup", 3)


def test_every_bad_field_is_told_at_once(site):
    reply = site.send("POST", "/admin/requests/cleanup", {"older_than": 7, "dry_run": "yes", "colour": 1})
    assert [detail["param"] for detail in reply.json["error"]["details"]] == ["colour", "older_than", "dry_run"]
    for older_than in ("7", "-7d", "d", "7 days", "nan", None):
        assert site.send("POST", "/admin/requests/cleanup", {"older_than": older_than}).status_code == 400
    assert site.cleanup.asked == []


def test_status_tells_the_size_and_the_cleanup(site):
    site.cleanup.found_size = DatabaseSize(8192, 12, 1_700_000_000.0)
    site.cleanup.found_state = CleanupState(True, None, True, 1_700_000_001.0, 5)
    assert site.get("/admin/status").json["database"] == {
        "bytes": 8192,
        "rows_estimate": 12,
        "oldest_at": "2023-11-14T22:13:20.000Z",
        "cleanup": {
            "is_enabled": True, "held": None, "is_running": True, "last_at": "2023-11-14T22:13:21.000Z",
            "deleted_count": 5,
        },
    }  # fmt: skip
    site.cleanup.is_broken = True
    assert site.get("/admin/status").json["database"] is None
