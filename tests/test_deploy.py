"""The samples of `deploy/`: their time-outs, limits and keep-alive agree with ours, and their programs read them."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scheduler.settings import Settings
from scheduler.settings.duration import parse_duration

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"

#: The defaults, which the samples are made for.
SERVER, SCHEDULER = Settings().server, Settings().scheduler

#: The longest silence that we allow: a caller may ask for the longest wait, and then the node computes.
LONGEST_SILENCE_S = max(
    SCHEDULER.queue_timeout_max + SCHEDULER.request_timeout,
    SCHEDULER.queue_timeout + SCHEDULER.request_timeout,
    SCHEDULER.idle_timeout,
)


def read(name: str) -> str:
    return (DEPLOY / name).read_text(encoding="utf-8")


def seconds(text: str) -> float:
    return float(parse_duration(text))


@pytest.fixture(scope="module")
def gunicorn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """gunicorn's settings as made from our defaults; in a process of its own, because they take locks and limits."""
    code = (
        "import json, os; from scheduler.gunicorn_settings import gunicorn_settings; "
        "settings = gunicorn_settings(os.environ); "
        "print(json.dumps({name: settings[name] for name in ('backlog', 'keepalive', 'graceful_timeout')}))"
    )
    environ = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    folder = tmp_path_factory.mktemp("gunicorn")
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environ, capture_output=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# -- systemd ----------------------------------------------------------------------------------


def unit(name: str) -> dict[str, list[str]]:
    """A unit's settings, each with all its values."""
    found: dict[str, list[str]] = {}
    for line in read(f"systemd/{name}").splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.fixture
def service() -> dict[str, list[str]]:
    return unit("llm-scheduler.service")


def test_systemd_waits_longer_for_the_end_than_the_server_takes(service, gunicorn):
    (stop,) = service["TimeoutStopSec"]
    assert float(stop) > SERVER.shutdown_timeout + 10
    assert float(stop) > gunicorn["graceful_timeout"]
    assert service["KillMode"] == ["mixed"]  # only the master is told, which tells its worker


def test_the_service_may_open_what_its_connections_need(service):
    (files,) = service["LimitNOFILE"]
    assert int(files) >= 2 * SERVER.max_connections + 200


def test_the_socket_is_the_one_of_the_settings_and_holds_as_many_as_gunicorn(gunicorn):
    socket = unit("llm-scheduler.socket")
    assert socket["ListenStream"] == [f"{SERVER.host}:{SERVER.port}"]
    assert socket["Backlog"] == [str(gunicorn["backlog"])]


def test_the_service_runs_the_command_reloads_by_hup_and_is_tied_to_its_socket(service):
    assert re.fullmatch(r"\S+/llm-scheduler serve --config \S+", service["ExecStart"][0])
    assert service["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert service["Type"] == ["notify"]
    assert service["Requires"] == ["llm-scheduler.socket"]
    assert service["Restart"] == ["on-failure"]


def test_the_service_may_write_nothing_but_its_own_folder(service):
    (folder,) = service["WorkingDirectory"]
    assert folder == f"/var/lib/{service['StateDirectory'][0]}"
    assert service["ProtectSystem"] == ["strict"]
    assert service["NoNewPrivileges"] == ["true"]
    assert not Path(Settings().database.path).is_absolute()


# -- nginx ------------------------------------------------------------------------------------


def nginx(directive: str, text: str | None = None) -> str:
    """The one value of a directive."""
    bare = re.sub(r"#.*", "", text or read("nginx/llm-scheduler.conf"))
    (value,) = re.findall(rf"^\s*{directive}\s+([^;]+);", bare, re.MULTILINE)
    return str(value)


def test_nginx_waits_longer_than_the_longest_silence():
    for directive in ("proxy_read_timeout", "proxy_send_timeout"):
        assert seconds(nginx(directive)) > LONGEST_SILENCE_S


def test_nginx_leaves_it_to_the_server_to_give_up_on_clients():
    assert seconds(nginx("client_body_timeout")) > SERVER.read_timeout
    assert seconds(nginx("send_timeout")) > SERVER.write_timeout


def test_nginx_drops_idle_connections_before_the_server_closes_them(gunicorn):
    assert seconds(nginx("keepalive_timeout")) < gunicorn["keepalive"]
    assert nginx("proxy_http_version") == "1.1"
    assert nginx("proxy_set_header Connection") == '""'


def test_nginx_has_the_limit_of_bodies_and_says_so():
    assert nginx("client_max_body_size") == str(SERVER.max_body)
    assert f"larger than {SERVER.max_body} bytes" in read("nginx/llm-scheduler.conf")


def test_nginx_holds_nothing_back_and_repeats_nothing_that_was_sent():
    for directive in ("proxy_buffering", "proxy_request_buffering", "gzip", "proxy_ignore_client_abort"):
        assert nginx(directive) == "off"
    assert nginx("proxy_next_upstream") == "error"
    assert nginx("proxy_set_header X-Forwarded-For") == "$proxy_add_x_forwarded_for"


# -- HAProxy ----------------------------------------------------------------------------------


def haproxy(name: str) -> list[str]:
    """The values of every line that begins with this."""
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in read("haproxy/llm-scheduler.cfg").splitlines())
    return [line.removeprefix(name).strip() for line in lines if re.match(rf"{re.escape(name)}(\s|$)", line)]


