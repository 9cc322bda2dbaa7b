"""bootstrap: the only place that constructs. Reads top to bottom as the parts depend on each other."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gevent
from flask import Flask
from gunicorn.http.errors import ParseException

from scheduler import __version__
from scheduler.adapters.address_book import AddressBook
from scheduler.adapters.boots import Boot, begin_boot, mark_interrupted, register_boot
from scheduler.adapters.cleanup import Limits, SqlCleanup
from scheduler.adapters.client_connection import ClientWatch, SocketClient
from scheduler.adapters.clock_guard import ClockGuard
from scheduler.adapters.damage import damage_warnings
from scheduler.adapters.database import is_sqlite, open_database, sqlite_file
from scheduler.adapters.database_size import database_bytes
from scheduler.adapters.database_threads import DatabaseThreads
from scheduler.adapters.event_log import BatchEventLog
from scheduler.adapters.forwarder import HttpForwarder
from scheduler.adapters.metrics_page import PrometheusPage
from scheduler.adapters.node_examiner import HttpNodeExaminer
from scheduler.adapters.node_store import SqlNodeStore
from scheduler.adapters.prober import HttpProber
from scheduler.adapters.recorder import COLUMNS, BatchRecorder
from scheduler.adapters.request_log import SqlRequestLog
from scheduler.adapters.request_metrics import RequestMetrics
from scheduler.adapters.roster_snapshot import RosterSnapshot
from scheduler.adapters.spool import SUFFIX, Spool, dead_spools
from scheduler.adapters.state_metrics import StateMetrics, Watched
from scheduler.adapters.statistics import SqlStatistics
from scheduler.core.dispatcher import Dispatcher
from scheduler.core.dispatcher_pool import DispatcherPool
from scheduler.gateway.caller import Caller, KeyRing
from scheduler.gateway.clocks import Clocks, ClockSweep
from scheduler.gateway.exchange import ErrorFacts, Surroundings
from scheduler.gateway.gateway import Gateway, RetryRule
from scheduler.gateway.health_monitor import HealthMonitor
from scheduler.gateway.held_bytes import HeldBytes
from scheduler.gateway.hub_lag import HubLag
from scheduler.gateway.live_calls import LiveCalls
from scheduler.gateway.loop import Loop
from scheduler.gateway.node_trial import NodeTrial
from scheduler.gateway.node_watch import EjectionWatch
from scheduler.gateway.record import RequestRecord
from scheduler.gateway.roster import NodeRoster
from scheduler.logs import log_node, log_request
from scheduler.request_ids import request_ids
from scheduler.runtime import Runtime
from scheduler.settings import Loaded, Settings, as_dict
from scheduler.web.body_reader import BodyReader
from scheduler.web.context import Services
from scheduler.web.data_plane import DataPlane, error_event
from scheduler.web.error_handlers import describe

log = logging.getLogger(__name__)

#: Threads for reading records; the writer has one of its own.
READER_THREADS = 2

clock = time.monotonic
wall_clock = time.time


@dataclass(frozen=True, slots=True)
class Built:
    """The whole program, not yet running."""

    data_plane: DataPlane
    runtime: Runtime
    services: Services
    key_ring: KeyRing


def data_folder(settings: Settings) -> Path:
    """Where the database and the locks are."""
    return Path(settings.database.path).absolute().parent


def spool_folder(settings: Settings) -> Path:
    """Where records wait on disk while the database takes none."""
    given = settings.database.spool_path
    return Path(given).absolute() if given else data_folder(settings) / "spool"


def roster_snapshot(settings: Settings) -> RosterSnapshot | None:
    """The copy of the nodes beside a SQLite file; None for PostgreSQL."""
    file = sqlite_file(settings.database.path, settings.database.url)
    return RosterSnapshot(file.with_name("roster.json")) if file is not None else None


def build(app: Flask, loaded: Loaded) -> Built:
    """Build everything from the settings. Raises StartRefused."""
    settings = loaded.settings
    server, scheduling = settings.server, settings.scheduler
    folder = data_folder(settings)
    boot = begin_boot(folder)

    # The database and what writes to it.
    engine = open_database(app, settings.database.path, settings.database.url)
    writer = DatabaseThreads(engine, 1)
    reader = DatabaseThreads(engine, READER_THREADS, reads_only=is_sqlite(engine))
    spools = spool_folder(settings)
    recorder = BatchRecorder(writer, spool=Spool(spools / f"{boot.id}{SUFFIX}", COLUMNS))
    events = BatchEventLog(writer)

    kept = settings.database
    cleanup = SqlCleanup(
        writer,
        reader,
        Limits(kept.retention_days, kept.max_rows, kept.rollup_days),
        ClockGuard(wall_clock),
        kept.cleanup_enabled,
        kept.cleanup_interval,
    )
    cleaning = Loop(cleanup.step, _report("the clean-up of old records"))

    # Who gets which slot.
    dispatcher = Dispatcher(
        clock,
        max_queue_size=scheduling.max_queue_size,
        max_queue_per_model=scheduling.max_queue_per_model,
        unavailable_wait_s=scheduling.unavailable_wait,
        probe_interval_s=scheduling.health_check_interval,
        aging_s=scheduling.aging,
        slow_start_s=scheduling.slow_start,
    )
    pool = DispatcherPool(dispatcher, clock, scheduling.worker_count, _report("the dispatcher pool"))

    # The nodes: their list, their health, the way to them.
    book = AddressBook()
    ca_file = scheduling.node_ca_file or None
    forwarder = HttpForwarder(book, clock, ca_file)
    roster = NodeRoster(
        dispatcher,
        SqlNodeStore(writer, roster_snapshot(settings)),
        events,
        clock,
        wall_clock,
        on_registered=lambda node_id: monitor.watch(node_id),
        on_removed=lambda node_id: monitor.forget(node_id),
        on_left=forwarder.forget,
    )
    monitor = HealthMonitor(
        dispatcher,
        pool,
        roster,
        HttpProber(scheduling.health_check_path, scheduling.health_check_timeout, ca_file),
        events,
        interval_s=scheduling.health_check_interval,
        rise=scheduling.health_check_rise,
        fall=scheduling.health_check_fall,
        clock=clock,
        wall_clock=wall_clock,
        log_transition=log_node,
        on_error=_report("the health monitor"),
        log_warning=lambda node_id, text: log.warning("node %s: %s", node_id, text),
        delivered_since=lambda node_id, at: live_calls.delivered_since(node_id, at),
    )

    examiner = HttpNodeExaminer(scheduling.health_check_path, 2 * scheduling.health_check_timeout, clock, ca_file)

    # The way of a request.
    live_calls = LiveCalls()
    held = HeldBytes(server.max_held_bytes)
    sweep = ClockSweep(clock, _report("the clocks"))
    client_watch = ClientWatch(_report("the watch on clients"))
    names = Loop(lambda: _refresh_names(book, scheduling.health_check_interval), _report("looking names up"))
    hub_lag = HubLag(clock, _report("the watch on the event loop"))
    request_metrics = RequestMetrics(lambda model: any(model in node.spec.models for node in dispatcher.nodes()))

    def finished(record: RequestRecord) -> None:
        log_request(record)
        request_metrics.note_finished(record)

    around = Surroundings(
        dispatcher,
        forwarder,
        roster.target,
        live_calls,
        sweep,
        Clocks(
            scheduling.connect_timeout,
            scheduling.request_timeout,
            scheduling.idle_timeout,
            scheduling.stream_timeout,
            server.write_timeout,
        ),
        recorder,
        finished,
        _explain,
        clock,
        held.give_back,
    )
    gateway = Gateway(
        around,
        EjectionWatch(monitor, dispatcher, scheduling.eject_after),
        RetryRule(scheduling.max_attempts, scheduling.retry_sent),
        error_event,
        wall_clock,
        boot.id,
    )
    key_ring = KeyRing(
        [Caller(key.name, key.priority, key.max_priority, key.key.encode()) for key in settings.auth.api_keys]
    )
    data_plane = DataPlane(
        gateway,
        key_ring,
        BodyReader(
            server.max_body,
            server.read_timeout,
            held.take,
            held.give_back,
            lambda error: isinstance(error, ParseException),
            lambda: gevent.sleep(0),
        ),
        request_ids(boot.id, wall_clock),
        lambda environ: SocketClient(client_watch, environ["gunicorn.socket"]),
        scheduling.queue_timeout,
        scheduling.queue_timeout_max,
        scheduling.sse_keepalive,
        request_metrics.note_unread,
    )

    # What runs beside the requests, in the order in which it starts.
    file_nodes = [node.model_dump() for node in settings.nodes]
    runtime = Runtime(
        dispatcher=dispatcher,
        live_calls=live_calls,
        services=(client_watch, pool, sweep, names, hub_lag, cleaning),
        writers=(recorder, events),
        sweeps=(forwarder.sweep,),
        boot=boot,
        links_folder=folder / "handover",
        shutdown_timeout_s=server.shutdown_timeout,
        begin=lambda: _begin(writer, boot, roster, file_nodes, services.warnings()),
        take_over=lambda: _take_over(writer, recorder, folder, spools, monitor),
        predecessor_gone=lambda: _finish_dead(writer, recorder, folder, spools),
        end=lambda: _end(monitor, forwarder, writer, reader),
    )
    state_metrics = StateMetrics(
        Watched(
            dispatcher,
            (recorder, events),
            hub_lag,
            lambda: held.held,
            server.max_held_bytes,
            scheduling.max_queue_size,
            lambda: database_bytes(engine),
            lambda: runtime.uptime_s,
            runtime.is_ready,
            __version__,
        )
    )
    metrics_key = settings.auth.metrics_key
    admin_keys = tuple(key.key.encode() for key in settings.auth.admin_api_keys)
    services = Services(
        dispatcher=dispatcher,
        roster=roster,
        node_trial=NodeTrial(roster, examiner, clock),
        live_calls=live_calls,
        request_log=SqlRequestLog(reader),
        statistics=SqlStatistics(reader),
        cleanup=cleanup,
        event_log=events,
        admin_keys=admin_keys,
        metrics_page=PrometheusPage((request_metrics, state_metrics)),
        metrics_keys=(metrics_key.encode(),) if metrics_key else (),
        settings_view=lambda: as_dict(loaded),
        warnings=lambda: _warnings(loaded, key_ring, admin_keys, recorder, events, hub_lag, cleanup),
        hub_lag=hub_lag,
        is_ready=runtime.is_ready,
        uptime_s=lambda: runtime.uptime_s,
        version=__version__,
        boot_id=boot.id,
    )
    return Built(data_plane, runtime, services, key_ring)


def _begin(
    writer: DatabaseThreads,
    boot: Boot,
    roster: NodeRoster,
    file_nodes: list[dict[str, Any]],
    warnings: list[str],
) -> None:
    """Write this boot down before its first record, and register the nodes: no request finds its model unknown."""
    writer.run(lambda connection: register_boot(connection, boot, __version__))
    for warning in [*warnings, *roster.load(file_nodes)]:
        log.warning("%s", warning)


def _take_over(
    writer: DatabaseThreads, recorder: BatchRecorder, folder: Path, spools: Path, monitor: HealthMonitor
) -> None:
    """Begin to probe: granting begins with the first node that is up. And finish what dead boots have left."""
    monitor.start()
    _finish_dead(writer, recorder, folder, spools)


def _finish_dead(writer: DatabaseThreads, recorder: BatchRecorder, folder: Path, spools: Path) -> None:
    # Ends that wait on the disk first: what has one is not interrupted.
    with contextlib.ExitStack() as stack:
        # In a thread: a spool may be long.
        left_behind = gevent.get_hub().threadpool.apply(stack.enter_context, (dead_spools(spools, COLUMNS),))
        for spool in left_behind:
            if spool.count:
                log.warning("%d records of the spool %s are in the database now.", recorder.replay(spool), spool.file)
    left = writer.run(lambda connection: mark_interrupted(connection, folder, wall_clock()))
    if left:
        log.warning("%d requests of a process that ended early are marked interrupted", left)


def _refresh_names(book: AddressBook, pause_s: float) -> None:
    gevent.sleep(pause_s)
    book.refresh_names()


def _end(monitor: HealthMonitor, forwarder: HttpForwarder, writer: DatabaseThreads, reader: DatabaseThreads) -> None:
    monitor.stop()
    forwarder.close()
    reader.close()
    writer.close()


def _warnings(
    loaded: Loaded,
    key_ring: KeyRing,
    admin_keys: tuple[bytes, ...],
    recorder: BatchRecorder,
    events: BatchEventLog,
    hub_lag: HubLag,
    cleanup: SqlCleanup,
) -> list[str]:
    """What an operator must know."""
    found = list(loaded.warnings)
    if file := sqlite_file(loaded.settings.database.path, loaded.settings.database.url):
        found += damage_warnings(file)
    if not admin_keys:
        found.append("The admin side is open to anybody: set auth.admin_api_keys.")
    if key_ring.is_open:
        found.append("Anybody may send requests: set auth.api_keys.")
    if hub_lag.is_worrying:
        found.append(f"The event loop was {hub_lag.max_ms:.0f} ms late within the last minute: streams stutter.")
    if doubt := cleanup.state().held:
        found.append(f"Old records are kept: {doubt}. 'llm-scheduler requests cleanup' says that it is right.")
    for writing in (recorder, events):
        if writing.lost:
            found.append(f"{writing.lost} {writing.name} were lost since the start.")
        if writing.last_error:
            found.append(f"The database takes no {writing.name} ({writing.last_error}); {writing.backlog} wait.")
    if (overflow := recorder.overflow) is not None:
        if overflow.count:
            found.append(f"{overflow.count} records wait in {overflow.spool.file} until the database takes them.")
        if problem := overflow.last_error or overflow.spool.problem:
            found.append(f"Records cannot wait on disk ({overflow.spool.file.parent}: {problem}), only in memory.")
    return found


def _explain(error: BaseException) -> ErrorFacts:
    answer = describe(error)
    return ErrorFacts(answer.status, answer.code, answer.message)


def _report(what: str) -> Callable[[BaseException], None]:
    return lambda error: log.error("an error in %s", what, exc_info=error)
