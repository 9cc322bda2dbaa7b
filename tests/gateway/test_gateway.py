"""The gateway over a real dispatcher, with nodes that do as they are told: what each end tells of a node."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from scheduler.core.dispatcher import Dispatcher
from scheduler.core.node import AdminState, Health, NodeSpec
from scheduler.core.priority import Priority
from scheduler.errors import Cancelled, ClientGone, NodeClosed, NodeTimeout, NodeUnreachable, QueueTimeout
from scheduler.gateway.call import InferenceCall
from scheduler.gateway.clocks import Clocks, ClockSweep
from scheduler.gateway.exchange import ErrorFacts, Exchange, Surroundings
from scheduler.gateway.gateway import Gateway, RetryRule
from scheduler.gateway.live_calls import LiveCalls
from scheduler.gateway.node_watch import EjectionWatch
from scheduler.gateway.ports import NodeTarget
from scheduler.gateway.reply import Reply
from tests.support.scripted_forwarder import ScriptedClient, ScriptedForwarder

NO_SUCH_MODEL = (404, b'{"error": {"message": "The model `m` does not exist.", "code": 404}}')


class FakeMonitor:
    """Stands for the health monitor."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.probed: list[str] = []
        self.down: list[str] = []

    def probe_now(self, node_id: str) -> None:
        self.probed.append(node_id)

    def mark_down(self, node_id: str, reason: str) -> None:
        self.down.append(node_id)
        self._dispatcher.set_health(node_id, Health.DOWN, reason)


class Desk:
    """A gateway with its surroundings; `now` is moved by the test."""

    def __init__(self, **settings: Any) -> None:
        self.now = 100.0
        self.dispatcher = Dispatcher(lambda: self.now, **settings)
        self.forwarder = ScriptedForwarder()
        self.health = FakeMonitor(self.dispatcher)
        self.live_calls = LiveCalls()
        self.finished: list[Any] = []
        self.sweep = ClockSweep(lambda: self.now, lambda error: None)
        around = Surroundings(
            self.dispatcher,
            self.forwarder,
            lambda node_id: NodeTarget(node_id, f"http://{node_id}"),
            self.live_calls,
            self.sweep,
            Clocks(request_timeout_s=300.0),
            self,
            self.finished.append,
            lambda error: ErrorFacts(500, type(error).__name__, str(error)),
            lambda: self.now,
            lambda size: None,
        )
        watch = EjectionWatch(self.health, self.dispatcher, eject_after=3)
        self.gateway = Gateway(around, watch, RetryRule(), lambda error: b"", lambda: self.now, "boot")
        self.count = 0

    def save(self, record: Any) -> None:
        """As a recorder."""

    def add(self, *node_ids: str, models: tuple[str, ...] = ("m",), limit: int = 4) -> None:
        for node_id in node_ids:
            self.dispatcher.put_node(NodeSpec(node_id, f"http://{node_id}", models, limit), AdminState.ACTIVE)
            self.dispatcher.set_health(node_id, Health.UP)

    def accept(self, model: str = "m") -> tuple[Exchange, ScriptedClient]:
        self.count += 1
        client = ScriptedClient()
        call = InferenceCall("/v1/x", "", {}, b"{}", model, False, Priority.NORMAL, 1000.0, None, None, "10.0.0.1")
        return self.gateway.accept(call, client, f"req-{self.count}"), client

    def serve(self, model: str = "m") -> Reply | BaseException:
        """One call to its end: the reply, or the error."""
        exchange, _ = self.accept(model)
        try:
            return self.gateway.serve(exchange)
        except Exception as error:
            return error
        finally:
            exchange.close()

    def check_idle(self) -> None:
        assert (self.dispatcher.in_flight_count, self.dispatcher.waiting_count, len(self.live_calls)) == (0, 0, 0)
        assert len(self.finished) == self.count


@pytest.fixture
def desk() -> Any:
    desk = Desk(slow_start_s=10.0)
    yield desk
    desk.check_idle()


def test_a_cancellation_that_comes_with_the_deadline_is_no_error(desk: Desk) -> None:
    desk.add("a", limit=1)
    desk.forwarder.behaviour["a"] = None
    running, waiting = desk.accept()[0], desk.accept()[0]
    greenlets = [gevent.spawn(desk.gateway.serve, exchange) for exchange in (running, waiting)]
    gevent.sleep(0)
    assert waiting.ticket.is_waiting
    desk.now += 1001.0  # nobody has noticed yet
    waiting.cancel()
    running.cancel()
    gevent.joinall(greenlets)
    assert [type(greenlet.exception) for greenlet in greenlets] == [Cancelled, QueueTimeout]
    assert [record.outcome for record in desk.finished] == ["cancelled", "cancelled"]


# -- what ejects a node -----------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 404, 422, 500, 502, 504])
def test_answers_with_an_error_eject_no_node(desk: Desk, status: int) -> None:
    desk.add("a")
    desk.forwarder.behaviour["a"] = (status, b"{}")
    for _ in range(20):
        assert isinstance(desk.serve(), Reply)
    assert desk.health.down == []
    assert bool(desk.health.probed) == (status >= 500)


@pytest.mark.parametrize("who", ["client", "administrator"])
def test_a_caller_who_leaves_or_is_cancelled_says_nothing_of_the_node(desk: Desk, who: str) -> None:
    desk.add("a")
    desk.forwarder.behaviour["a"] = None
    for _ in range(5):
        exchange, client = desk.accept()
        serving = gevent.spawn(desk.gateway.serve, exchange)
        gevent.sleep(0)
        client.leave() if who == "client" else exchange.cancel()
        serving.join()
        exchange.close()
        assert isinstance(serving.exception, ClientGone) == (who == "client")
    assert (desk.health.down, desk.health.probed) == ([], [])


