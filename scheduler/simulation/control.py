"""Control: the /sim/* URLs, by which a test commands a simulated node and asks what it has seen."""

import json
from collections.abc import Callable
from typing import Any, Protocol

from scheduler.simulation.faults import BadFault, FaultList
from scheduler.simulation.gate import Gate
from scheduler.simulation.http_request import Request
from scheduler.simulation.journal import Journal
from scheduler.simulation.reply import Reply


class Doors(Protocol):
    """What control may do to the node's inference port."""

    def listen(self, *, is_open: bool, reset_connections: bool) -> None:
        """Take new connections or refuse them, and cut those that exist where asked to."""


class Control:
    """Answers /sim/*. None of it counts as inference."""

    def __init__(self, journal: Journal, faults: FaultList, gate: Gate, doors: Doors) -> None:
        self._journal = journal
        self._faults = faults
        self._gate = gate
        self._doors = doors

    def is_control(self, request: Request) -> bool:
        """True for /sim/*."""
        return request.path.startswith("/sim/")

    def answer(self, request: Request) -> Reply:
        """Do what is asked; 400 tells what was wrong with it."""
        action: Callable[[Request], Reply] | None = getattr(
            self, f"_{request.method.lower()}_{request.path.removeprefix('/sim/')}", None
        )
        if action is None:
            return Reply.of_error(404, f"no {request.method} {request.path}")
        try:
            return action(request)
        except (BadFault, KeyError, TypeError, ValueError) as error:
            return Reply.of_error(400, f"{type(error).__name__}: {error}")

    def _get_stats(self, request: Request) -> Reply:
        return Reply.of_json(self._journal.stats())

    def _get_arrivals(self, request: Request) -> Reply:
        return Reply.of_json(self._journal.arrivals())

    def _post_reset(self, request: Request) -> Reply:
        self._faults.clear()
        self._gate.open()
        self._doors.listen(is_open=True, reset_connections=False)
        self._journal.reset()
        return Reply.of_json({})

    def _get_wait(self, request: Request) -> Reply:
        wanted = {name: int(value) for name, value in request.query.items() if name != "timeout_s"}
        came = self._journal.wait(wanted, float(request.query.get("timeout_s", "10")))
        return Reply.of_json(self._journal.stats(), 200 if came else 408)

    def _post_gate(self, request: Request) -> Reply:
        wanted = request.document
        if unknown := set(wanted) - {"closed", "release"}:
            raise ValueError(f"unknown fields {sorted(unknown)}")
        if "closed" in wanted:
            (self._gate.close if wanted["closed"] else self._gate.open)()
        self._gate.release(int(wanted.get("release", 0)))
        return Reply.of_json({"closed": self._gate.is_closed})

    def _post_listen(self, request: Request) -> Reply:
        wanted = request.document
        is_open = bool(wanted["open"])
        self._doors.listen(is_open=is_open, reset_connections=bool(wanted.get("reset_connections", False)))
        return Reply.of_json({"open": is_open})

    def _get_faults(self, request: Request) -> Reply:
        return Reply.of_json(self._faults.told())

    def _post_faults(self, request: Request) -> Reply:
        described: Any = json.loads(request.body)
        added = [self._faults.add(each) for each in (described if isinstance(described, list) else [described])]
        if any(fault.kind == "refuse" for fault in added):
            self._doors.listen(is_open=False, reset_connections=False)
        return Reply.of_json([fault.told() for fault in added])

    def _delete_faults(self, request: Request) -> Reply:
        self._faults.clear()
        self._doors.listen(is_open=True, reset_connections=False)
        return Reply.of_json([])
