"""Settings of gunicorn for a server started from a checkout; what they are is in scheduler/gunicorn_conf.py."""

from gevent import monkey

monkey.patch_all()

from scheduler.gunicorn_conf import *  # noqa: E402, F403