def test_a_request_that_times_out_now_and_then_ejects_no_node(desk: Desk) -> None:
    desk.add("a")
    for _ in range(10):
        desk.forwarder.behaviour["a"] = None
        exchange, _ = desk.accept()
        serving = gevent.spawn(desk.gateway.serve, exchange)
        gevent.sleep(0)
        desk.now += 301.0
        desk.sweep.sweep()
        serving.join()
        exchange.close()
        assert isinstance(serving.exception, NodeTimeout)
        desk.forwarder.behaviour["a"] = (500, b"{}")  # whatever the answer is, it is one
        desk.serve()
    assert desk.health.down == []


def test_a_node_that_fails_at_once_stops_attracting_requests(desk: Desk) -> None:
    desk.add("a", "b")
    desk.forwarder.behaviour["a"] = NodeUnreachable("connection refused")
    for _ in range(20):
        assert isinstance(desk.serve(), Reply)
    assert desk.forwarder.delivered.count("a") == 3
    assert desk.health.down == ["a"]


def test_a_half_open_node_that_fails_is_down_after_one_request(desk: Desk) -> None:
    desk.add("a", "b")
    desk.dispatcher.set_health("a", Health.DOWN)
    desk.dispatcher.set_health("a", Health.UP)
    desk.forwarder.behaviour["a"] = NodeUnreachable("connection refused")
    for _ in range(5):
        assert isinstance(desk.serve(), Reply)
    assert desk.forwarder.delivered.count("a") == 1
    assert desk.health.down == ["a"]


@pytest.mark.parametrize(("status", "is_over"), [(200, True), (400, True), (500, False)])
def test_an_answer_that_shows_it_can_serve_ends_the_half_open_state(desk: Desk, status: int, is_over: bool) -> None:
    desk.add("a")
    desk.dispatcher.set_health("a", Health.DOWN)
    desk.dispatcher.set_health("a", Health.UP)
    desk.forwarder.behaviour["a"] = (status, b"{}")
    desk.serve()
    assert desk.dispatcher.is_half_open("a") is not is_over


# -- poisonous requests -----------------------------------------------------------------------


@pytest.mark.parametrize(("nodes", "deaths"), [(1, 1), (2, 1), (3, 2), (5, 2)])
def test_a_poisonous_request_kills_two_nodes_at_most_and_never_the_last(desk: Desk, nodes: int, deaths: int) -> None:
    desk.add(*(f"n{i}" for i in range(nodes)))
    for i in range(nodes):
        desk.forwarder.behaviour[f"n{i}"] = NodeClosed("closed")
    assert isinstance(desk.serve(), NodeClosed)
    assert len(set(desk.forwarder.delivered)) == len(desk.forwarder.delivered) == deaths


def test_a_poisonous_request_that_waits_ends_with_its_own_error_when_company_goes(desk: Desk) -> None:
    desk.add("a")
    desk.forwarder.behaviour["b"] = desk.forwarder.behaviour["c"] = None
    poisonous, _ = desk.accept()

    def dies() -> NodeClosed:
        """While the call is on `a`, two other nodes come and are full at once."""
        desk.add("b", "c", limit=1)
        for exchange in others:
            fillers.append(gevent.spawn(desk.gateway.serve, exchange))
        gevent.sleep(0)
        return NodeClosed("closed")

    fillers: list[Any] = []
    others = [desk.accept()[0] for _ in range(2)]
    desk.forwarder.behaviour["a"] = dies
    serving = gevent.spawn(desk.gateway.serve, poisonous)
    gevent.sleep(0)
    gevent.sleep(0)
    assert desk.dispatcher.waiting_count == 1
    desk.dispatcher.set_health("c", Health.DOWN)
    serving.join()
    assert isinstance(serving.exception, NodeClosed)
    assert desk.forwarder.delivered[0] == "a"
    assert sorted(desk.forwarder.delivered[1:]) == ["b", "c"]  # by the two others
    for delivery in desk.forwarder.silent:
        delivery.abort(NodeTimeout("request_timeout"))
    gevent.joinall(fillers)
    for exchange in (poisonous, *others):
        exchange.close()


# -- models that a node does not have ---------------------------------------------------------


def test_a_model_that_a_node_lacks_is_asked_of_it_once(desk: Desk) -> None:
    desk.add("a", "b", models=("m", "other"))
    desk.forwarder.behaviour["a"] = NO_SUCH_MODEL
    for _ in range(10):
        reply = desk.serve()
        assert isinstance(reply, Reply)
        assert reply.status == 200
    assert desk.forwarder.delivered.count("a") == 1
    assert desk.health.probed == ["a"]
    desk.forwarder.behaviour["a"] = (200, b"{}")
    for _ in range(4):
        desk.serve("other")
    assert desk.forwarder.delivered.count("a") > 1


def test_where_no_other_node_has_it_the_engines_own_words_pass(desk: Desk) -> None:
    desk.add("a")
    desk.forwarder.behaviour["a"] = NO_SUCH_MODEL
    reply = desk.serve()
    assert isinstance(reply, Reply)
    assert reply.status == 404


# -- what keeps a slow node up ----------------------------------------------------------------


def test_who_has_sent_bytes_is_known_while_they_come_and_after_the_end(desk: Desk) -> None:
    desk.add("a", "b")
    desk.forwarder.behaviour["b"] = None
    assert not desk.live_calls.delivered_since("a", 0.1)
    exchange, _ = desk.accept()
    desk.gateway.serve(exchange)
    assert desk.live_calls.delivered_since("a", desk.now)
    exchange.close()
    assert desk.live_calls.delivered_since("a", desk.now)
    assert not desk.live_calls.delivered_since("a", desk.now + 0.1)
    assert not desk.live_calls.delivered_since("b", 0.1)
