"""The health monitor: who is probed when, and what the dispatcher hears of it."""

import time
from collections.abc import Iterator

import gevent
import pytest
from gevent.event import Event as Signal

from scheduler.core.dispatcher import Dispatcher
from scheduler.core.dispatcher_pool import DispatcherPool
from scheduler.core.priority import Priority
from scheduler.core.ticket import Ticket
from scheduler.gateway.health_monitor import HealthMonitor
from scheduler.gateway.ports import NodeTarget, ProbeResult
from scheduler.gateway.roster import NodeRoster
from tests.support.fakes import MemoryEventLog, MemoryNodeStore, ScriptedProber

UP = ProbeResult(True)
TIMEOUT = ProbeResult(False, "timeout")
REFUSED = ProbeResult(False, "auth")
LONG = 3600.0


class Ward:
    """A monitor over a real roster, dispatcher and pool, with a prober that does as it is told."""

    def __init__(self, interval_s: float = LONG, rise: int = 2, fall: int = 3) -> None:
        self.skipped_s = 0.0
        self.dispatcher = Dispatcher(self.clock)
        self.errors: list[BaseException] = []
        self.pool = DispatcherPool(self.dispatcher, self.clock, 2, self.errors.append)
        self.pool.start()
        self.events = MemoryEventLog()
        self.prober = ScriptedProber()
        self.transitions: list[tuple[str, str, str, str | None]] = []
        self.warnings: list[tuple[str, str]] = []
        self.delivered_at: dict[str, float] = {}
        self.roster = NodeRoster(
            self.dispatcher,
            MemoryNodeStore(),
            self.events,
            clock=self.clock,
            wall_clock=time.time,
            on_registered=lambda node_id: self.monitor.watch(node_id),
            on_removed=lambda node_id: self.monitor.forget(node_id),
            on_left=lambda address: None,
        )
        self.monitor = HealthMonitor(
            self.dispatcher,
            self.pool,
            self.roster,
            self.prober,
            self.events,
            interval_s=interval_s,
            rise=rise,
            fall=fall,
            clock=self.clock,
            wall_clock=time.time,
            log_transition=lambda *facts: self.transitions.append(facts),
            on_error=self.errors.append,
            log_warning=lambda *facts: self.warnings.append(facts),
            delivered_since=lambda node_id, at: self.delivered_at.get(node_id, 0.0) >= at,
            jitter=lambda: 1.0,
        )
        self.monitor.start()

    def clock(self) -> float:
        return time.monotonic() + self.skipped_s

    def add(self, node_id: str = "gpu-1", **fields) -> None:
        number = node_id.rpartition("-")[2]
        known = {"id": node_id, "address": f"http://10.0.0.{number}:8000", "models": ["m"], "max_concurrent": 1}
        self.roster.register({**known, **fields}, "op")

    def probed(self) -> tuple[NodeTarget, bool]:
        """The next probe that begins."""
        return self.prober.probes.get(timeout=5)

    def settle(self) -> None:
        """Let every greenlet do what it can do now."""
        for _ in range(10):
            gevent.sleep(0)

    def probe_again(self, node_id: str = "gpu-1") -> None:
        """One more probe of this node, without waiting for it to be due."""
        self.skipped_s += 1.0
        self.monitor.probe_now(node_id)
        self.probed()
        self.settle()

    def health(self, node_id: str = "gpu-1") -> tuple[str, str | None]:
        detail = self.roster.get(node_id)
        return detail.health, detail.health_reason

    def stop(self) -> None:
        self.monitor.stop()
        self.pool.stop()
        self.settle()


@pytest.fixture
def ward() -> Iterator[Ward]:
    ward = Ward()
    yield ward
    ward.stop()
    assert ward.errors == []


def test_a_registered_node_is_probed_at_once_and_the_first_probe_decides(ward):
    ward.prober.results["gpu-2"] = TIMEOUT
    ward.add("gpu-1")
    ward.add("gpu-2")
    ward.probed(), ward.probed()
    ward.settle()
    assert ward.health("gpu-1") == ("up", None)
    assert ward.health("gpu-2") == ("down", "timeout")
    assert ward.transitions == [("gpu-1", "unknown", "up", None), ("gpu-2", "unknown", "down", "timeout")]
    assert {"node.up", "node.down"} < set(ward.events.kinds)
    assert ward.roster.get("gpu-1").last_check_at is not None


def test_a_node_goes_down_after_fall_failures_and_up_after_rise_successes(ward):
    ward.add()
    ward.probed()
    ward.settle()
    ward.prober.results["gpu-1"] = TIMEOUT
    seen = []
    for _ in range(3):
        ward.probe_again()
        seen.append(ward.health())
    ward.prober.results["gpu-1"] = UP
    for _ in range(2):
        ward.probe_again()
        seen.append(ward.health())
    assert seen == [("up", None), ("up", None), ("down", "timeout"), ("down", "timeout"), ("up", None)]


