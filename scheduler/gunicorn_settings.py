"""gunicorn's settings, made from ours."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scheduler import serving
from scheduler.adapters.boots import GranterLock
from scheduler.bootstrap import data_folder
from scheduler.errors import StartRefused
from scheduler.logs import configure_logging
from scheduler.preparation import prepare_database
from scheduler.settings import Settings, config_path, load_settings

#: A server that was killed may leave a worker for so long.
PATIENCE_S = 5.0
#: Descriptors besides connections of clients and nodes: files, database, epoll, listeners.
SPARE_FILES = 200
#: What gunicorn waits beyond our own drain before it kills.
GRACE_S = 10
#: An idle connection of a client is closed after so long; also the limit on reading the head of a request.
KEEPALIVE_S = 10


def gunicorn_settings(environ: Mapping[str, str]) -> dict[str, Any]:
    """gunicorn's settings, hooks included. Takes the lock on the data folder. Raises ConfigError, StartRefused."""
    loaded = load_settings(config_path(None, environ), environ)
    settings = loaded.settings
    server = settings.server
    if server.workers > 1:
        raise StartRefused(
            f"server.workers is {server.workers}: this version shares no slots between workers; set server.workers: 1."
        )
    configure_logging(settings.logging.level, settings.logging.format)
    _make_folder(server.pid_file)
    _lock(settings)
    # Each client may need a connection to a node beside its own.
    files = _open_files(2 * server.max_connections + SPARE_FILES)
    connections = min(server.max_connections, max(50, (files - SPARE_FILES) // 2))
    serving.loaded = loaded

    def prepare(arbiter: Any, is_start: bool = False) -> None:
        """In the master, before the workers: the tables up to date."""
        if connections < server.max_connections:
            arbiter.log.warning(
                "server.max_connections is lowered from %d to %d: only %d files may be open (ulimit -n).",
                server.max_connections,
                connections,
                files,
            )
        prepare_database(settings, is_start)

    def on_starting(arbiter: Any) -> None:
        try:
            prepare(arbiter, is_start=True)
        except StartRefused as error:
            arbiter.log.error("%s", error)
            sys.exit(1)

    def on_reload(arbiter: Any) -> None:
        serving.count_reload()
        try:
            prepare(arbiter)
        except StartRefused as error:
            arbiter.log.error("the reload goes on without its database being prepared: %s", error)

    return {
        "bind": f"[{server.host}]:{server.port}" if ":" in server.host else f"{server.host}:{server.port}",
        "workers": server.workers,
        "worker_class": "scheduler.worker.SchedulerWorker",
        "worker_connections": connections,
        "backlog": 2048,
        "preload_app": False,
        "max_requests": 0,
        # A heartbeat, no limit of requests: a worker whose loop is stuck for so long is replaced.
        "timeout": 60,
        # Behind our own drain, which ends earlier.
        "graceful_timeout": int(server.shutdown_timeout) + GRACE_S,
        "keepalive": KEEPALIVE_S,
        "http_parser": "python",
        "control_socket_disable": True,
        "limit_request_line": 8190,
        "accesslog": None,
        "logger_class": "scheduler.logs.GunicornLogger",
        "pidfile": server.pid_file,
        "proc_name": "llm-scheduler",
        "worker_tmp_dir": "/dev/shm" if os.access("/dev/shm", os.W_OK) else None,
        "forwarded_allow_ips": "",
        "on_starting": on_starting,
        "on_reload": on_reload,
    }


def _make_folder(pid_file: str) -> None:
    """gunicorn wants the folder of its pid file to exist, and says no more than that."""
    try:
        Path(pid_file).absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartRefused(f"The folder of server.pid_file {pid_file} cannot be made: {error.strerror}.") from None


def _lock(settings: Settings) -> None:
    """One server a data folder. The lock is inherited by the workers, and so outlives a master that is killed."""
    folder = data_folder(settings)
    if str(folder) in serving.locks:
        return
    lock = GranterLock(folder)
    deadline = time.monotonic() + PATIENCE_S
    while not lock.try_acquire():
        if time.monotonic() > deadline:
            lock.acquire()  # says who holds it
        time.sleep(0.05)
    serving.locks[str(folder)] = lock


def _open_files(wanted: int) -> int:
    """Raise the soft limit of open files as far as wanted and allowed; the limit then in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else soft
