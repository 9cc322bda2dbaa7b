"""Serving in the foreground: what the command does once its options are understood."""

import resource
import signal

import gevent
from gevent.event import Event

from scheduler.simulation.node import SimulatedNode
from scheduler.simulation.settings import SimulationSettings


def serve(settings: SimulationSettings) -> None:
    """Run a node until SIGINT or SIGTERM. Raises OSError where a port is taken."""
    _raise_open_file_limit()
    node = SimulatedNode(settings)
    stopped = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(number, stopped.set)
    try:
        node.start()
        shown = f"[{settings.host}]" if ":" in settings.host else settings.host
        print(f"simulate-node listening on http://{shown}:{node.port}", flush=True)
        if node.control_port is not None:
            print(f"simulate-node control on http://{shown}:{node.control_port}", flush=True)
        stopped.wait()
    finally:
        node.stop()


def _raise_open_file_limit() -> None:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