def test_a_node_that_sends_answers_is_not_taken_down_by_slow_probes(ward):
    ward.add()
    ward.probed()
    ward.settle()
    ward.prober.results["gpu-1"] = TIMEOUT
    for _ in range(5):
        ward.delivered_at["gpu-1"] = ward.clock()
        ward.probe_again()
    assert ward.health() == ("up", None)
    ward.delivered_at["gpu-1"] = ward.clock() - LONG
    for _ in range(3):
        ward.probe_again()
    assert ward.health() == ("down", "timeout")


def test_answers_sent_excuse_no_failure_but_slowness(ward):
    ward.add()
    ward.probed()
    ward.settle()
    ward.prober.results["gpu-1"] = ProbeResult(False, "connection refused")
    for _ in range(3):
        ward.delivered_at["gpu-1"] = ward.clock()
        ward.probe_again()
    assert ward.health() == ("down", "connection refused")


def test_a_node_that_lets_probes_hang_is_probed_again_without_another_pause():
    ward = Ward(interval_s=5.0)
    try:
        ward.prober.results["gpu-1"] = TIMEOUT
        ward.prober.hold("gpu-1")
        ward.add()
        ward.probed()
        ward.skipped_s += 5.0  # what the probe took
        ward.prober.let_go("gpu-1")
        ward.probed()
    finally:
        ward.stop()


# -- the models a node lists ------------------------------------------------------------------


def test_a_registered_model_that_is_not_listed_is_warned_of_once_a_change(ward):
    ward.prober.results["gpu-1"] = ProbeResult(True, models=("llama", "qwen"))
    ward.add()
    ward.probed()
    ward.settle()
    for _ in range(2):
        ward.probe_again()
    told = "registered model m is not listed by the engine; it lists: llama, qwen"
    assert ward.roster.get("gpu-1").warnings == (told,)
    assert ward.health() == ("up", None)
    assert ward.warnings == [("gpu-1", told)]
    ward.prober.results["gpu-1"] = ProbeResult(True, models=("m",))
    for _ in range(2):
        ward.probe_again()
    assert ward.roster.get("gpu-1").warnings == ()
    assert ward.warnings[1:] == [("gpu-1", "all registered models are listed")]
    assert [event.kind for event in ward.events.events].count("node.models") == 2


def test_a_list_that_cannot_be_read_warns_of_nothing(ward):
    ward.add()
    ward.probed()
    ward.settle()
    assert (ward.roster.get("gpu-1").warnings, ward.warnings) == ((), [])


def test_warnings_follow_the_registration_and_end_with_a_move(ward):
    ward.prober.results["gpu-1"] = ProbeResult(True, models=("llama",))
    ward.add(models=["m", "llama"])
    ward.probed()
    ward.settle()
    assert len(ward.roster.get("gpu-1").warnings) == 1
    assert ward.roster.change("gpu-1", {"models": ["llama"]}, "op").warnings == ()
    ward.roster.change("gpu-1", {"models": None}, "op")
    ward.prober.hold("gpu-1")
    assert ward.roster.change("gpu-1", {"address": "http://10.0.0.99:8000"}, "op").warnings == ()


def test_a_withdrawn_model_is_back_when_a_probe_lists_it(ward):
    ward.prober.results["gpu-1"] = ProbeResult(True, models=("other",))
    ward.add()
    ward.probed()
    ward.settle()
    ward.dispatcher.withdraw("gpu-1", "m")
    ward.probe_again()
    assert ward.dispatcher.node("gpu-1").withdrawn == {"m"}
    ward.prober.results["gpu-1"] = ProbeResult(True, models=("m",))
    ward.probe_again()
    assert ward.dispatcher.node("gpu-1").withdrawn == frozenset()


def test_nodes_never_wait_for_each_other(ward):
    ward.prober.hold("gpu-1")
    ward.add("gpu-1")
    ward.add("gpu-2")
    assert {ward.probed()[0].id, ward.probed()[0].id} == {"gpu-1", "gpu-2"}
    ward.settle()
    assert ward.health("gpu-1") == ("unknown", None)
    assert ward.health("gpu-2") == ("up", None)


def test_probes_come_at_the_interval():
    ward = Ward(interval_s=0.01)
    try:
        ward.add()
        for _ in range(5):
            ward.probed()
    finally:
        ward.stop()


