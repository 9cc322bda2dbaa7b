import pytest
from sqlalchemy import literal, tuple_

from scheduler.adapters.recorder import BatchRecorder
from scheduler.adapters.request_log import BATCH, MOST_FOUND, SqlRequestLog, _conditions, _matching
from scheduler.adapters.tables import REQUESTS
from scheduler.gateway.ports import RequestFilter
from scheduler.gateway.record import Attempt

START = 1_700_000_000.0
CONTRACT_FIELDS = {
    *("id", "client_request_id", "model", "node_id", "priority", "status", "outcome", "stream", "path", "created_at"),
    *("started_at", "first_byte_at", "finished_at", "queue_ms", "ttfb_ms", "latency_ms", "http_status", "error_code"),
    *("error_message", "attempts", "prompt_tokens", "completion_tokens", "bytes_in", "bytes_out", "client", "key_name"),
}


@pytest.fixture
def keep(writer):
    recorder = BatchRecorder(writer, interval_s=0)
    recorder.start()

    def keep(*records):
        for record in records:
            recorder.save(record)
        assert recorder.flush(10)

    yield keep
    recorder.stop()


@pytest.fixture
def log(reader):
    return SqlRequestLog(reader)


def ids(page):
    return [int(request["id"][2:]) for request in page.requests]


def test_a_record_comes_back_with_the_fields_of_the_contract(log, keep, new_record):
    record = new_record(
        7,
        ended="completed",
        client_request_id="mine",
        key_name="team-a",
        stream=True,
        started_at=START + 7.25,
        first_byte_at=START + 7.5,
        queue_ms=250.0,
        ttfb_ms=500.0,
        prompt_tokens=3,
        completion_tokens=5,
        bytes_in=100,
        bytes_out=200,
        decision="fewest in flight by weight",
        attempts=[Attempt("gpu-02", 1.0, "unreachable", 2.0), Attempt("gpu-01", 250.0, "completed", 900.0)],
    )
    keep(record)
    found = log.get("r-00007")
    assert found.pop("decision") == "fewest in flight by weight"
    assert set(found) == CONTRACT_FIELDS
    for name in CONTRACT_FIELDS - {"attempts"}:
        assert found[name] == getattr(record, name), name
    assert found["attempts"] == [
        {"node_id": "gpu-02", "start_ms": 1.0, "result": "unreachable", "duration_ms": 2.0},
        {"node_id": "gpu-01", "start_ms": 250.0, "result": "completed", "duration_ms": 900.0},
    ]
    assert found["stream"] is True
    assert log.page(RequestFilter(), 10, 0).requests == [found]


def test_an_unknown_request_is_none(log):
    assert log.get("r-404") is None


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (RequestFilter(), [5, 4, 3, 2, 1]),
        (RequestFilter(status="completed"), [3, 1]),
        (RequestFilter(status="pending"), [5]),
        (RequestFilter(status="failed"), [4, 2]),
        (RequestFilter(outcome="completed"), [3, 1]),
        (RequestFilter(outcome="evicted"), [4]),
        (RequestFilter(status="failed", outcome="failed", model="qwen"), [2]),
        (RequestFilter(model="qwen"), [3, 2]),
        (RequestFilter(node_id="gpu-01"), [3, 1]),
        (RequestFilter(priority="high"), [4]),
        (RequestFilter(priority="normal"), [5, 3, 2, 1]),
        (RequestFilter(key_name="team-a"), [5, 1]),
        (RequestFilter(stream=True), [5]),
        (RequestFilter(stream=False), [4, 3, 2, 1]),
        (RequestFilter(error_code="queue_timeout"), [4]),
        (RequestFilter(start_time=START + 3), [5, 4, 3]),
        (RequestFilter(end_time=START + 3), [2, 1]),
        (RequestFilter(start_time=START + 2, end_time=START + 4), [3, 2]),
        (RequestFilter(min_latency_ms=200.0), [3]),
        (RequestFilter(q="r-00004"), [4]),
        (RequestFilter(q="r-0000"), [5, 4, 3, 2, 1]),
        (RequestFilter(q="trace"), [2, 1]),
        (RequestFilter(q="trace-2"), [2]),
        (RequestFilter(q="race"), []),
        (RequestFilter(q="R-0"), []),
        (RequestFilter(q="%"), []),
        (RequestFilter(q="trace", model="qwen"), [2]),
        (RequestFilter(model="none"), []),
    ],
    ids=repr,
)
def test_every_filter_of_the_contract(log, keep, new_record, wanted, expected):
    keep(
        new_record(1, ended="completed", key_name="team-a", client_request_id="trace-1"),
        new_record(2, ended="failed", model="qwen", client_request_id="trace-2"),
        new_record(3, ended="completed", model="qwen", latency_ms=900.0),
        new_record(4, ended="evicted", priority="high", error_code="queue_timeout"),
        new_record(5, key_name="team-a", stream=True),
    )
    page = log.page(wanted, 100, 0)
    assert ids(page) == expected
    assert (page.total, page.total_is_estimate) == (len(expected), False)


