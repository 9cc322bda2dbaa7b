"""HttpProber: asks a node over HTTP whether it can serve. It is the gateway's Prober."""

import errno
import json
import socket
import ssl

import gevent
import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, NameResolutionError

from scheduler.core.node import LOADING
from scheduler.gateway.ports import NodeTarget, ProbeResult

#: A longer answer is cut; it counts all the same.
MAX_BODY = 64 * 1024
MODELS_PATH = "/v1/models"
AUTH = "auth"
TIMEOUT = "timeout"
#: A host that lets connections hang has vanished: it is told sooner than one that is slow to answer. A lost SYN is
#: repeated after 1 s. With fall 3 and an interval of 5 s, such a node is down within 20 s.
CONNECT_S = 3.0
#: What the list of models may take after a good health answer.
LIST_S = 2.0

_REFUSED = (401, 403)
#: The engine has no list of models: nothing that our key could be shown to.
_NO_MODELS = (404, 405, 501)
_NETWORK_REASONS = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset",
    errno.EPIPE: "connection reset",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network unreachable",
    errno.ETIMEDOUT: TIMEOUT,
}


class HttpProber:
    """Asks with GET `health_path`, and where that is 404 with GET /v1/models. After a good answer it reads that list,
    too, but only to know what the engine has.

    `timeout_s` bounds a probe in all: names, connections, and answers that drip. Needs gevent's patches for that.
    `ca_file` holds the authorities that nodes' certificates are checked against; None: the well-known ones.
    """

    def __init__(self, health_path: str, timeout_s: float, ca_file: str | None = None) -> None:
        self._health_path = health_path
        self._timeout_s = timeout_s
        self._verify: str | bool = ca_file or True

    def probe(self, target: NodeTarget, check_key: bool = False) -> ProbeResult:
        """One probe: a node is up where it answers 2xx. Never raises for what a node does.

        With `check_key` it must also answer /v1/models to our key, where it has that path.
        """
        deadline = gevent.Timeout(self._timeout_s)
        verdict = ProbeResult(False, TIMEOUT)
        deadline.start()
        try:
            # A session a probe: nothing of a node (a cookie, a dying connection) outlives it.
            with requests.Session() as session:
                session.trust_env = False
                session.mount("http://", HTTPAdapter(max_retries=0))
                session.mount("https://", HTTPAdapter(max_retries=0))
                verdict, wants_list = self._ask(session, target, check_key)
                return ProbeResult(True, models=self._list(session, target)) if wants_list else verdict
        except gevent.Timeout as timeout:
            if timeout is not deadline:
                raise
            return verdict  # a node whose list alone is late is up
        except (requests.RequestException, HTTPError, OSError, ValueError) as error:
            return ProbeResult(False, _reason(error))
        finally:
            deadline.close()

    def _ask(self, session: requests.Session, target: NodeTarget, check_key: bool) -> tuple[ProbeResult, bool]:
        """How the node is; True where it is up and its models are not yet known."""
        status, body = self._get(session, target, self._health_path)
        if status == 404 or (check_key and 200 <= status < 300):
            has_health = status != 404
            status, body = self._get(session, target, MODELS_PATH)
            if has_health and status in _NO_MODELS:
                return ProbeResult(True), False
            if 200 <= status < 300:
                return ProbeResult(True, models=_listed(body)), False
        if 200 <= status < 300:
            return ProbeResult(True), True
        if status == 503 and b"loading" in body[:4096].lower():  # llama.cpp says so while it loads its model
            return ProbeResult(False, LOADING), False
        return ProbeResult(False, AUTH if status in _REFUSED else f"HTTP {status}"), False

    def _list(self, session: requests.Session, target: NodeTarget) -> tuple[str, ...] | None:
        """The models that the node lists; None where it has no usable list, or not in time: that is no failure."""
        with gevent.Timeout(LIST_S, False):
            try:
                status, body = self._get(session, target, MODELS_PATH)
            except (requests.RequestException, HTTPError, OSError, ValueError):
                return None
            return _listed(body) if 200 <= status < 300 else None
        return None

    def _get(self, session: requests.Session, target: NodeTarget, path: str) -> tuple[int, bytes]:
        headers = {"Accept": "application/json, */*", "Accept-Encoding": "identity", "Connection": "close"}
        if target.api_key:
            headers["Authorization"] = f"Bearer {target.api_key}"
        reply = session.get(
            target.address + path,
            headers=headers,
            allow_redirects=False,
            stream=True,
            timeout=(min(CONNECT_S, self._timeout_s), self._timeout_s),
            verify=self._verify,
        )
        try:
            return reply.status_code, reply.raw.read(MAX_BODY, decode_content=False)
        finally:
            reply.close()
            session.close()  # the node was asked to close the connection: another request must not use it


def _listed(body: bytes) -> tuple[str, ...] | None:
    """The ids of a list of models; None where it is none, or was cut."""
    try:
        return tuple(str(entry["id"]) for entry in json.loads(body)["data"])
    except (ValueError, KeyError, TypeError):
        return None


def _reason(error: BaseException) -> str:
    """Why there was no answer, in a few words."""
    chain = _causes(error)
    for cause in chain:
        if isinstance(cause, NameResolutionError | socket.gaierror):
            return "DNS: name not found"
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"TLS: {getattr(cause, 'verify_message', None) or 'certificate not accepted'}"
        if isinstance(cause, ssl.SSLError):
            return f"TLS: {(getattr(cause, 'reason', None) or 'handshake failed').replace('_', ' ').lower()}"
    for cause in chain:
        if isinstance(cause, requests.Timeout | TimeoutError):
            return TIMEOUT
        if isinstance(cause, OSError) and cause.errno in _NETWORK_REASONS:
            return _NETWORK_REASONS[cause.errno]
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidHeader):
        return "unusable address or key"
    if "CA certificate bundle" in str(error):
        return "TLS: scheduler.node_ca_file cannot be read"
    return "no usable HTTP answer"


def _causes(error: BaseException | None) -> list[BaseException]:
    """An error and everything it wraps: urllib3 hides the cause in arguments and attributes."""
    found: list[BaseException] = []
    todo = [error]
    while todo:
        current = todo.pop(0)
        if not isinstance(current, BaseException) or current in found:
            continue
        found.append(current)
        todo += [current.__cause__, current.__context__, getattr(current, "reason", None)]
        todo += [argument for argument in current.args if isinstance(argument, BaseException)]
    return found
