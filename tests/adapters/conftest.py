"""A real SQLite file for every test, migrated as at a start."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import Engine

from scheduler.adapters import migrate
from scheduler.adapters.database import open_database
from scheduler.adapters.database_threads import DatabaseThreads
from scheduler.gateway.record import RequestRecord

START = 1_700_000_000.0


@pytest.fixture
def app() -> Flask:
    return Flask("test")


@pytest.fixture
def database_file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "scheduler.db"


@pytest.fixture
def engine(app: Flask, database_file: Path) -> Engine:
    engine = open_database(app, path=str(database_file))
    migrate.upgrade(app)
    return engine


@pytest.fixture
def writer(engine: Engine) -> Iterator[DatabaseThreads]:
    threads = DatabaseThreads(engine, 1)
    yield threads
    threads.close()


@pytest.fixture
def reader(engine: Engine) -> Iterator[DatabaseThreads]:
    threads = DatabaseThreads(engine, 2, reads_only=True)
    yield threads
    threads.close()


@pytest.fixture
def new_record() -> Callable[..., RequestRecord]:
    """Makes records: number 1 has the id `r-00001` and is created one second after START.

    `ended` says how it ended, in the words of Outcome; without it the record still waits.
    """

    def make(number: int = 1, ended: str | None = None, **fields: Any) -> RequestRecord:
        values: dict[str, Any] = {
            "id": f"r-{number:05}",
            "boot_id": "boot-1",
            "model": "llama",
            "priority": "normal",
            "path": "/v1/chat/completions",
            "stream": False,
            "client": "10.0.0.1",
            "created_at": START + number,
        }
        if ended == "completed":
            values |= {"status": "completed", "http_status": 200, "latency_ms": 100.0, "node_id": "gpu-01"}
        elif ended is not None:
            values |= {"status": "failed", "error_code": "upstream_timeout"}
        if ended is not None:
            values |= {"outcome": ended, "finished_at": START + number + 0.1}
        return RequestRecord(**(values | fields))

    return make
