"""Who may call the admin side, and from where."""

import pytest

from tests.web.conftest import GPU_1, Site

ADMIN = {"Authorization": "Bearer sk-admin"}


@pytest.fixture
def guarded() -> Site:
    return Site(admin_keys=(b"sk-other", b"sk-admin", "schlüssel".encode()))


@pytest.mark.parametrize("path", ["/admin/nodes", "/admin/queue", "/admin/requests", "/admin/stats", "/admin/status",
                                  "/admin/config", "/admin/events", "/admin/requests/x"])  # fmt: skip
def test_every_admin_path_wants_a_key(guarded, path):
    reply = guarded.get(path)
    assert (reply.status_code, reply.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert reply.json["error"]["code"] == "invalid_api_key"
    assert guarded.get(path, headers=ADMIN).status_code in (200, 404)


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Bearer sk-adm", "Bearer sk-admin2", "Basic sk-admin", "sk-admin"]
)
def test_a_wrong_key_is_refused(guarded, header):
    assert guarded.get("/admin/status", headers={"Authorization": header}).status_code == 401


def test_keys_are_compared_as_bytes(guarded):
    header = "Bearer " + "schlüssel".encode().decode("latin-1")
    assert guarded.get("/admin/status", headers={"Authorization": header}).status_code == 200


def test_without_keys_the_admin_side_is_open(site):
    assert site.get("/admin/status").status_code == 200


def test_a_refused_login_is_an_event_once_a_minute(guarded):
    for _ in range(5):
        guarded.get("/admin/status", headers={"Authorization": "Bearer guess"})
    assert guarded.events.kinds == ["admin.refused"]
    assert "guess" not in repr(guarded.events.events)


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready", "/v1/models"])
def test_the_rest_wants_no_admin_key(guarded, path):
    assert guarded.get(path).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 201),
        ({"Origin": "http://localhost"}, 201),
        ({"Origin": "https://localhost"}, 201),  # a proxy ends TLS
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://localhost:9999"}, 403),
        ({"Origin": "http://localhost:x"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://front.example"}, 201),
        ({"Sec-Fetch-Site": "none"}, 201),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://localhost"}, 403),
    ],
)
def test_a_browser_must_be_on_a_page_of_ours(site, headers, status):
    assert site.send("POST", "/admin/nodes", GPU_1, headers=headers).status_code == status


def test_reading_from_another_page_is_left_to_the_browser_which_gets_no_cors_header(site):
    reply = site.get("/admin/status", headers={"Origin": "http://evil.example"})
    assert reply.status_code == 200
    assert not [name for name in reply.headers.keys() if name.startswith("Access-Control")]  # noqa: SIM118
    assert reply.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", None])
def test_a_changing_call_must_say_json(site, content_type):
    reply = site.client.post("/admin/nodes", data="{}", content_type=content_type)
    assert (reply.status_code, reply.json["error"]["code"]) == (415, "unsupported_media_type")


def test_a_delete_needs_no_body_and_no_type(site):
    site.send("POST", "/admin/nodes", GPU_1)
    assert site.client.delete("/admin/nodes/gpu-1").status_code == 204


def test_a_huge_admin_body_is_refused(site):
    reply = site.client.post("/admin/nodes", data=b" " * 1_000_001, content_type="application/json")
    assert (reply.status_code, reply.json["error"]["code"]) == (413, "request_too_large")
