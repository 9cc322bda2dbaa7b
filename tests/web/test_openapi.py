"""/docs: the description has every route, is true, and can be read without the internet."""

import re
from dataclasses import fields

import pytest

from scheduler.core.node import Health
from scheduler.core.priority import Priority
from scheduler.core.ticket import Ticket
from scheduler.gateway.live_calls import RunningView
from scheduler.gateway.node_fields import NODE_FIELDS
from scheduler.settings import as_dict, load_settings
from scheduler.web.described import description_of
from scheduler.web.docs import FOLDER
from scheduler.web.openapi import GROUPS, component_schemas
from scheduler.web.query import Query
from scheduler.web.schemas import RECORD_FIELDS
from tests.support.fakes import FakeLiveCall, some_record
from tests.support.json_schema import faults
from tests.web.conftest import GPU_1, Site


@pytest.fixture
def spec(site: Site) -> dict:
    reply = site.get("/docs/openapi.json")
    assert (reply.status_code, reply.mimetype) == (200, "application/json")
    return reply.json


def described_routes(site: Site) -> list[tuple[str, str, str]]:
    """(path, method, endpoint) of every route of the groups, but those that only refuse wrong methods."""
    return [
        (rule.rule, method, rule.endpoint)
        for rule in site.app.url_map.iter_rules()
        if rule.rule.split("/")[1] in GROUPS and not rule.rule.startswith("/v1/<")
        for method in rule.methods - {"HEAD", "OPTIONS"}
    ]


# -- all of it --------------------------------------------------------------------------------


