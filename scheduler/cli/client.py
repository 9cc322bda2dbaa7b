"""AdminClient: talks to the admin side of a running server."""

import contextlib
from collections.abc import Iterator
from typing import Any

import click
import requests

#: Seconds without an answer after which a command gives up.
TIMEOUT_S = 30.0


class CallFailed(click.ClickException):
    """Raised with what a user needs to know, where a call brought nothing; the command ends with status 1."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class AdminClient:
    """Calls one server. `base_url` is like http://127.0.0.1:8080; without a key none is sent."""

    def __init__(self, base_url: str, key: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self._base_url = base_url.rstrip("/")
        self._key = key
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"<AdminClient {self._base_url}>"

    @property
    def base_url(self) -> str:
        """The server, without a trailing slash."""
        return self._base_url

    def get(self, path: str, params: dict[str, Any] | None = None) -> Any:
        return self.call("GET", path, params={k: v for k, v in (params or {}).items() if v is not None})

    def call(
        self, method: str, path: str, body: dict[str, Any] | None = None, params: dict[str, Any] | None = None
    ) -> Any:
        """The JSON of the answer; None where it has none. Raises CallFailed."""
        with self._told(), requests.Session() as session:
            return self._read(self._send(session, method, path, body, params))

    def pieces(self, path: str, params: dict[str, Any] | None = None) -> Iterator[bytes]:
        """The answer to a GET as it comes, which may be long. Raises CallFailed, also where it breaks off."""
        wanted = {name: value for name, value in (params or {}).items() if value is not None}
        with self._told(), requests.Session() as session:
            reply = self._send(session, "GET", path, None, wanted, stream=True)
            if reply.status_code != 200:
                self._read(reply)
                raise CallFailed(f"{self._base_url} is no LLM Scheduler (HTTP {reply.status_code}).")
            yield from reply.iter_content(65536)

    def _send(
        self,
        session: requests.Session,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        params: dict[str, Any] | None,
        stream: bool = False,
    ) -> requests.Response:
        session.trust_env = False  # a proxy or a netrc must not come between
        headers = {"Accept": "*/*" if stream else "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        return session.request(
            method,
            self._base_url + path,
            headers=headers,
            json=body,
            params=params,
            timeout=self._timeout_s,
            allow_redirects=False,
            stream=stream,
        )

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Says what went wrong on the way in words for a user."""
        try:
            yield
        except requests.Timeout:
            raise CallFailed(f"{self._base_url} did not answer within {self._timeout_s:g} s.") from None
        except requests.ConnectionError:
            raise CallFailed(f"No server can be reached at {self._base_url}. Is it running? See --url.") from None
        except (requests.RequestException, ValueError) as error:
            raise CallFailed(f"{self._base_url} cannot be called: {error}") from None

    def _read(self, reply: requests.Response) -> Any:
        if reply.status_code == 204:
            return None
        try:
            body = reply.json()
        except ValueError:
            body = None
        if reply.ok and body is not None and not reply.is_redirect:
            return body
        if reply.status_code == 401:
            raise CallFailed("The admin key is missing or wrong: set LLM_SCHEDULER_ADMIN_KEY, or give --key.", 401)
        message = _message_of(body) or f"{self._base_url} is no LLM Scheduler (HTTP {reply.status_code})."
        raise CallFailed(message, reply.status_code)


def _message_of(body: Any) -> str | None:
    """What one of our error answers says, each bad field on a line of its own."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return None
    details = error.get("details")
    if isinstance(details, list) and details:
        return "\n".join(f"{detail.get('param')}: {detail.get('message')}" for detail in details)
    return str(error["message"])
