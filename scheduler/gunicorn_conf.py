"""gunicorn's settings, made from ours."""

# First, before anything imports a socket: requests and psycopg would keep the blocking ones.
from gevent import monkey

monkey.patch_all()

import os  # noqa: E402
import resource  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from scheduler.adapters.boots import GranterLock  # noqa: E402
from scheduler.errors import ConfigError, StartRefused  # noqa: E402
from scheduler.logs import configure_logging  # noqa: E402
from scheduler.settings import config_path, load_settings  # noqa: E402

#: A server that was killed may leave a worker for so long.
PATIENCE_S = 5.0
#: Descriptors besides connections of clients and nodes: files, database, epoll, listeners.
SPARE_FILES = 200


def _load() -> Any:
    try:
        return load_settings(config_path(None, os.environ), os.environ)
    except ConfigError as error:
        print("\n".join(error.problems), file=sys.stderr)
        sys.exit(1)


def _open_files(wanted: int) -> int:
    """Raise the soft limit of open files as far as wanted and allowed; the limit then in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else soft


def _pid_file(path: str) -> str:
    """The pid file; gunicorn wants its folder to exist, and says no more than that."""
    try:
        Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"The folder of server.pid_file {path} cannot be made: {error.strerror}.", file=sys.stderr)
        sys.exit(1)
    return path


_loaded = _load()
_settings = _loaded.settings
_server = _settings.server
configure_logging(_settings.logging.level, _settings.logging.format)

# Each client may need a connection to a node beside its own.
_files = _open_files(2 * _server.max_connections + SPARE_FILES)

bind = f"[{_server.host}]:{_server.port}" if ":" in _server.host else f"{_server.host}:{_server.port}"
workers = _server.workers
worker_class = "scheduler.worker.SchedulerWorker"
worker_connections = min(_server.max_connections, max(50, (_files - SPARE_FILES) // 2))
backlog = 2048
preload_app = False
max_requests = 0
timeout = 60  # a heartbeat, no limit of requests: a worker whose loop is stuck for so long is replaced
graceful_timeout = int(_server.shutdown_timeout) + 10  # behind our own drain, which ends earlier
keepalive = 10  # also the only limit on reading the head of a request
http_parser = "python"
control_socket_disable = True
limit_request_line = 8190
accesslog = None
logger_class = "scheduler.logs.GunicornLogger"
pidfile = _pid_file(_server.pid_file)
proc_name = "llm-scheduler"
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
forwarded_allow_ips = ""

_lock: GranterLock | None = None


def on_starting(server: Any) -> None:
    """In the master, before it listens: one server a data folder, and the tables up to date."""
    from scheduler.bootstrap import data_folder, prepare_database

    global _lock
    if worker_connections < _server.max_connections:
        server.log.warning(
            "server.max_connections is lowered from %d to %d: only %d files may be open (ulimit -n).",
            _server.max_connections,
            worker_connections,
            _files,
        )
    for warning in _loaded.warnings:
        server.log.warning("%s", warning)
    try:
        _lock = GranterLock(data_folder(_settings), "serve.lock")
        _acquire(_lock)
        prepare_database(_settings)
    except (StartRefused, OSError) as error:
        server.log.error("%s", error)
        sys.exit(1)


def on_exit(server: Any) -> None:
    if _lock is not None:
        _lock.release()


def _acquire(lock: GranterLock) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not lock.try_acquire():
        if time.monotonic() > deadline:
            lock.acquire()  # says who holds it
            return
        time.sleep(0.05)
