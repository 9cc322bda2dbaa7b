"""The WSGI application: `gunicorn wsgi:application`, and what the `flask` command finds."""

from scheduler.wsgi import application

app = application