def test_every_route_is_described_with_its_methods_and_nothing_else_is(site, spec):
    routes = {(re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", path), method) for path, method, _ in described_routes(site)}
    told = {(path, method.upper()) for path, methods in spec["paths"].items() for method in methods}
    assert told == routes
    assert len(told) >= 21


def test_every_view_says_what_it_takes_and_answers(site):
    silent = [
        f"{method} {path}"
        for path, method, endpoint in described_routes(site)
        if description_of(site.app.view_functions[endpoint]) is None
    ]
    assert silent == [], "put @describes (scheduler/web/described.py) on these views"


def test_the_parameters_told_are_those_that_are_read(site, monkeypatch):
    """Asks each view and notes for which parameters it looks."""
    asked: set[str] = set()
    take = Query.text

    def note(self: Query, name: str) -> str | None:
        asked.add(name)
        return take(self, name)

    monkeypatch.setattr(Query, "text", note)
    for path, method, endpoint in described_routes(site):
        if method == "GET" and "<" not in path:
            asked.clear()
            site.get(path)
            assert asked == {param.name for param in description_of(site.app.view_functions[endpoint]).query}, path


def test_the_description_is_openapi_3_1_and_all_its_references_lead_somewhere(spec):
    assert spec["openapi"].startswith("3.1.")
    assert spec["info"]["version"] == "0.1.0"
    for reference in re.findall(r"'\$ref': '#/([^']+)'", str(spec)):
        found = spec
        for step in reference.split("/"):
            found = found[step]
    operations = [operation for methods in spec["paths"].values() for operation in methods.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
    for operation in operations:
        assert operation["responses"]["default"] == {"$ref": "#/components/responses/Error"}
        assert operation["tags"][0] in {tag["name"] for tag in spec["tags"]}
        keys = {name for wanted in operation.get("security", ()) for name in wanted}
        assert keys <= set(spec["components"]["securitySchemes"])
    for path, methods in spec["paths"].items():
        for operation in methods.values():
            params = {param["name"] for param in operation.get("parameters", ()) if param["in"] == "path"}
            assert params == set(re.findall(r"{(\w+)}", path))


def test_every_shape_is_used(spec):
    used = set(re.findall(r"schemas/(\w+)", str(spec)))
    assert used == set(spec["components"]["schemas"])


# -- and it is true ---------------------------------------------------------------------------


def test_shapes_have_the_fields_of_the_code():
    shapes = component_schemas()
    assert tuple(shapes["Record"]["properties"]) == RECORD_FIELDS
    assert tuple(shapes["Running"]["properties"]) == tuple(field.name for field in fields(RunningView))
    assert set(shapes["NodeRegistration"]["properties"]) == set(NODE_FIELDS)
    assert set(shapes["NodeChanges"]["properties"]) == set(NODE_FIELDS) - {"id"}


def answers(site: Site):
    """Real answers of every GET, and of the calls that change something: (path of the description, method, reply)."""
    registered = site.send("POST", "/admin/nodes", {**GPU_1, "address": "http://10.0.0.1:8000/v1", "api_key": "k"})
    yield "/admin/nodes", "post", registered
    site.dispatcher.set_health("gpu-1", Health.UP)
    yield "/admin/nodes/{node_id}", "patch", site.send("PATCH", "/admin/nodes/gpu-1", {"max_concurrent": 1})
    yield "/admin/nodes", "get", site.get("/admin/nodes")
    yield "/admin/nodes/{node_id}", "get", site.get("/admin/nodes/gpu-1")
    yield "/admin/nodes/test", "post", site.send("POST", "/admin/nodes/test", {"address": "http://10.0.0.1:8000"})
    yield "/admin/nodes/test", "post", site.send("POST", "/admin/nodes/test", {"address": "nonsense"})

    for request_id, is_running in (("req-1", True), ("req-2", False)):
        site.dispatcher.submit(Ticket(request_id, "qwen", Priority.NORMAL, 2_000.0))
        record = some_record(request_id, node_id="gpu-1" if is_running else None)
        site.live_calls.add(FakeLiveCall(record, is_running, dispatcher=site.dispatcher))
    yield "/admin/queue", "get", site.get("/admin/queue")
    yield "/admin/queue/{request_id}", "patch", site.send("PATCH", "/admin/queue/req-2", {"priority": "high"})
    yield "/admin/requests/{request_id}", "get", site.get("/admin/requests/req-2")
    yield "/admin/requests/{request_id}", "delete", site.send("DELETE", "/admin/requests/req-2")

    known = dict.fromkeys(RECORD_FIELDS)
    times = {"created_at": 1.0, "finished_at": 2.0, "queue_ms": 1.23, "latency_ms": 1000.0}
    texts = {"id": "req-0", "model": "m", "priority": "low", "status": "completed", "outcome": "completed"}
    attempt = {"node_id": "gpu-1", "start_ms": 0.1, "result": "completed", "duration_ms": None}
    others = {"stream": True, "path": "/v1/x", "bytes_in": 1, "bytes_out": 2, "client": "c", "attempts": [attempt]}
    site.request_log.records.append({**known, **times, **texts, **others})
    order = {"older_than": "7d"}
    yield "/admin/requests/cleanup", "post", site.send("POST", "/admin/requests/cleanup", {**order, "dry_run": True})
    yield "/admin/requests/cleanup", "post", site.send("POST", "/admin/requests/cleanup", order)
    yield "/admin/requests", "get", site.get("/admin/requests")
    yield "/admin/requests.csv", "get", site.get("/admin/requests.csv")
    yield "/admin/requests/{request_id}", "get", site.get("/admin/requests/req-0")
    yield "/admin/events", "get", site.get("/admin/events")
    for query in (
        "",
        "/models",
        "/timeseries",
        "/timeseries?group_by=key",
        "/usage",
        "/usage?group_by=key",
        "/usage.csv",
    ):
        path = f"/admin/stats{query}"
        yield path.partition("?")[0], "get", site.get(path)
    yield "/admin/status", "get", site.get("/admin/status")
    site.statistics.is_broken = True
    yield "/admin/status", "get", site.get("/admin/status")
    for path in ("/health", "/health/live", "/health/ready", "/v1/models", "/metrics"):
        yield path, "get", site.get(path)
    yield "/v1/models/{model}", "get", site.get("/v1/models/qwen")
    site.is_ready = False
    yield "/health", "get", site.get("/health")
    yield "/health/ready", "get", site.get("/health/ready")
    yield "/admin/nodes/{node_id}", "delete", site.send("DELETE", "/admin/nodes/gpu-1")


def test_real_answers_are_as_described(site, spec):
    components = spec["components"]["schemas"]
    seen = set()
    for path, method, reply in answers(site):
        response = spec["paths"][path][method]["responses"][str(reply.status_code)]
        seen.add((path, method))
        if "content" not in response:
            assert reply.data == b""
            continue
        ((mimetype, content),) = response["content"].items()
        assert reply.mimetype == mimetype
        value = reply.json if mimetype == "application/json" else reply.text
        assert faults(value, content["schema"], components) == [], f"{method} {path}"
    plain = {(path, method) for path, methods in spec["paths"].items() for method in methods}
    # The settings of this app are made up, and files for spreadsheets are no JSON.
    assert {path for path, _ in plain - seen if not path.endswith(".csv")} == {"/admin/config"}


def test_the_settings_of_the_real_app_are_as_described(spec):
    shapes = spec["components"]["schemas"]
    assert faults(as_dict(load_settings(None, {})), shapes["Config"], shapes) == []


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/admin/nodes/gone", None),
        ("GET", "/admin/requests?limit=-1&x=1", None),
        ("POST", "/admin/nodes", {"id": "a b"}),
        ("PUT", "/admin/nodes", {}),
    ],
)
def test_errors_are_as_described(site, spec, method, path, body):
    reply = site.send(method, path, body) if body is not None else site.get(path)
    assert reply.status_code >= 400
    shapes = spec["components"]["schemas"]
    assert faults(reply.json, shapes["Error"], shapes) == []


@pytest.mark.parametrize(
    ("change", "is_good"),
    [
        ({}, True),
        ({"weight": 10_000, "labels": {"zone": "a"}, "remark": "x", "state": "draining", "api_key": None}, True),
        ({"id": "a b"}, False),
        ({"models": []}, False),
        ({"max_concurrent": 0}, False),
        ({"max_concurrent": 100_001}, False),
        ({"weight": 0}, False),
        ({"state": "gone"}, False),
        ({"surprise": 1}, False),
    ],
)
def test_what_is_described_as_a_good_registration_is_taken_and_the_rest_is_not(site, spec, change, is_good):
    shapes = spec["components"]["schemas"]
    body = {**GPU_1, **change}
    assert (faults(body, shapes["NodeRegistration"], shapes) == []) is is_good
    assert (site.send("POST", "/admin/nodes", body).status_code == 201) is is_good


# -- the page ---------------------------------------------------------------------------------


def test_the_page_brings_all_it_needs_and_nothing_from_elsewhere(site):
    page = site.get("/docs", buffered=True)
    assert (page.status_code, page.mimetype) == (200, "text/html")
    parts = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert set(parts) == {"docs/page.css", "docs/page.js", "docs/openapi.json"}
    for part in parts:
        assert site.get(f"/{part}", buffered=True).status_code == 200
    # Relative, so that it also works below a prefix of some proxy; no inline script or style, which are forbidden.
    texts = {file.name: file.read_text(encoding="utf-8") for file in FOLDER.iterdir()}
    assert set(texts) == {"index.html", "page.css", "page.js"}
    assert not re.search(r"https?://|//cdn|@import|\burl\(", "".join(texts.values()))
    assert not re.search(r"<style|style=|onclick=|<script>", texts["index.html"])
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", texts["page.js"])


@pytest.mark.parametrize("path", ["/docs", "/docs/page.js", "/docs/page.css", "/docs/openapi.json"])
def test_every_part_is_locked_down(site, path):
    headers = site.get(path, buffered=True).headers
    assert "default-src 'none'; script-src 'self'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["/docs/nope", "/docs/page.txt", "/docs/../shapes.py", "/docs/%2e%2e/shapes.py"])
def test_nothing_else_is_served(site, path):
    assert site.get(path).status_code == 404


def test_the_page_needs_no_key():
    site = Site(admin_keys=(b"sk-admin",), client_keys=(b"sk-client",), metrics_keys=(b"sk-metrics",))
    assert site.get("/docs", buffered=True).status_code == 200
    assert "sk-" not in site.get("/docs/openapi.json").text
