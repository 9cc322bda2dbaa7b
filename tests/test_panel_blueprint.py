"""The panel's blueprint: what is served, how long it may be kept, and what it must leave to the API."""

from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from admin_ui.blueprint import panel_blueprint


class ReadingClient(FlaskClient):
    """Reads every reply to its end, as a server does, so that no file stays open."""

    def open(self, *args, **kwargs):
        return super().open(*args, buffered=True, **kwargs)


def app_with(dist: Path) -> FlaskClient:
    app = Flask("plain", static_folder=None)
    app.test_client_class = ReadingClient

    @app.get("/admin/nodes")
    @app.get("/health")
    def api():
        return {"api": True}

    @app.post("/v1/<path:path>")
    @app.post("/tokenize")
    def data_plane(path=""):
        return {"api": True}

    app.register_blueprint(panel_blueprint(dist))
    return app.test_client()


@pytest.fixture
def dist(tmp_path) -> Path:
    (tmp_path / "secret.txt").write_text("outside")
    dist = tmp_path / "dist"
    (dist / "assets").mkdir(parents=True)
    (dist / "index.html").write_text("<!doctype html><title>panel</title>")
    (dist / "favicon.svg").write_text("<svg/>")
    (dist / "assets" / "index-4f2a.js").write_text("1")
    return dist


@pytest.fixture
def client(dist) -> FlaskClient:
    return app_with(dist)


@pytest.mark.parametrize("path", ["/", "/nodes", "/requests", "/requests/req-1", "/administration", "/v1x"])
def test_the_panels_own_routes_get_its_index_which_is_never_kept(client, path):
    reply = client.get(path, headers={"Accept": "text/html,*/*;q=0.8"})
    assert (reply.status_code, reply.mimetype) == (200, "text/html")
    assert b"<title>panel" in reply.data
    assert reply.headers["Cache-Control"] == "no-cache"


def test_an_index_that_has_not_changed_is_not_sent_again(client):
    first = client.get("/")
    again = client.get("/", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.headers["Cache-Control"]) == (304, "no-cache")


def test_assets_may_be_kept_for_ever_and_files_beside_the_index_not(client):
    asset, icon = client.get("/assets/index-4f2a.js"), client.get("/favicon.svg")
    assert asset.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert "javascript" in asset.mimetype
    assert icon.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("path", ["/assets/gone.js", "/robots.txt", "/.env", "/nodes/x.php"])
def test_a_file_that_is_not_there_is_not_found(client, path):
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/admin",
        "/admin/",
        "/admin/nope",
        "/v1",
        "/v1/nope",
        "/health/nope",
        "/metrics",
        "/docs/nope",
        "/rerank",
        "/score/x",
    ],
)
def test_unknown_paths_of_the_api_stay_unknown(client, path):
    reply = client.get(path, headers={"Accept": "text/html"})
    assert reply.status_code in (404, 405)
    assert b"panel" not in reply.data


def test_the_apis_paths_and_methods_stay_its_own(client):
    assert client.get("/admin/nodes").json == {"api": True}
    assert client.post("/v1/chat/completions").json == {"api": True}
    assert client.get("/tokenize").status_code == 405
    assert client.get("/v1/chat/completions").status_code == 405
    assert client.post("/admin/nope").status_code == 404


def test_a_client_that_wants_json_gets_no_page(client):
    assert client.get("/chat/completions", headers={"Accept": "application/json"}).status_code == 404
    assert client.get("/nodes", headers={"Accept": "*/*"}).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/../secret.txt", "/assets/../../secret.txt", "/assets/%2e%2e/%2e%2e/secret.txt", "/..%2fsecret.txt",
     "/assets/..%5c..%5csecret.txt", "/%2fetc/passwd.txt", "/assets//etc/passwd", "/assets/x%00.js"],
)  # fmt: skip
def test_nothing_outside_the_build_is_served(client, path):
    reply = client.get(path)
    assert b"outside" not in reply.data
    assert b"root:" not in reply.data
    assert reply.status_code in (308, 404)


def test_the_assets_are_not_listed(client):
    assert client.get("/assets/").status_code == 404


@pytest.mark.parametrize("path", ["/", "/nodes", "/assets/index-4f2a.js", "/favicon.svg"])
def test_every_reply_is_locked_down(client, path):
    headers = client.get(path).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "script-src 'self';" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"


def test_the_apis_replies_are_left_alone(client):
    assert "Content-Security-Policy" not in client.get("/health").headers


# -- without a build --------------------------------------------------------------------------


def test_without_a_build_the_root_says_in_two_languages_that_the_server_runs_and_how_to_build(tmp_path):
    reply = app_with(tmp_path / "nowhere").get("/")
    text = reply.get_data(as_text=True)
    assert (reply.status_code, reply.headers["Cache-Control"]) == (200, "no-cache")
    for words in ("The server is running", "服务正在运行", "make web-build", 'href="/health"', "docs/"):
        assert words in text
    assert "http:" not in text
    assert "https:" not in text
    assert "<script" not in text


def test_a_build_made_while_the_server_runs_is_seen(tmp_path):
    client = app_with(tmp_path / "dist")
    assert b"make web-build" in client.get("/").data
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "index.html").write_text("fresh")
    assert client.get("/").data == b"fresh"
