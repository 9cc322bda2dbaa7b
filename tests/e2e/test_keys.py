"""Keys, priorities and time-outs: who may call how urgently, and that nothing secret is kept or passed on."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.e2e.conftest import StartFleet
from tests.simulation.wire import Wire
from tests.support.fleet import Fleet
from tests.support.server import RunningServer
from tests.support.sim_node import SimNode

# Whatever carries this word is a secret: it must be found nowhere but where it was sent.
PLAIN, BATCH, URGENT = "sk-canary-plain", "sk-canary-batch", "sk-canary-urgent"
ADMIN, NODE_KEY = "sk-canary-admin", "sk-canary-node"

SETTINGS = {
    "scheduler": {"queue_timeout": "60s", "queue_timeout_max": "90s", "eject_after": 1000},
    "auth": {
        "api_keys": [
            PLAIN,
            {"name": "batch", "key": BATCH, "priority": "low", "max_priority": "normal"},
            {"name": "urgent", "key": URGENT, "priority": "high"},
        ],
        "admin_api_keys": [{"name": "ops", "key": ADMIN}],
    },
}


@pytest.fixture(scope="module")
def module_fleet(start_fleet: StartFleet) -> Fleet:
    fleet = start_fleet(SETTINGS)
    fleet.server.admin_key = ADMIN
    fleet.add("gpu-01", ["sim"], slots=1, api_key=NODE_KEY, sim={"api_key": NODE_KEY})
    fleet.add("gpu-02", ["open"], slots=1)
    return fleet


@pytest.fixture
def fleet(module_fleet: Fleet) -> Iterator[Fleet]:
    yield module_fleet
    module_fleet.settle()


@pytest.fixture
def server(fleet: Fleet) -> RunningServer:
    return fleet.server


@pytest.fixture
def node(fleet: Fleet) -> SimNode:
    """It asks for a key of its own."""
    return fleet["gpu-01"]


def bearer(key: str = PLAIN) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def ask(server: RunningServer, headers: dict[str, str] | None = None, **body: Any) -> requests.Response:
    return server.post({"model": "sim", **body}, headers=headers)


def key_name(server: RunningServer, response: requests.Response) -> str | None:
    name: str | None = server.record(response.headers["X-Scheduler-Request-Id"])["key_name"]
    return name


# -- who may call -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        bearer(),
        {"Authorization": f"bearer {PLAIN}"},
        {"Authorization": f"BEARER   {PLAIN}"},
        {"x-api-key": PLAIN},
        {"X-API-KEY": PLAIN},
        {"Authorization": f"Bearer {PLAIN}", "x-api-key": "another"},
        {"Authorization": "Basic dXNlcjpwYXNz", "x-api-key": PLAIN},
    ],
    ids=lambda headers: ", ".join(headers),
)
def test_a_right_key_in_either_header_may_call(server: RunningServer, headers: dict[str, str]) -> None:
    response = ask(server, headers)

    assert response.status_code == 200, response.text
    assert key_name(server, response) == "key-1"


WRONG: dict[str, dict[str, str]] = {
    "none": {},
    "empty": {"Authorization": ""},
    "no key": {"Authorization": "Bearer"},
    "blank": {"Authorization": "Bearer  "},
    "another": bearer("sk-wrong"),
    "too short": bearer(PLAIN[:-1]),
    "too long": bearer(PLAIN + "x"),
    "another case": bearer(PLAIN.upper()),
    "another scheme": {"Authorization": f"Basic {PLAIN}"},
    "without a scheme": {"Authorization": PLAIN},
    "two keys": bearer(f"{PLAIN} {PLAIN}"),
    "the admin's": bearer(ADMIN),
    "the node's": bearer(NODE_KEY),
    "wrong x-api-key": {"x-api-key": "sk-wrong"},
}


@pytest.mark.parametrize("headers", WRONG.values(), ids=WRONG.keys())
def test_without_a_right_key_nobody_may_call(server: RunningServer, node: SimNode, headers: dict[str, str]) -> None:
    response = ask(server, headers)

    check_refused(response)
    assert node.stats()["arrived"] == 0
    models = server.http.get(f"{server.url}/v1/models", headers=headers, timeout=10)
    check_refused(models)


def check_refused(response: requests.Response) -> None:
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    error = response.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "invalid_api_key", None)
    assert response.headers["X-Request-Id"] == response.headers["X-Scheduler-Request-Id"]
    assert "canary" not in response.text


@pytest.mark.parametrize("name", ["Authorization", "x-api-key"])
@pytest.mark.parametrize("key", ["schlüssel", "密钥", "\udcff\udcfe"], ids=["latin", "chinese", "no text at all"])
def test_a_key_beyond_ascii_is_wrong_and_no_mistake_of_ours(server: RunningServer, name: str, key: str) -> None:
    value = key.encode("utf-8", "surrogateescape")
    for method, path in (("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/admin/nodes")):
        with Wire(server.port) as wire:
            wire.send(
                f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n{name}: Bearer ".encode()
                + value
                + b"\r\n\r\n"
            )
            assert wire.answer().status == 401, path


def test_a_refused_call_leaves_a_line_in_the_log_and_no_record(fleet: Fleet, server: RunningServer) -> None:
    request_id = ask(server, bearer("sk-wrong")).headers["X-Scheduler-Request-Id"]

    (line,) = [line for line in server.log_lines if line.get("id") == request_id]
    assert (line["http_status"], line["error_code"]) == (401, "invalid_api_key")
    assert fleet.records(request_id) == []


def test_a_clients_key_opens_nothing_of_the_admin_side(server: RunningServer) -> None:
    for key in (PLAIN, URGENT, NODE_KEY, "schlüssel"):
        headers = {"Authorization": f"Bearer {key}".encode()}
        for path in ("nodes", "status", "queue", "requests", "config", "events"):
            assert server.http.get(f"{server.url}/admin/{path}", headers=headers, timeout=10).status_code == 401
    assert server.http.get(f"{server.url}/health", timeout=10).status_code == 200


# -- what nodes get to see --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Authorization", "x-api-key"])
def test_a_node_gets_its_own_key_and_never_the_callers(fleet: Fleet, name: str) -> None:
    headers = {name: f"Bearer {PLAIN}" if name == "Authorization" else PLAIN}
    for model in ("sim", "open"):
        assert ask(fleet.server, headers, model=model).status_code == 200

    (with_key,), (without,) = fleet["gpu-01"].arrivals(), fleet["gpu-02"].arrivals()
    assert with_key["headers"]["authorization"] == f"Bearer {NODE_KEY}"
    assert "authorization" not in without["headers"]
    for arrival in (with_key, without):
        assert PLAIN not in json.dumps(arrival)
        assert "x-api-key" not in arrival["headers"]


def test_a_node_is_not_told_of_priorities_and_waits(server: RunningServer, node: SimNode) -> None:
    ask(server, {**bearer(), "X-Priority": "high", "X-Queue-Timeout": "9", "X-Scheduler-Node": "gpu-02"})

    (arrival,) = node.arrivals()
    told = {name for name in arrival["headers"] if name.startswith(("x-priority", "x-queue", "x-scheduler"))}
    assert told == set()


# -- how urgently -----------------------------------------------------------------------------

PRIORITIES = [
    (PLAIN, None, "normal"),
    (PLAIN, "low", "low"),
    (PLAIN, "HIGH", "high"),
    (PLAIN, "Critical ", "critical"),
    (PLAIN, "NoRmAl", "normal"),
    (PLAIN, "urgent", "normal"),
    (PLAIN, "", "normal"),
    (PLAIN, "0", "normal"),
    (PLAIN, "high, low", "normal"),
    (BATCH, None, "low"),
    (BATCH, "normal", "normal"),
    (BATCH, "high", "normal"),
    (BATCH, "critical", "normal"),
    (BATCH, "whatever", "normal"),
    (URGENT, None, "high"),
    (URGENT, "low", "low"),
    (URGENT, "critical", "critical"),
    (URGENT, "whatever", "normal"),
]


@pytest.mark.parametrize(("key", "asked", "in_force"), PRIORITIES)
def test_the_priority_in_force_is_told_and_recorded(
    server: RunningServer, key: str, asked: str | None, in_force: str
) -> None:
    response = ask(server, bearer(key) if asked is None else {**bearer(key), "X-Priority": asked})

    assert response.status_code == 200
    assert response.headers["X-Scheduler-Priority"] == in_force
    assert server.record(response.headers["X-Scheduler-Request-Id"])["priority"] == in_force


def test_a_lowered_priority_is_the_one_that_counts_in_the_queue(fleet: Fleet, server: RunningServer) -> None:
    body = {"model": "open"}
    with (
        fleet.occupied("gpu-02", "open", PLAIN),
        fleet.waiting(body, headers=bearer()) as first,
        fleet.waiting(body, headers={**bearer(BATCH), "X-Priority": "critical"}) as second,
        fleet.waiting(body, headers=bearer(URGENT)) as third,
    ):
        waiting = server.get("/queue")["waiting"]
        assert [(ticket["priority"], ticket["key_name"]) for ticket in waiting] == [
            ("high", "urgent"),
            ("normal", "key-1"),
            ("normal", "batch"),
        ]
    assert {caller.result().status_code for caller in (first, second, third)} == {200}


# -- how long ---------------------------------------------------------------------------------

WAITS = [
    (None, 60),
    ("5", 5),
    ("0.5", 0.5),
    ("7.25", 7.25),
    ("8 ", 8),
    ("1e1", 60),
    ("1_0", 60),
    ("90", 90),
    ("91", 90),
    ("999999999999", 90),
    ("inf", 60),
    ("nan", 60),
    ("-1", 60),
    ("soon", 60),
    ("", 60),
    ("5s", 60),
    ("5, 6", 60),
]


def test_the_queue_timeout_asked_for_is_in_force_within_its_bounds(fleet: Fleet, server: RunningServer) -> None:
    found: dict[str | None, float] = {}
    with fleet.occupied("gpu-02", "open", PLAIN):
        for asked, _ in WAITS:
            headers = {**bearer(), "X-Test": "wait"}
            if asked is not None:
                headers["X-Queue-Timeout"] = asked
            with fleet.waiting({"model": "open"}, headers=headers) as caller:
                (ticket,) = server.get("/queue")["waiting"]
                found[asked] = (ticket["waited_ms"] + ticket["expires_in_ms"]) / 1000
                server.admin("DELETE", f"/requests/{ticket['id']}")
                assert caller.result().status_code == 503
            server.wait_until_waiting(0)

    assert found == {asked: pytest.approx(expected, abs=0.01) for asked, expected in WAITS}


def test_a_caller_that_will_not_wait_is_served_by_a_free_slot_and_refused_otherwise(fleet: Fleet) -> None:
    headers = {**bearer(), "X-Queue-Timeout": "0"}

    assert ask(fleet.server, headers, model="open").status_code == 200
    with fleet.occupied("gpu-02", "open", PLAIN):
        response = ask(fleet.server, headers, model="open")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "queue_timeout")


# -- what is kept -----------------------------------------------------------------------------


def test_keys_and_prompts_are_in_no_log_no_record_and_no_admin_answer(fleet: Fleet, server: RunningServer) -> None:
    prompt = {"messages": [{"role": "user", "content": "prompt-canary"}], "user": "prompt-canary"}
    calls = [
        ask(server, bearer(), **prompt),
        ask(server, bearer(), **prompt, stream=True),
        ask(server, bearer(BATCH), **prompt, sim_status=500),
        ask(server, bearer(URGENT), **{**prompt, "model": "unknown"}),
        ask(server, bearer("sk-canary-wrong"), **prompt),
        server.post(b'{"model":"sim","messages":"prompt-canary', headers=bearer()),
        server.post({"model": "sim", **prompt}, "/v1/chat/completions?key=query-canary", bearer()),
        server.http.get(f"{server.url}/v1/models?key=query-canary", headers=bearer(), timeout=10),
        server.http.get(f"{server.url}/admin/nodes?key=query-canary", headers=bearer(), timeout=10),
    ]
    assert [call.status_code for call in calls] == [200, 200, 500, 404, 401, 400, 200, 200, 401]
    for call in calls[:4]:
        server.record(call.headers["X-Scheduler-Request-Id"])

    kept = {path: json.dumps(server.get(path)) for path in ("/requests", "/queue", "/status", "/nodes", "/config")}
    kept["/events"] = json.dumps(server.get("/events"))
    kept["/requests/{id}"] = json.dumps(server.get(f"/requests/{calls[2].headers['X-Scheduler-Request-Id']}"))
    kept["the log"] = server.log
    for path in ("/health", "/health/live", "/health/ready"):
        kept[path] = server.http.get(server.url + path, timeout=10).text
    for file in (server.folder / "data").rglob("*"):
        if file.is_file():
            kept[file.name] = file.read_bytes().decode("latin-1")
    # The node's key has to be kept, for the node.
    found = [name for name, text in kept.items() if "canary" in text.replace(NODE_KEY, "")]
    assert found == []
    with_node_key = [name for name, text in kept.items() if NODE_KEY in text]
    # The database, and the snapshot of the nodes that replaces it when it is damaged.
    assert [name for name in with_node_key if not name.startswith(("scheduler.db", "roster.json"))] == []
    assert (server.folder / "data" / "roster.json").stat().st_mode & 0o077 == 0


def test_a_key_is_named_after_its_place_where_it_has_no_name(server: RunningServer) -> None:
    assert [key_name(server, ask(server, bearer(key))) for key in (PLAIN, BATCH, URGENT)] == [
        "key-1",
        "batch",
        "urgent",
    ]
