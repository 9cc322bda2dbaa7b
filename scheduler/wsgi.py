"""The WSGI application of a server: built from the settings that its master has read."""

from scheduler import serving
from scheduler.app import create_app

application = create_app(serving.loaded)
