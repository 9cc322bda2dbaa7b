"""The WSGI application: `gunicorn wsgi:application`, and what the `flask` command finds."""

from scheduler.app import create_app

application = app = create_app()
