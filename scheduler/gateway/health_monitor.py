"""HealthMonitor: watches the health of the registered nodes."""

import random
from collections.abc import Callable

import gevent
from gevent.event import Event as Signal

from scheduler.core.dispatcher import Dispatcher
from scheduler.core.dispatcher_pool import DispatcherPool
from scheduler.core.node import Health
from scheduler.errors import UnknownNode
from scheduler.gateway.health_rule import CONFIRM_S, HealthRule
from scheduler.gateway.ports import Event, EventLog, NodeTarget, Prober, ProbeResult
from scheduler.gateway.roster import NodeRoster

#: The reasons of a node that refuses our key, and of one that does not answer in time.
AUTH = "auth"
TIMEOUT = "timeout"


class HealthMonitor:
    """Probes every watched node in a greenlet of its own, and tells the dispatcher what the probes say.

    `clock` gives seconds that never run backwards, `wall_clock` seconds since the epoch. `interval_s` is the time
    between the beginnings of two probes of a healthy node; `jitter` gives its factor each time. `delivered_since(id,
    at)` is True where the node has sent any byte of an answer since: then it is at work, and a probe that timed out
    counts for nothing. `log_transition(id, before, after, reason)` is told each change of health, `log_warning(id,
    text)` what is odd about a node, `on_error` what went wrong in a probe's greenlet, which then goes on.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        pool: DispatcherPool,
        roster: NodeRoster,
        prober: Prober,
        events: EventLog,
        *,
        interval_s: float,
        rise: int,
        fall: int,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        log_transition: Callable[[str, str, str, str | None], None],
        on_error: Callable[[BaseException], None],
        log_warning: Callable[[str, str], None] = lambda node_id, text: None,
        delivered_since: Callable[[str, float], bool] = lambda node_id, at: False,
        jitter: Callable[[], float] = lambda: random.uniform(0.9, 1.1),
    ) -> None:
        self._dispatcher = dispatcher
        self._pool = pool
        self._roster = roster
        self._prober = prober
        self._events = events
        self._interval_s = interval_s
        self._rise = rise
        self._fall = fall
        self._clock = clock
        self._wall_clock = wall_clock
        self._log_transition = log_transition
        self._on_error = on_error
        self._log_warning = log_warning
        self._delivered_since = delivered_since
        self._jitter = jitter
        self._watches: dict[str, _Watch] = {}
        self._is_running = False

    def __repr__(self) -> str:
        return f"<HealthMonitor {len(self._watches)} nodes>"

    def start(self) -> None:
        """Begin to probe all nodes: until then they are neither up nor down, and whoever wants them waits."""
        self._is_running = True
        for node in self._roster.list():
            self.watch(node.id)

    def watch(self, node_id: str) -> None:
        """Probe this node from now on, at once. Called when it has registered, moved or got another key.

        Before `start`, and after `stop`, nothing happens.
        """
        if not self._is_running:
            return
        try:
            target = self._roster.target(node_id)
        except UnknownNode:
            return
        watch = self._watches.get(node_id)
        if watch is not None and watch.target == target:
            watch.wake(self._clock())
            return
        self.forget(node_id)
        successor = self._watches[node_id] = _Watch(target, HealthRule(self._rise, self._fall), self._clock())
        if watch is not None and watch.target.address == target.address:
            # Another key says nothing of the node's health, and a refusal of the old one is to be looked into again.
            successor.rule, successor.reason = watch.rule, watch.reason
            successor.must_check_key, successor.warnings = watch.must_check_key, watch.warnings
        successor.greenlet = gevent.spawn(self._run, successor)

    def forget(self, node_id: str) -> None:
        """Probe this node no longer; the result of a probe under way is ignored."""
        watch = self._watches.pop(node_id, None)
        if watch is not None and watch.greenlet is not None:
            watch.greenlet.kill(block=False)

    def probe_now(self, node_id: str) -> None:
        """Probe this node soon: something makes it suspect. At most once a second, however often it is called."""
        watch = self._watches.get(node_id)
        if watch is not None:
            watch.wake(max(self._clock(), watch.probed_at + CONFIRM_S))

    def mark_down(self, node_id: str, reason: str) -> None:
        """Take this node down at once, until a probe succeeds. For `auth`, a probe that shows our key."""
        watch = self._watches.get(node_id)
        if watch is None:
            return
        before = watch.rule.health
        watch.rule.force_down()
        watch.reason = reason
        watch.must_check_key = watch.must_check_key or reason == AUTH
        watch.generation += 1  # a probe under way knows nothing of this
        watch.postpone(self._clock() + watch.rule.next_probe_s(self._interval_s))
        # Not by way of the pool: the caller is about to submit its ticket again, and must not come back here.
        self._dispatcher.set_health(node_id, Health.DOWN, reason)
        self._tell(node_id, before, Health.DOWN, reason)

    def stop(self) -> None:
        """End all probing."""
        self._is_running = False
        for node_id in list(self._watches):
            self.forget(node_id)

    # -- inside: one greenlet a node ----------------------------------------------------------

    def _run(self, watch: "_Watch") -> None:
        while self._is_current(watch):
            try:
                self._probe(watch)
            except Exception as error:
                # A greenlet that died here would leave its node's health as it is, for ever.
                self._on_error(error)
                watch.postpone(self._clock() + self._interval_s)
            while (wait_s := watch.due_at - self._clock()) > 0:
                watch.signal.wait(wait_s)
                watch.signal.clear()

    def _probe(self, watch: "_Watch") -> None:
        node_id, generation = watch.target.id, watch.generation
        began_at = watch.probed_at = self._clock()
        watch.due_at = float("inf")  # whoever asks for a probe from now on gets another one
        result = self._prober.probe(watch.target, check_key=watch.must_check_key)
        if not self._is_current(watch):
            return
        self._roster.note_check(node_id, self._wall_clock())
        if watch.generation == generation and not self._is_at_work(watch, result):
            before = watch.rule.health
            after = watch.rule.note(result.is_up)
            if after is Health.UP:
                watch.reason = None
            elif not result.is_up:
                watch.reason = result.reason
            watch.must_check_key = not result.is_up and (watch.must_check_key or result.reason == AUTH)
            self._pool.post(lambda: self._apply(watch))
            self._tell(node_id, before, after, watch.reason)
        if result.is_up:
            self._pool.post(lambda: self._dispatcher.note_models(node_id, result.models))
            self._compare_models(watch, result.models)
        # From its beginning: a node that lets probes time out is probed as often as another.
        watch.wake(max(self._clock(), began_at + watch.rule.next_probe_s(self._interval_s) * self._jitter()))

    def _is_at_work(self, watch: "_Watch", result: ProbeResult) -> bool:
        """True where a node that is up was only too busy to answer a probe in time."""
        is_slow = result.reason == TIMEOUT and not result.is_up and watch.rule.health is Health.UP
        return is_slow and self._delivered_since(watch.target.id, self._clock() - self._interval_s)

    def _compare_models(self, watch: "_Watch", listed: tuple[str, ...] | None) -> None:
        """Warn, once a change, of models that a node is registered with and does not list."""
        if listed is None:
            return
        node_id = watch.target.id
        self._roster.note_models(node_id, listed)
        warnings = self._roster.get(node_id).warnings
        if warnings == watch.warnings:
            return
        before, watch.warnings = watch.warnings, warnings
        note = "; ".join(warnings) or "all registered models are listed"
        self._log_warning(node_id, note)
        was, is_now = {"warnings": list(before)}, {"warnings": list(warnings)}
        self._events.add(Event(self._wall_clock(), "node.models", node_id, "scheduler", was, is_now, note))

    def _apply(self, watch: "_Watch") -> None:
        """In a greenlet of the pool: tell the dispatcher what is known by now, unless the node is gone or has moved."""
        if self._is_current(watch):
            self._dispatcher.set_health(watch.target.id, watch.rule.health, watch.reason)

    def _is_current(self, watch: "_Watch") -> bool:
        return self._watches.get(watch.target.id) is watch

    def _tell(self, node_id: str, before: Health, after: Health, reason: str | None) -> None:
        if before is after:
            return
        self._log_transition(node_id, before.value, after.value, reason)
        was, is_now = {"health": before.value}, {"health": after.value}
        self._events.add(Event(self._wall_clock(), f"node.{after}", node_id, "scheduler", was, is_now, reason))


class _Watch:
    """One node under watch."""

    def __init__(self, target: NodeTarget, rule: HealthRule, due_at: float) -> None:
        self.target = target
        self.rule = rule
        self.reason: str | None = None  # why it is down
        self.must_check_key = False
        self.warnings: tuple[str, ...] = ()  # as told
        self.due_at = due_at  # of the next probe
        self.probed_at = float("-inf")  # when the last one began
        self.generation = 0  # grows when a probe under way has become worthless
        self.signal = Signal()
        self.greenlet: gevent.Greenlet | None = None

    def wake(self, due_at: float) -> None:
        """Probe at `due_at`, or sooner where that was planned."""
        self.due_at = min(self.due_at, due_at)
        self.signal.set()

    def postpone(self, due_at: float) -> None:
        """Probe at `due_at`, whatever was planned."""
        self.due_at = due_at
        self.signal.set()
