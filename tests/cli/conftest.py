"""A real server in front of the admin side, and a way to run commands against it."""

import threading
from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner, Result
from werkzeug.serving import make_server

from scheduler.cli import main
from tests.web.conftest import Site

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _no_settings_around(tmp_path, monkeypatch) -> None:
    """Neither the settings nor the variables of whoever runs the tests."""
    monkeypatch.chdir(tmp_path)
    for name in ("CONFIG", "URL", "ADMIN_KEY", "NODE_API_KEY"):
        monkeypatch.delenv(f"LLM_SCHEDULER_{name}", raising=False)


@pytest.fixture
def site() -> Site:
    return Site(admin_keys=(b"sk-admin",))


@pytest.fixture
def url(site) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, site.app)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def run(url) -> Run:
    """Run `llm-scheduler` with these arguments against the server."""

    def run(*arguments: str, **variables: str) -> Result:
        known = {"LLM_SCHEDULER_URL": url, "LLM_SCHEDULER_ADMIN_KEY": "sk-admin"}
        return CliRunner().invoke(main, arguments, env={**known, **variables})

    return run