def test_pages_follow_each_other_without_gap_or_repetition_also_within_one_millisecond(log, keep, new_record):
    keep(*(new_record(number, created_at=START) for number in range(1, 26)))
    pages = [log.page(RequestFilter(), 10, offset) for offset in (0, 10, 20, 30)]
    assert [number for page in pages for number in ids(page)] == list(range(25, 0, -1))
    assert [page.total for page in pages] == [25] * 4


def test_a_row_that_changes_keeps_its_place(log, keep, new_record):
    records = [new_record(number) for number in range(1, 6)]
    keep(*records)
    before = ids(log.page(RequestFilter(), 2, 2))
    records[0].status, records[0].outcome = "completed", "completed"
    keep(records[0])
    assert ids(log.page(RequestFilter(), 2, 2)) == before == [3, 2]


def test_a_total_past_the_bound_is_an_estimate_and_says_so(reader, keep, new_record):
    keep(*(new_record(number) for number in range(1, 1001)))
    log = SqlRequestLog(reader, exact_total=100)
    page = log.page(RequestFilter(), 10, 0)
    assert page.total_is_estimate
    assert page.total == pytest.approx(1000, rel=0.05)
    last = log.page(RequestFilter(), 10, 995)
    assert (last.total, last.total_is_estimate) == (1000, False)
    few = log.page(RequestFilter(start_time=START + 950), 10, 0)
    assert (few.total, few.total_is_estimate) == (51, False)


def test_an_estimate_of_rows_of_one_millisecond_is_at_least_what_was_counted(reader, keep, new_record):
    keep(*(new_record(number, created_at=START) for number in range(1, 21)))
    page = SqlRequestLog(reader, exact_total=10).page(RequestFilter(), 5, 0)
    assert (page.total, page.total_is_estimate) == (11, True)


def test_a_search_that_finds_too_much_looks_at_the_newest_and_says_so(log, keep, new_record):
    keep(*(new_record(number) for number in range(1, MOST_FOUND + 6)))
    page = log.page(RequestFilter(q="r-"), 2, 0)
    assert ids(page) == [MOST_FOUND + 5, MOST_FOUND + 4]
    assert page.total_is_estimate


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (RequestFilter(), "ix_requests_created_at"),
        (RequestFilter(model="llama"), "ix_requests_model_created_at"),
        (RequestFilter(node_id="gpu-01"), "ix_requests_node_id_created_at"),
        (RequestFilter(key_name="team-a"), "ix_requests_key_name_created_at"),
        (RequestFilter(status="failed"), "ix_requests_status_created_at"),
        (RequestFilter(outcome="evicted"), "ix_requests_outcome_created_at"),
        (RequestFilter(error_code="queue_timeout"), "ix_requests_error_code_created_at"),
        (RequestFilter(priority="critical"), "ix_requests_priority_created_at"),
    ],
    ids=repr,
)
def test_every_selective_filter_reads_newest_first_from_its_index(log, reader, wanted, index):
    query = _matching(REQUESTS.c.seq, _conditions(wanted))
    query = query.order_by(REQUESTS.c.created_at.desc(), REQUESTS.c.seq.desc()).limit(10)
    words = str(query.compile(dialect=reader.engine.dialect, compile_kwargs={"literal_binds": True}))
    plan = reader.run(lambda connection: connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {words}").all())
    steps = " / ".join(step[-1] for step in plan)
    assert f"USING COVERING INDEX {index}" in steps
    assert "TEMP B-TREE" not in steps


def test_batches_tell_all_that_were_there_at_the_begin_once(log, keep, new_record):
    keep(*(new_record(number, ended="completed", created_at=START + number // 7) for number in range(1, 351)))
    batches = log.batches(RequestFilter(status="completed"))
    found = next(batches)
    assert len(found) == BATCH
    keep(*(new_record(number, ended="completed", created_at=START + number % 60) for number in range(400, 500)))
    for batch in batches:
        assert len(batch) <= BATCH
        found += batch
    assert [record["id"] for record in found] == [f"r-{number:05}" for number in range(350, 0, -1)]
    assert set(found[0]) == CONTRACT_FIELDS


def test_batches_of_nothing_are_one_empty_one(log):
    assert list(log.batches(RequestFilter())) == [[]]


@pytest.mark.parametrize("wanted", [RequestFilter(), RequestFilter(model="llama"), RequestFilter(status="failed")])
def test_a_later_batch_begins_in_the_index_where_the_last_one_ended(writer, wanted):
    order = tuple_(REQUESTS.c.created_at, REQUESTS.c.seq)
    query = _matching(REQUESTS.c.id, _conditions(wanted)).where(order < tuple_(literal(5), literal(6)))
    query = query.order_by(REQUESTS.c.created_at.desc(), REQUESTS.c.seq.desc()).limit(5)

    def plan(connection):
        compiled = query.compile(connection, compile_kwargs={"literal_binds": True})
        return [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}")]

    (line,) = writer.run(plan)
    assert line.startswith("SEARCH requests USING INDEX")
    assert "created_at<?" in line
