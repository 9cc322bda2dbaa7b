"""Times what the panel asks of the records, at a million rows or ten: `python benchmarks/records.py [ROWS]`.

Rows are spread evenly over 30 days up to now, of 4 models, 8 nodes, 12 keys and all outcomes, and written as the
recorder writes them, rollups included. Each call goes through Flask, the reader's threads and a real SQLite file, as in
the server; beside them a greenlet looks how late the event loop gets. `--keep FILE` keeps the database for another run.
"""

from gevent import monkey

monkey.patch_all()

import argparse  # noqa: E402
import random  # noqa: E402
import statistics as mean_of  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from datetime import UTC, datetime, timedelta  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
from flask import Flask, jsonify  # noqa: E402

from scheduler.adapters import migrate  # noqa: E402
from scheduler.adapters.cleanup import Limits, SqlCleanup  # noqa: E402
from scheduler.adapters.clock_guard import ClockGuard  # noqa: E402
from scheduler.adapters.database import open_database  # noqa: E402
from scheduler.adapters.database_threads import DatabaseThreads  # noqa: E402
from scheduler.adapters.recorder import COLUMNS  # noqa: E402
from scheduler.adapters.request_log import SqlRequestLog  # noqa: E402
from scheduler.adapters.rollups import Rollups  # noqa: E402
from scheduler.adapters.statistics import SqlStatistics  # noqa: E402
from scheduler.adapters.tables import REQUESTS  # noqa: E402
from scheduler.adapters.tally import Facts  # noqa: E402
from scheduler.adapters.upsert import Upsert  # noqa: E402
from scheduler.web import admin_requests, admin_stats  # noqa: E402
from scheduler.web.error_handlers import install_error_handlers  # noqa: E402
from scheduler.web.figures_json import totals_json  # noqa: E402
from scheduler.web.schemas import database_json  # noqa: E402

DAYS = 30
AT_ONCE = 20_000
LIMIT_MS = 200.0


class Shelf:
    """What the blueprints of records and statistics ask for; the rest of the server is not there."""

    def __init__(self, writer: DatabaseThreads, reader: DatabaseThreads) -> None:
        self.request_log = SqlRequestLog(reader)
        self.statistics = SqlStatistics(reader)
        self.cleanup = SqlCleanup(writer, reader, Limits(7, 0, 400), ClockGuard(), False, 3600.0)


def rows(count: int, begin_ms: int, end_ms: int) -> Iterator[tuple[Any, ...]]:
    """Rows of `requests`, in the order of COLUMNS."""
    chance = random.Random(1)
    models = [f"model-{number}" for number in range(4)]
    nodes = [f"gpu-{number:02}" for number in range(8)]
    keys = [f"team-{number:02}" for number in range(12)]
    step = (end_ms - begin_ms) / count
    for number in range(count):
        ends = chance.random()
        outcome = (
            "completed" if ends < 0.95 else "failed" if ends < 0.97 else "client_closed" if ends < 0.99 else "evicted"
        )
        created_at = int(begin_ms + number * step)
        queue_ms, ttfb_ms = chance.expovariate(0.02), chance.lognormvariate(5.5, 0.8)
        latency_ms = ttfb_ms + chance.lognormvariate(7.5, 0.9)
        is_completed, has_node = outcome == "completed", outcome != "evicted"
        values: dict[str, Any] = {
            "id": f"{created_at:012x}-{number:08x}",
            "boot_id": "boot",
            "client_request_id": None,
            "model": chance.choice(models),
            "key_name": chance.choice(keys),
            "path": "/v1/chat/completions",
            "stream": True,
            "client": "10.0.0.1",
            "created_at": created_at,
            "priority": "normal" if chance.random() < 0.9 else "high",
            "status": "completed" if is_completed else "failed",
            "outcome": outcome,
            "node_id": chance.choice(nodes) if has_node else None,
            "decision": "fewest in flight by weight" if has_node else None,
            "started_at": created_at + int(queue_ms) if has_node else None,
            "first_byte_at": created_at + int(ttfb_ms) if has_node else None,
            "finished_at": created_at + int(latency_ms),
            "queue_ms": queue_ms,
            "ttfb_ms": ttfb_ms if has_node else None,
            "latency_ms": latency_ms,
            "http_status": 200 if is_completed else 502,
            "error_code": None if is_completed else "upstream_timeout" if outcome == "failed" else outcome,
            "error_message": None if is_completed else "It did not work.",
            "prompt_tokens": chance.randrange(2000) if is_completed else None,
            "completion_tokens": chance.randrange(800) if is_completed else None,
            "bytes_in": 2000,
            "bytes_out": 20_000,
            "attempts": f'[["{nodes[0]}",{queue_ms:.1f},"{outcome}",{latency_ms:.1f}]]' if has_node else None,
        }
        yield tuple(values[name] for name in COLUMNS)


