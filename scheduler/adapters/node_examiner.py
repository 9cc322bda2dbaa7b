"""HttpNodeExaminer: tries an address step by step. It is the gateway's NodeExaminer."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gevent
from gevent import socket, ssl

from scheduler.adapters.address_book import AddressBook, AddressRow, Origin
from scheduler.adapters.engine_kind import EngineKind, recognise
from scheduler.errors import NodeUnreachable
from scheduler.gateway.ports import ExamStep, NodeFindings, NodeTarget

#: A list of a thousand models is shorter; nothing beyond is read.
MAX_BODY = 1024 * 1024
MODELS_PATH = "/v1/models"

_REFUSED = (401, 403)
_NO_PAGE = (404, 405, 501)


class StepFailed(Exception):
    """Raised by a step that did not succeed; `is_last` where no other can either."""

    def __init__(self, message: str, is_last: bool = False) -> None:
        super().__init__(message)
        self.is_last = is_last


class HttpNodeExaminer:
    """Looks the name up, connects, shakes hands, and asks for health, models and the kind of engine.

    It connects to the very addresses that were looked up and allowed, follows no redirect, reads bounded bodies, and
    takes nothing from the environment. `timeout_s` bounds the whole examination. `ca_file` holds the authorities that
    certificates are checked against; None: the well-known ones.
    """

    def __init__(
        self, health_path: str, timeout_s: float, clock: Callable[[], float], ca_file: str | None = None
    ) -> None:
        self._health_path = health_path
        self._timeout_s = timeout_s
        self._clock = clock
        self._ca_file = ca_file

    def examine(self, target: NodeTarget) -> NodeFindings:
        """All steps. Never raises for what a node does."""
        exam = _Examination(target, Origin.parse(target.address), self._timeout_s, self._clock, self._ca_file)
        deadline = gevent.Timeout(self._timeout_s)
        deadline.start()
        try:
            exam.run(self._health_path)
        except gevent.Timeout as timeout:
            if timeout is not deadline:
                raise
            exam.note_timeout()
        finally:
            deadline.close()
            exam.close()
        return exam.findings()


@dataclass(slots=True)
class _Examination:
    """One examination on its way."""

    target: NodeTarget
    origin: Origin
    timeout_s: float
    clock: Callable[[], float]
    ca_file: str | None
    steps: list[ExamStep] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    models: dict[str, str] = field(default_factory=dict)  # id -> owned_by
    engine: EngineKind = EngineKind(note=None)
    has_health_page: bool = True
    rows: list[AddressRow] = field(default_factory=list)
    row: AddressRow | None = None  # the one that answered
    sock: Any = None
    step: str = ""  # the step under way, and since when
    began: float = 0.0

    def run(self, health_path: str) -> None:
        steps: list[tuple[str, Callable[[], str]]] = [("dns", self._resolve), ("tcp", self._connect)]
        if self.origin.is_tls:
            steps.append(("tls", self._shake_hands))
        steps += [
            ("health", lambda: self._ask_health(health_path)),
            ("models", self._ask_models),
            ("engine", self._ask_engine),
        ]
        for name, action in steps:
            self.step, self.began = name, self.clock()
            try:
                self._note(True, action())
            except StepFailed as failure:
                self._note(False, str(failure))
                if failure.is_last:
                    return

    def note_timeout(self) -> None:
        """The deadline has come in the middle of a step."""
        self._note(False, f"no end within {self.timeout_s:g} s for all steps together")

    def close(self) -> None:
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    def findings(self) -> NodeFindings:
        engine, notes = self.engine, list(self.notes)
        if engine.note:
            notes.append(engine.note)
        return NodeFindings(
            tuple(self.steps), tuple(self.models), engine.name, engine.version, engine.max_concurrent, tuple(notes)
        )

    def _note(self, is_ok: bool, message: str) -> None:
        self.steps.append(ExamStep(self.step, is_ok, message, (self.clock() - self.began) * 1000))

    # -- the way there ------------------------------------------------------------------------

    def _resolve(self) -> str:
        try:
            self.rows = AddressBook().refresh(self.origin)
        except NodeUnreachable as error:
            raise StepFailed(str(error), is_last=True) from None
        return ", ".join(dict.fromkeys(row[4][0] for row in self.rows))

    def _connect(self) -> str:
        failures = []
        for row in self.rows:
            try:
                self._open(row)
            except OSError as error:
                failures.append(f"{row[4][0]}: {_why(error)}")
            else:
                self.row = row
                return f"{row[4][0]} takes connections on port {self.origin.port}"
        raise StepFailed(f"port {self.origin.port}: {'; '.join(failures)}", is_last=True)

    def _open(self, row: AddressRow) -> None:
        self.close()
        self.sock = socket.socket(row[0], row[1], row[2])
        # An address that drops packets must leave time for the next one.
        self.sock.settimeout(self.timeout_s / (2 * len(self.rows)))
        self.sock.connect(row[4])
        self.sock.settimeout(None)

    def _shake_hands(self) -> str:
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            if self.ca_file:
                context.load_verify_locations(self.ca_file)
            else:
                context.load_default_certs()
        except OSError as error:
            message = f"scheduler.node_ca_file {self.ca_file} cannot be used: {_why(error)}"
            raise StepFailed(message, is_last=True) from None
        try:
            self._wrap(context)
        except ssl.SSLCertVerificationError as error:
            message = f"the certificate is not accepted: {error.verify_message}; see scheduler.node_ca_file"
            raise StepFailed(message, is_last=True) from None
        except OSError as error:
            raise StepFailed(f"{_why(error)}; does this port speak TLS?", is_last=True) from None
        self._wrap_again = lambda: self._wrap(context)
        return f"{self.sock.version()}, the certificate is accepted"

    def _wrap(self, context: Any) -> None:
        self.sock = context.wrap_socket(self.sock, server_hostname=self.origin.host)

    # -- what is there ------------------------------------------------------------------------