@pytest.mark.parametrize("step", ["removed", "moved", "removed and added again"])
def test_the_result_of_a_probe_is_ignored_where_the_node_has_gone_or_moved_meanwhile(ward, step):
    ward.prober.hold("gpu-1")
    ward.prober.results["gpu-1"] = TIMEOUT
    ward.add()
    ward.probed()
    old_gate = ward.prober._gates["gpu-1"]
    ward.prober.hold("gpu-1")
    if step == "moved":
        ward.roster.change("gpu-1", {"address": "http://10.0.0.99:8000"}, "op")
    else:
        ward.roster.remove("gpu-1", "op")
    if step == "removed and added again":
        ward.add()
    old_gate.set()
    ward.settle()
    assert ward.transitions == []
    if step == "removed":
        assert ward.prober.probes.empty()
    else:
        assert ward.health() == ("unknown", None)
        target, _ = ward.probed()
        assert target == ward.roster.target("gpu-1")


def test_mark_down_takes_a_node_out_before_it_returns_until_a_probe_succeeds(ward):
    ward.add()
    ward.probed()
    ward.settle()
    ward.monitor.mark_down("gpu-1", "auth")
    assert ward.health() == ("down", "auth")
    ward.prober.results["gpu-1"] = TIMEOUT
    ward.probe_again()
    assert ward.health() == ("down", "timeout")
    ward.prober.results["gpu-1"] = UP
    ward.probe_again()
    assert ward.health() == ("up", None)


def test_a_probe_under_way_does_not_undo_mark_down(ward):
    ward.add()
    ward.probed()
    ward.settle()
    ward.prober.hold("gpu-1")
    ward.skipped_s += 1.0
    ward.monitor.probe_now("gpu-1")
    ward.probed()
    ward.monitor.mark_down("gpu-1", "auth")
    ward.prober.let_go("gpu-1")
    ward.settle()
    assert ward.health() == ("down", "auth")


def test_after_a_refusal_every_probe_shows_our_key_until_it_is_accepted(ward):
    ward.add(api_key="sk-old")
    assert ward.probed()[1] is False
    ward.settle()
    ward.monitor.mark_down("gpu-1", "auth")
    ward.prober.results["gpu-1"] = REFUSED
    for _ in range(2):
        ward.skipped_s += 5.0
        ward.monitor.probe_now("gpu-1")
        assert ward.probed()[1] is True
        ward.settle()
    assert ward.health() == ("down", "auth")
    ward.prober.results["gpu-1"] = UP
    ward.roster.change("gpu-1", {"api_key": "sk-new"}, "op")  # a new key is tried at once
    target, check_key = ward.probed()
    assert (target.api_key, check_key) == ("sk-new", True)
    ward.settle()
    assert ward.health() == ("up", None)
    ward.skipped_s += 5.0
    ward.monitor.probe_now("gpu-1")
    assert ward.probed()[1] is False


def test_a_suspect_node_is_probed_at_most_once_a_second(ward):
    ward.add()
    ward.probed()
    ward.settle()
    for _ in range(100):
        ward.monitor.probe_now("gpu-1")
        ward.settle()
    assert ward.prober.probes.empty()
    ward.skipped_s += 1.0
    ward.monitor.probe_now("gpu-1")
    ward.probed()


def test_suspicion_during_a_probe_leads_to_another_one(ward):
    ward.prober.hold("gpu-1")
    ward.add()
    ward.probed()
    ward.monitor.probe_now("gpu-1")
    ward.skipped_s += 1.0
    ward.prober.let_go("gpu-1")
    ward.probed()


def test_an_error_in_a_probe_is_told_and_probing_goes_on(ward):
    ward.prober.error = ZeroDivisionError("a bug")
    ward.add()
    ward.probed()
    ward.settle()
    assert [str(error) for error in ward.errors] == ["a bug"]
    ward.errors.clear()
    ward.probe_again()
    assert ward.health() == ("up", None)


def test_an_ill_node_gets_no_ticket_and_its_recovery_wakes_who_waits(ward):

    ward.prober.results["gpu-1"] = TIMEOUT
    ward.add()
    ward.probed()
    ward.settle()
    ticket = Ticket("req-1", "m", Priority.NORMAL, ward.clock() + 100)
    ward.dispatcher.submit(ticket)
    granted = Signal()
    waiting = gevent.spawn(lambda: (ticket.wait().release(), granted.set()))
    ward.prober.results["gpu-1"] = UP
    ward.probe_again()
    ward.probe_again()
    assert granted.wait(5)
    waiting.join()


def test_a_stopped_monitor_probes_nobody(ward):
    ward.add()
    ward.probed()
    ward.monitor.stop()
    ward.add("gpu-2")
    ward.monitor.probe_now("gpu-1")
    ward.monitor.mark_down("gpu-1", "auth")
    ward.settle()
    assert ward.prober.probes.empty()