def fill(writer: DatabaseThreads, count: int, end: float) -> None:
    """Write the rows and their rollups; without waiting for the disk, which only the filling may do."""
    upsert, rollups = Upsert(REQUESTS, COLUMNS, "id", (), writer.engine.dialect), Rollups(writer.engine.dialect)
    places = [COLUMNS.index(name) for name in Facts._fields]
    made = rows(count, round((end - DAYS * 86400) * 1000), round(end * 1000))
    while batch := [row for row, _ in zip(made, range(AT_ONCE), strict=False)]:
        facts = [Facts(*(row[place] for place in places)) for row in batch]

        def write(connection: Any, batch: list[Any] = batch, facts: list[Facts] = facts) -> None:
            upsert.execute(connection, batch)
            rollups.add_at_once(connection, facts)

        writer.run(write)


def calls(now: float) -> dict[str, str]:
    """The panel's calls, by what they are for. Ranges begin and end anywhere, as those of a panel do."""
    end = datetime.fromtimestamp(now, UTC)
    day, month = (f"start_time={(end - timedelta(days=days)):%Y-%m-%dT%H:%M:%S}.5Z" for days in (1, DAYS))
    return {
        "status": "/status",
        "stats, 24 h": f"/stats?{day}",
        "stats, 30 d": f"/stats?{month}",
        "stats by model, 30 d": f"/stats/models?{month}",
        "timeseries, 24 h by 15 min": f"/stats/timeseries?{day}&step=15m&tz=Asia/Shanghai",
        "timeseries, 30 d by day": f"/stats/timeseries?{month}&step=1d&tz=Asia/Shanghai",
        "timeseries, 30 d by day and model": f"/stats/timeseries?{month}&step=1d&tz=Asia/Kolkata&group_by=model",
        "timeseries, 30 d by day and key": f"/stats/timeseries?{month}&step=1d&tz=Asia/Shanghai&group_by=key",
        "usage by key and model, 30 d": f"/stats/usage?{month}&tz=Asia/Shanghai",
        "requests, first page": "/requests?limit=100",
        "requests of a model, first page": "/requests?model=model-1&limit=100",
        "requests of a model, page 500": "/requests?model=model-1&limit=100&offset=49900",
        "failed of 24 h, first page": f"/requests?status=failed&{day}&limit=100",
        "one request": "/requests?q=0&limit=1",
    }


def time_calls(app: Flask, wanted: dict[str, str], repeats: int) -> bool:
    """Print a table; True where every median is within the limit."""
    late_ms: list[float] = []

    def watch() -> None:
        while True:
            begun = time.perf_counter()
            gevent.sleep(0.005)
            late_ms.append((time.perf_counter() - begun) * 1000 - 5)

    is_fast = True
    client = app.test_client()
    times = f"{'first ms':>9} {'median ms':>10} {'most ms':>9} {'cpu ms':>7}"
    print(f"{'call':<36} {times} {'loop late p99':>13} {'most':>6} {'bytes':>8}")
    for name, path in wanted.items():
        late_ms.clear()
        watching = gevent.spawn(watch)
        took_ms, size, cpu = [], 0, time.process_time()
        for _ in range(repeats):
            begun = time.perf_counter()
            reply = client.get(path)
            took_ms.append((time.perf_counter() - begun) * 1000)
            assert reply.status_code == 200, reply.text
            size = len(reply.data)
            gevent.sleep(0.01)
        watching.kill()
        cpu_ms = (time.process_time() - cpu) * 1000 / repeats
        median = mean_of.median(took_ms)
        is_fast &= median < LIMIT_MS
        p99 = sorted(late_ms)[int(len(late_ms) * 0.99)]
        times = f"{took_ms[0]:>9.1f} {median:>10.1f} {max(took_ms):>9.1f} {cpu_ms:>7.1f}"
        print(f"{name:<36} {times} {p99:>13.1f} {max(late_ms):>6.1f} {size:>8}")
    return is_fast


def time_call(what: str, work: Callable[[], object]) -> None:
    begun = time.perf_counter()
    work()
    print(f"{what}: {time.perf_counter() - begun:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="?", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--keep", type=Path, help="a database file that is made where it is missing, and kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = options.keep or Path(folder) / "records.db"
        is_new = not file.exists()
        app = Flask("records")
        engine = open_database(app, path=str(file))
        migrate.upgrade(app)
        writer, reader = DatabaseThreads(engine, 1), DatabaseThreads(engine, 2, reads_only=True)
        if is_new:
            time_call(f"{options.rows:,} rows written", lambda: fill(writer, options.rows, time.time()))
        shelf = Shelf(writer, reader)
        app.extensions["scheduler"] = shelf
        app.register_blueprint(admin_requests.blueprint)
        app.register_blueprint(admin_stats.blueprint)
        install_error_handlers(app)

        @app.get("/status")
        def status() -> Any:
            # The part of /admin/status that asks the database; the rest is in memory.
            recent = shelf.statistics.totals(time.time() - 300, None)
            return jsonify(totals_json(recent) | database_json(shelf.cleanup.size(), shelf.cleanup.state()))

        size = shelf.cleanup.size()
        print(f"{size.rows_estimate:,} rows, {(size.bytes or 0) / 1e6:,.0f} MB")
        is_fast = time_calls(app, calls(time.time()), options.repeats)
        print(f"every median under {LIMIT_MS:.0f} ms: {'yes' if is_fast else 'no'}")
        reader.close()
        writer.close()


if __name__ == "__main__":
    main()
