"""The blueprint `panel`: serves the built panel, or a page that says how to build it."""

from pathlib import Path

from flask import Blueprint, Response, abort, request, send_from_directory
from werkzeug.routing import PathConverter

# The panel never answers below these: a mistyped API path must stay a 404 (a wrong method a 405), not become a page.
API_ROOTS = (
    "admin",
    "v1",
    "health",
    "metrics",
    "docs",
    "tokenize",
    "detokenize",
    "rerank",
    "score",
    "pooling",
    "classify",
)

# Naive UI writes its styles at run time, hence 'unsafe-inline' for styles, and for styles only.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}
FOR_EVER = "public, max-age=31536000, immutable"

_BUILD_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>LLM Scheduler</title>
<style>
  :root { color-scheme: light dark; font: 16px/1.6 system-ui, sans-serif; }
  body { max-width: 40rem; margin: 10vh auto; padding: 0 1rem; }
  code { padding: .1em .4em; border: 1px solid; border-radius: .3em; opacity: .85; }
</style>
<h1>LLM Scheduler</h1>
<p>The server is running. This installation has no built admin panel.</p>
<p>To build it, run <code>make web-build</code> in a checkout that holds the panel's source, then reload this page.
Everything else works without it: <a href="/health">/health</a>, the API under <code>/v1</code> and
<code>/admin</code>, and the command line. The documentation is in <code>README.md</code> and <code>docs/</code>.</p>
<section lang="zh-CN">
<p>服务正在运行。此安装未包含已构建的管理面板。</p>
<p>如需构建，请在包含面板源码的目录中运行 <code>make web-build</code>，然后刷新本页。
其余功能不受影响：<a href="/health">/health</a>、<code>/v1</code> 与 <code>/admin</code> 接口以及命令行。
文档见 <code>README.zh-CN.md</code> 与 <code>docs/</code>。</p>
</section>
</html>
"""


class PanelPath(PathConverter):
    """A path below none of the API's roots."""

    regex = rf"(?!(?:{'|'.join(API_ROOTS)})(?:/|$))[^/].*?"


def panel_blueprint(dist: Path) -> Blueprint:
    """The panel built into `dist`; looked for at each request, so a build made while the server runs is seen."""
    dist = dist.resolve()  # Flask would take a relative directory from the application's, not from ours.
    panel = Blueprint("panel", __name__)
    panel.record_once(lambda state: state.app.url_map.converters.update(panel_path=PanelPath))

    @panel.get("/")
    def index() -> Response:
        if (dist / "index.html").is_file():
            page = send_from_directory(dist, "index.html", max_age=0)
        else:
            page = Response(_BUILD_PAGE, mimetype="text/html")
        page.headers["Cache-Control"] = "no-cache"
        return page

    @panel.get("/assets/<path:name>")
    def asset(name: str) -> Response:
        """A file whose name holds a hash of its content: it never changes."""
        reply = send_from_directory(dist / "assets", name)
        reply.headers["Cache-Control"] = FOR_EVER
        return reply

    @panel.get("/<panel_path:path>")
    def page(path: str) -> Response:
        """A file beside index.html, or a route of the panel's own router, which gets index.html."""
        is_route = "." not in path.rpartition("/")[2] and not path.startswith("assets/")
        if not is_route:
            reply = send_from_directory(dist, path)
            reply.headers["Cache-Control"] = "no-cache"
            return reply
        # A client that speaks JSON has mistaken the address; a page would only confuse it.
        if request.accept_mimetypes.best_match(["text/html", "application/json"], "text/html") != "text/html":
            abort(404)
        return index()

    @panel.after_request
    def secure(response: Response) -> Response:
        response.headers.update(SECURITY_HEADERS)
        return response

    return panel
