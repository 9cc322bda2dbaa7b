"""What is counted, by which labels, and what it costs."""

import gevent
import pytest
from prometheus_client.parser import text_string_to_metric_families

from scheduler.adapters.metrics_page import SLICE, PrometheusPage
from scheduler.adapters.request_metrics import MOST_TOKENS, RequestMetrics
from scheduler.adapters.state_metrics import StateMetrics, Watched
from scheduler.core.dispatcher import Dispatcher
from scheduler.core.node import AdminState, Health, NodeSpec
from scheduler.core.priority import Priority
from scheduler.core.ticket import Ticket
from scheduler.gateway.record import Attempt
from tests.support.fakes import some_record

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(*collectors) -> Samples:
    """Every sample by name and labels, without the prefix, read back from the text."""
    text = PrometheusPage(collectors).text().decode()
    return {
        (sample.name.removeprefix("llm_scheduler_"), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


def finished(**changes):
    """A stream of ten pieces that has been answered in 3 s, after 1 s in the queue."""
    known = {
        "outcome": "completed",
        "status": "completed",
        "http_status": 200,
        "stream": True,
        "node_id": "gpu-1",
        "queue_ms": 1000.0,
        "ttfb_ms": 1200.0,
        "latency_ms": 3000.0,
        "pieces": 10,
        "attempts": [Attempt("gpu-1", 1000.0, "completed", 2000.0)],
    }
    return some_record(**{**known, **changes})


@pytest.fixture
def metrics() -> RequestMetrics:
    return RequestMetrics(lambda model: model in ("qwen", "bge"))


# -- requests ---------------------------------------------------------------------------------


def test_a_finished_request_is_counted_with_its_times(metrics):
    metrics.note_finished(finished(prompt_tokens=7, completion_tokens=11, key_name="team-a"))
    found = scrape(metrics)
    labels = {"model": "qwen", "priority": "normal"}
    assert value(found, "requests_total", **labels, outcome="completed", status="2xx") == 1
    assert value(found, "request_duration_seconds_sum", model="qwen", outcome="completed") == 3
    assert value(found, "queue_wait_seconds_sum", **labels) == 1
    assert value(found, "time_to_first_byte_seconds_sum", model="qwen", stream="true") == 1.2
    assert value(found, "inter_token_gap_seconds_sum", model="qwen") == pytest.approx(0.2)
    assert value(found, "attempts_total", node="gpu-1", result="completed") == 1
    assert value(found, "prompt_tokens_total", model="qwen", key="team-a") == 7
    assert value(found, "completion_tokens_total", model="qwen", key="team-a") == 11


def test_a_histogram_counts_up_to_each_bound_itself_included(metrics):
    for latency_ms in (10.0, 2500.0, 2501.0, 10**8):
        metrics.note_finished(finished(latency_ms=latency_ms))
    found = scrape(metrics)
    counts = {
        le: value(found, "request_duration_seconds_bucket", model="qwen", outcome="completed", le=le)
        for le in ("0.05", "2.5", "5.0", "3600.0", "+Inf")
    }
    assert counts == {"0.05": 1, "2.5": 2, "5.0": 3, "3600.0": 3, "+Inf": 4}
    assert value(found, "request_duration_seconds_count", model="qwen", outcome="completed") == 4


def test_rejections_and_failures_say_why(metrics):
    metrics.note_finished(finished(outcome="rejected", http_status=429, error_code="queue_full", attempts=[]))
    metrics.note_finished(finished(outcome="evicted", http_status=503, error_code="queue_timeout", attempts=[]))
    metrics.note_finished(finished(outcome="failed", http_status=504, error_code="upstream_timeout"))
    metrics.note_finished(finished(outcome="client_closed", http_status=499, error_code="client_closed"))
    metrics.note_unread("invalid_json")
    found = scrape(metrics)
    assert value(found, "rejections_total", model="qwen", reason="queue_full") == 1
    assert value(found, "rejections_total", model="qwen", reason="queue_timeout") == 1
    assert value(found, "failures_total", model="qwen", reason="upstream_timeout") == 1
    assert value(found, "failures_total", model="qwen", reason="client_closed") is None
    assert value(found, "unread_refusals_total", reason="invalid_json") == 1


def test_callers_cannot_make_series(metrics):
    for number in range(100):
        metrics.note_finished(finished(model=f"made-up-{number}", outcome="rejected", error_code="model_not_found"))
    found = scrape(metrics)
    assert {dict(labels)["model"] for _, labels in found if "model" in dict(labels)} == {"other"}
    assert value(found, "rejections_total", model="other", reason="model_not_found") == 100


def test_nodes_cannot_make_series_of_made_up_statuses_and_token_counts(metrics):
    for status in range(100, 1000):
        code = f"upstream_http_{status}"
        attempts = [Attempt("gpu-1", 0.0, code, 1.0)]
        metrics.note_finished(finished(outcome="failed", http_status=status, error_code=code, attempts=attempts))
    for tokens in (-1, 0, MOST_TOKENS + 1, 10**400):
        metrics.note_finished(finished(prompt_tokens=tokens, completion_tokens=tokens))
    found = scrape(metrics)
    assert len([1 for name, _ in found if name in ("failures_total", "attempts_total")]) <= 9 + 9 + 1
    assert not [name for name, _ in found if name in ("prompt_tokens_total", "completion_tokens_total")]


def test_a_model_that_is_removed_keeps_its_series_and_one_that_comes_gets_its_own(metrics):
    registered = {"new"}
    metrics = RequestMetrics(registered.__contains__)
    metrics.note_finished(finished(model="new"))
    registered.clear()
    metrics.note_finished(finished(model="new"))
    assert value(scrape(metrics), "inter_token_gap_seconds_count", model="new") == 2


def test_only_streams_of_several_pieces_have_gaps(metrics):
    metrics.note_finished(finished(pieces=1))
    metrics.note_finished(finished(stream=False))
    metrics.note_finished(finished(ttfb_ms=None))
    assert not [name for name, _ in scrape(metrics) if name.startswith("inter_token_gap")]


def test_a_record_that_cannot_be_counted_disturbs_nobody(metrics, caplog):
    metrics.note_finished(finished(attempts=None))
    assert "could not be counted" in caplog.text


# -- state ------------------------------------------------------------------------------------


class Writer:
    name = "records"
    lost = 3
    last_write_ms = 12.0
    last_error: str | None = "OperationalError: locked"
    backlog = 40


class Lag:
    last_ms = 2.0
    max_ms = 30.0


class State:
    """A dispatcher with a clock of its own, and the metrics of it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.dispatcher = Dispatcher(lambda: self.now)
        watched = Watched(
            self.dispatcher, (Writer(),), Lag(), lambda: 5, 100, 10, lambda: 4096, lambda: 7.5, lambda: True, "1.2.3"
        )
        self.metrics = StateMetrics(watched)

    def add(self, node_id: str, models: tuple[str, ...], slots: int, health: Health) -> None:
        spec = NodeSpec(node_id, f"http://{node_id}", models, slots)
        self.dispatcher.put_node(spec, AdminState.ACTIVE)
        self.dispatcher.set_health(node_id, health)

    def submit(self, request_id: str, priority: Priority) -> Ticket:
        ticket = Ticket(request_id, "qwen", priority, self.now + 100)
        self.dispatcher.submit(ticket)
        return ticket


@pytest.fixture
def state() -> State:
    return State()


def test_the_queue_is_told_by_priority_with_the_oldest_wait(state):
    state.add("gpu-1", ("qwen",), 1, Health.UP)
    for request_id, priority in (("a", 1), ("b", 2), ("c", 2), ("d", 2)):
        state.submit(request_id, Priority(priority))
        state.now += 3
    state.dispatcher.cancel("b")
    found = scrape(state.metrics)
    assert value(found, "queue_depth", priority="normal") == 2
    assert value(found, "queue_depth", priority="critical") == 0
    assert value(found, "queue_oldest_wait_seconds", priority="normal") == 6
    assert value(found, "queue_oldest_wait_seconds", priority="high") == 0
    assert value(found, "in_flight") == 1


def test_nodes_are_told_by_slots_state_and_health_and_models_by_who_serves_them(state):
    state.add("gpu-1", ("qwen", "bge"), 4, Health.UP)
    state.add("gpu-2", ("qwen",), 2, Health.DOWN)
    state.dispatcher.withdraw("gpu-1", "bge")
    state.submit("a", Priority.NORMAL)
    found = scrape(state.metrics)
    assert value(found, "node_in_flight", node="gpu-1") == 1
    assert value(found, "node_capacity", node="gpu-2") == 2
    assert [value(found, "node_health", node="gpu-2", health=each.value) for each in Health] == [0, 0, 1]
    assert value(found, "node_state", node="gpu-1", state="active") == 1
    assert (value(found, "model_nodes", model="qwen"), value(found, "model_nodes_serving", model="qwen")) == (2, 1)
    assert (value(found, "model_nodes", model="bge"), value(found, "model_nodes_serving", model="bge")) == (1, 0)


def test_the_process_and_what_writes_behind_it_are_told(state):
    found = scrape(state.metrics)
    assert value(found, "build_info", version="1.2.3") == 1
    assert (value(found, "uptime_seconds"), value(found, "ready")) == (7.5, 1)
    assert (value(found, "hub_lag_seconds"), value(found, "hub_lag_max_seconds")) == (0.002, 0.03)
    assert (value(found, "held_body_bytes"), value(found, "held_body_bytes_limit")) == (5, 100)
    assert value(found, "recorder_backlog", kind="records") == 40
    assert value(found, "recorder_lost_total", kind="records") == 3
    assert value(found, "recorder_last_write_seconds", kind="records") == 0.012
    assert value(found, "recorder_failing", kind="records") == 1
    assert value(found, "database_bytes") == 4096


# -- the page ---------------------------------------------------------------------------------


def test_a_long_page_lets_others_run_and_tells_each_metric_once(metrics):
    for number in range(SLICE * 2 + 1):
        metrics.note_finished(finished(attempts=[Attempt(f"gpu-{number}", 0.0, "completed", 1.0)]))
    turns = 0

    def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            gevent.sleep(0)

    counting = gevent.spawn(count_turns)
    text = PrometheusPage([metrics]).text().decode()
    counting.kill()
    assert turns >= 3
    assert text.count("# TYPE llm_scheduler_attempts_total counter\n") == 1
    assert text.count("\nllm_scheduler_attempts_total{") == SLICE * 2 + 1


def test_every_metric_has_our_prefix_a_help_text_and_base_units(metrics, state):
    families = list(PrometheusPage([metrics, state.metrics]).registry.collect())
    for family in families:
        assert family.name.startswith("llm_scheduler_")
        assert family.documentation.endswith(".")
        assert not family.name.endswith(("_ms", "_milliseconds", "_kb", "_mb"))
    assert len({family.name for family in families}) == len(families) >= 30
