"""/admin/requests."""

import csv
import io
from dataclasses import asdict

import pytest

from scheduler.gateway.ports import RequestFilter
from scheduler.gateway.record import Attempt
from scheduler.web.csv_text import csv_lines
from tests.support.fakes import FakeLiveCall, some_record

FIELDS = {
    "id", "client_request_id", "model", "node_id", "priority", "status", "outcome", "stream", "path", "created_at",
    "started_at", "first_byte_at", "finished_at", "queue_ms", "ttfb_ms", "latency_ms", "http_status", "error_code",
    "error_message", "attempts", "prompt_tokens", "completion_tokens", "bytes_in", "bytes_out", "client", "key_name",
}  # fmt: skip


def test_a_page_has_the_contracts_fields_with_times_as_text(site):
    attempt = Attempt("gpu-1", 0.123, "completed", 8.76)
    site.request_log.records = [asdict(some_record("req-1", latency_ms=12.345, attempts=[attempt]))]
    page = site.get("/admin/requests").json
    assert (page["total"], page["total_is_estimate"], page["limit"], page["offset"]) == (1, False, 100, 0)
    record = page["requests"][0]
    assert set(record) == FIELDS
    assert record["created_at"] == "2023-11-14T22:13:20.000Z"
    assert record["finished_at"] is None
    assert record["latency_ms"] == 12.3
    assert record["attempts"] == [{"node_id": "gpu-1", "start_ms": 0.1, "result": "completed", "duration_ms": 8.8}]


def test_filters_reach_the_log(site):
    site.get(
        "/admin/requests?status=failed&outcome=evicted&model=a/b&node_id=g&priority=low&key_name=k&stream=true"
        "&error_code=queue_full&start_time=2023-11-14T22:13:20Z&end_time=2023-11-15T06:13:20.5%2B08:00"
        "&min_latency_ms=1.5&q=req-&limit=10&offset=20"
    )
    wanted = RequestFilter(
        "failed", "evicted", "a/b", "g", "low", "k", True, "queue_full", 1_700_000_000.0, 1_700_000_000.5, 1.5, "req-"
    )
    assert site.request_log.asked == [(wanted, 10, 20)]


def test_every_bad_filter_is_told_at_once(site):
    reply = site.get(
        "/admin/requests?status=done&priority=urgent&stream=maybe&start_time=yesterday&min_latency_ms=nan&limit=0"
        "&offset=-1&colour=red"
    )
    assert reply.status_code == 400
    assert [detail["param"] for detail in reply.json["error"]["details"]] == [
        "status", "priority", "stream", "start_time", "min_latency_ms", "limit", "offset", "colour",
    ]  # fmt: skip
    assert site.request_log.asked == []


def test_a_live_request_is_shown_as_it_is_now(site):
    site.request_log.records = [asdict(some_record("req-1", status="pending"))]
    site.live_calls.add(FakeLiveCall(some_record("req-1", status="processing", decision="only node"), is_running=True))
    reply = site.get("/admin/requests/req-1").json
    assert (reply["status"], reply["decision"]) == ("processing", "only node")


def test_a_finished_request_comes_from_the_log(site):
    site.request_log.records = [asdict(some_record("req-1", status="completed", decision="least loaded"))]
    assert site.get("/admin/requests/req-1").json["decision"] == "least loaded"
    assert site.get("/admin/requests/req-2").json["error"]["code"] == "request_not_found"


def test_the_file_for_spreadsheets_has_all_that_match_and_no_formulas(site):
    attempts = [Attempt("gpu-1", 0.1, "busy", 1.0), Attempt("gpu-2", 2.0, "completed", 3.0)]
    site.request_log.records = [
        asdict(some_record(f"req-{number}", client_request_id="=1+1", error_message='a,"b"\n公式', attempts=attempts))
        for number in range(5)
    ]
    reply = site.get("/admin/requests.csv?model=qwen&status=failed")
    assert reply.data[:3] == b"\xef\xbb\xbf"
    assert reply.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert reply.headers["Content-Disposition"] == 'attachment; filename="requests.csv"'
    rows = list(csv.DictReader(io.StringIO(reply.data.decode("utf-8-sig"), newline="")))
    assert [row["id"] for row in rows] == [f"req-{number}" for number in range(4, -1, -1)]
    assert set(rows[0]) == FIELDS
    assert (rows[0]["client_request_id"], rows[0]["error_message"]) == ("'=1+1", 'a,"b"\n公式')
    assert (rows[0]["attempts"], rows[0]["stream"], rows[0]["node_id"]) == ("gpu-1:busy gpu-2:completed", "false", "")
    assert site.request_log.asked == [(RequestFilter(model="qwen", status="failed"), 0, 0)]


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r", "＝"])
def test_what_a_spreadsheet_would_compute_is_text(begin):
    assert csv_lines([[f"{begin}cmd|'/c calc'!A0"]]).lstrip('"').startswith("'")


def test_a_bad_filter_of_the_file_is_an_error_and_no_file(site):
    assert site.get("/admin/requests.csv?status=done&limit=1").json["error"]["code"] == "invalid_fields"
