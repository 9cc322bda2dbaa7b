"""gunicorn's settings. gunicorn runs this file at the start, and again, with new code and settings, at each SIGHUP."""

# First, before anything imports a socket: requests and psycopg would keep the blocking ones.
from gevent import monkey

monkey.patch_all()

import os  # noqa: E402
import sys  # noqa: E402
from typing import Any  # noqa: E402

from scheduler import serving  # noqa: E402


def _start() -> dict[str, Any]:
    from scheduler.errors import ConfigError, StartRefused
    from scheduler.gunicorn_settings import gunicorn_settings

    try:
        return gunicorn_settings(os.environ)
    except (ConfigError, StartRefused) as error:
        print(error, file=sys.stderr)
        sys.exit(1)


def _reload(last: dict[str, Any]) -> dict[str, Any]:
    """New code and new settings where both work, the old ones where not: a mistake must not end a running server."""
    forgotten = serving.forget_code()
    try:
        from scheduler.gunicorn_settings import gunicorn_settings

        return gunicorn_settings(os.environ)
    except Exception as error:
        serving.restore_code(forgotten)
        import logging

        for line in str(error).splitlines() or [type(error).__name__]:
            logging.getLogger("scheduler").error("The reload keeps the old code and settings: %s", line)
        return last


serving.last = _start() if serving.last is None else _reload(serving.last)
globals().update(serving.last)