def test_haproxy_waits_longer_than_the_longest_silence():
    for side in ("client", "server"):
        (value,) = haproxy(f"timeout {side}")
        assert seconds(value) > LONGEST_SILENCE_S


def test_haproxy_passes_aborts_on_and_collects_no_pieces():
    for option in ("abortonclose", "http-no-delay", "forwardfor"):
        assert haproxy(f"option {option}") == [""]


def test_haproxy_repeats_only_what_was_never_sent():
    assert haproxy("retry-on") == ["conn-failure"]


def test_haproxy_drops_idle_connections_before_the_server_closes_them(gunicorn):
    (server,) = haproxy("server")
    delay = re.search(r"pool-purge-delay (\S+)", server)
    assert delay
    # Each time it drops half of them: after four times hardly any is left.
    assert 4 * seconds(delay[1]) < gunicorn["keepalive"]
    assert haproxy("http-reuse") == ["safe"]


def test_haproxy_has_the_limit_of_bodies_and_says_so():
    (rule,) = haproxy("http-request")
    assert rule.endswith(f"if {{ req.hdr_val(content-length) gt {SERVER.max_body} }}")
    assert f"larger than {SERVER.max_body} bytes" in rule


def test_errors_of_the_proxies_have_the_shape_of_ours():
    errors = re.findall(r"return \d+ '(.+)';", read("nginx/llm-scheduler.conf"))
    errors += [text.replace('\\"', '"') for text in re.findall(r'string "(.+}})"', read("haproxy/llm-scheduler.cfg"))]
    assert len(errors) == 6
    for text in errors:
        error = json.loads(text)["error"]
        assert set(error) == {"message", "type", "param", "code"}


# -- read by their own programs, where those are installed -------------------------------------


def program(name: str) -> str:
    """The program, which nobody needs to have."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def test_nginx_reads_its_sample(tmp_path):
    # A test of nginx opens its ports too.
    site = re.sub(r"listen (\[::\]:)?80;", "listen unix:nginx.sock;", read("nginx/llm-scheduler.conf"), count=1)
    (tmp_path / "site.conf").write_text(re.sub(r"listen \[::\]:80;", "", site))
    folders = "".join(f"{name}_temp_path {name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (tmp_path / "nginx.conf").write_text(
        f"pid nginx.pid; error_log stderr; events {{}} http {{ access_log off; {folders} include site.conf; }}"
    )
    command = [program("nginx"), "-t", "-p", f"{tmp_path}/", "-c", "nginx.conf"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr.replace('the "user" directive', "")


def test_haproxy_reads_its_sample():
    command = [program("haproxy"), "-c", "-f", str(DEPLOY / "haproxy" / "llm-scheduler.cfg")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr


def test_systemd_reads_its_units(tmp_path):
    for file in (DEPLOY / "systemd").iterdir():
        # Nothing of ours is installed here.
        (tmp_path / file.name).write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", file.read_text()))
    command = [program("systemd-analyze"), "verify", *sorted(map(str, tmp_path.iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "llm-scheduler" not in done.stderr
