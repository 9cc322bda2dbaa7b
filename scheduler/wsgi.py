"""The WSGI application of an installed package."""

from scheduler.app import create_app

application = create_app()
