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
    engine: EngineKind | None = None
    has_health_page: bool = True
    rows: list[AddressRow] = field(default_factory=list)
    row: AddressRow | None = None  # the one that answered
    tls: Any = None  # the context, once a handshake has succeeded
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
        engine, notes = self.engine or EngineKind(note=None), list(self.notes)
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
        if self.tls is not None:
            self._wrap(self.tls)

    def _wrap(self, context: Any) -> None:
        # The handshake apart: where it fails or is given up, there is a socket to close.
        self.sock = context.wrap_socket(self.sock, server_hostname=self.origin.host, do_handshake_on_connect=False)
        self.sock.do_handshake()

    def _shake_hands(self) -> str:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
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
        self.tls = context
        return f"{self.sock.version()}, the certificate is accepted"

    # -- what is there ------------------------------------------------------------------------

    def _ask_health(self, path: str) -> str:
        status, _ = self._get(path)
        if 200 <= status < 300:
            return f"{path} answers {status}"
        if status == 404:
            self.has_health_page = False
            return f"there is no {path}; {MODELS_PATH} decides"
        if status in _REFUSED:
            raise StepFailed(f"{path} answers {status}: {self._key_fault()}")
        raise StepFailed(f"{path} answers {_said(status)}")

    def _ask_models(self) -> str:
        status, page = self._get(MODELS_PATH)
        if status in _REFUSED:
            raise StepFailed(f"{MODELS_PATH} answers {status}: {self._key_fault()}")
        if status in _NO_PAGE and self.has_health_page:
            self.notes.append("The engine lists no models: name them yourself.")
            return f"there is no {MODELS_PATH}"
        if not 200 <= status < 300:
            raise StepFailed(f"{MODELS_PATH} answers {_said(status)}")
        listed = page.get("data") if isinstance(page, dict) else None
        if not isinstance(listed, list):
            raise StepFailed(f"{MODELS_PATH} answers {status}, but no list of models in OpenAI's shape")
        for entry in listed:
            if isinstance(entry, dict) and isinstance(entry.get("id"), str):
                self.models[entry["id"]] = str(entry.get("owned_by"))
        return f"{len(self.models)} model{'' if len(self.models) == 1 else 's'}"

    def _ask_engine(self) -> str:
        refused: list[str] = []

        def ask(path: str) -> Any:
            status, page = self._get(path)
            if status in _REFUSED:
                refused.append(path)
            return page if status == 200 else None

        found = self.engine = recognise(self.models.values(), ask)
        if refused:  # llama.cpp shows its models to anybody
            self.notes.append(f"{refused[0]} was refused: {self._key_fault()}.")
        if not found.is_known:
            return "no engine that is known"
        return f"{found.name} {found.version}" if found.version else found.name

    def _key_fault(self) -> str:
        return "the node does not accept this key" if self.target.api_key else "the node wants a key"

    def _get(self, path: str) -> tuple[int, Any]:
        """Status, and the body as JSON or None. Raises StepFailed where there is no HTTP answer."""
        headers = {
            "Host": self.origin.host_header,
            "Accept": "application/json, */*",
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
        if self.target.api_key:
            headers["Authorization"] = f"Bearer {self.target.api_key}"
        connection = http.client.HTTPConnection(self.origin.host, self.origin.port)
        connection.auto_open = 0  # it has its socket, and gets no other
        try:
            if self.sock is None:
                assert self.row is not None, "connected before"
                self._open(self.row)
            connection.sock = self.sock
            connection.request("GET", self.origin.prefix + path, headers=headers)
            with connection.getresponse() as answer:
                return answer.status, _json(answer.read(MAX_BODY + 1))
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise StepFailed(f"{path}: {_why(error)}", is_last=True) from None
        finally:
            self.close()


def _json(body: bytes) -> Any:
    if len(body) > MAX_BODY:
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _said(status: int) -> str:
    if 300 <= status < 400:
        return f"{status}, a redirect: give the address that it leads to"
    return f"{status}: the engine may still be loading" if status == 503 else str(status)


def _why(error: Exception) -> str:
    """Why there was no answer, in a few words."""
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or 'handshake failed').replace('_', ' ').lower()}"
    if isinstance(error, http.client.RemoteDisconnected):
        return "the connection was closed without an answer; does this port speak http, or https?"
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "no usable HTTP answer"
