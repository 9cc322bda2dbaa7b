"""Commands against a running server: what they print, and with which status they exit."""

import json
import socket
import sys
import time
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from scheduler.cli import main
from scheduler.core.node import Health
from scheduler.core.priority import Priority
from scheduler.core.ticket import Ticket
from tests.support.fakes import some_record
from tests.web.conftest import GPU_1

ADD = ("nodes", "add", "gpu-1", "http://10.0.0.1:8000", "--models", "qwen,bge", "--max-concurrent", "4")


def test_nodes_are_added_listed_set_and_removed(run, site):
    added = run(*ADD, "--remark", "机房", "--label", "zone=a", "--json", LLM_SCHEDULER_NODE_API_KEY="sk-node")
    assert added.exit_code == 0, added.output
    node = json.loads(added.stdout)
    assert (node["models"], node["labels"], node["remark"]) == (["qwen", "bge"], {"zone": "a"}, "机房")
    assert site.roster.target("gpu-1").api_key == "sk-node"

    listed = run("nodes", "list")
    assert listed.stdout.splitlines()[0].split()[:3] == ["ID", "STATE", "HEALTH"]
    assert "机房" in listed.stdout
    assert json.loads(run("nodes", "list", "--json").stdout)["nodes"][0]["id"] == "gpu-1"
    assert "has_api_key" in run("nodes", "show", "gpu-1").stdout

    assert run("nodes", "set", "gpu-1", "--max-concurrent", "2", "--state", "disabled").exit_code == 0
    assert (site.roster.get("gpu-1").max_concurrent, site.roster.get("gpu-1").state) == (2, "disabled")
    assert run("nodes", "set", "gpu-1", "--lift", "max_concurrent").exit_code == 0
    assert site.roster.get("gpu-1").max_concurrent == 4

    assert run("nodes", "remove", "gpu-1").stdout == "gpu-1 is removed\n"
    assert run("nodes", "list").exit_code == 0
    assert site.roster.list() == []


def test_a_cut_address_is_noted_beside_the_data(run):
    result = run("nodes", "add", "a", "http://10.0.0.1:8000/v1", "--model", "m", "--max-concurrent", "1", "--json")
    assert json.loads(result.stdout)["address"] == "http://10.0.0.1:8000"
    assert "/v1" in result.stderr


def test_drain_waits_until_nothing_runs(run, site, monkeypatch):
    site.roster.register(GPU_1, "op")
    site.dispatcher.set_health("gpu-1", Health.UP)
    ticket = Ticket("req-1", "qwen", Priority.NORMAL, site.now + 60)
    site.dispatcher.submit(ticket)
    result = run("nodes", "drain", "gpu-1", "--wait", "--timeout", "0")
    assert result.exit_code == 1
    assert "still runs 1" in result.stderr
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: ticket.wait().release())
    monkeypatch.setattr(sys.modules["scheduler.cli.nodes"], "time", clock)
    result = run("nodes", "drain", "gpu-1", "--wait")
    assert (result.exit_code, result.stdout) == (0, "gpu-1 is draining, nothing runs there\n")
    assert "1 running" in result.stderr


def test_requests_and_status_are_shown(run, site):
    site.request_log.records = [asdict(some_record("req-1", model="通义", status="failed", error_code="queue_full"))]
    site.warnings = ["The admin side is open."]
    shown = run("requests", "list", "--status", "failed", "--node", "gpu-1")
    assert "通义" in shown.stdout
    assert "queue_full" in shown.stdout
    assert site.request_log.asked[0][0].node_id == "gpu-1"
    assert json.loads(run("requests", "list", "--json").stdout)["total"] == 1
    status = run("status")
    assert status.exit_code == 0
    assert "waiting" in status.stdout
    assert "The admin side is open." in status.stderr
    assert json.loads(run("status", "--json").stdout)["version"] == "0.1.0"


def test_healthcheck_tells_alive_from_ready(run, site):
    assert run("healthcheck").stdout == "live\n"
    assert run("healthcheck", "--ready").exit_code == 0
    site.is_ready = False
    assert run("healthcheck").exit_code == 0
    assert run("healthcheck", "--ready").exit_code == 1


# -- mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nodes", "show", "nobody"), "There is no node 'nobody'."),
        (("nodes", "remove", "a/b"), "There is nothing at"),
        ((*ADD[:3], "nowhere", *ADD[4:]), "address:"),
        (("requests", "list", "--status", "done"), "status: must be one of"),
    ],
)
def test_what_the_server_refuses_is_one_clear_message_and_exit_1(run, arguments, message):
    result = run(*arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("nodes", "add", "gpu-1"),
        ("nodes", "add", "gpu-1", "http://a", "--max-concurrent", "1"),
        ("nodes", "add", "gpu-1", "http://a", "--models", "m", "--max-concurrent", "many"),
        ("nodes", "set", "gpu-1"),
        ("nodes", "set", "gpu-1", "--weight", "1", "--lift", "weight"),
        ("nodes", "set", "gpu-1", "--label", "zone"),
        ("nodes", "set", "gpu-1", "--state", "up"),
        ("nodes", "list", "--url", "localhost:8080"),
        ("frobnicate",),
    ],
)
def test_wrong_usage_exits_with_2(run, arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_a_wrong_key_is_told(run):
    result = run("nodes", "list", LLM_SCHEDULER_ADMIN_KEY="guess")
    assert result.exit_code == 1
    assert "LLM_SCHEDULER_ADMIN_KEY" in result.stderr


def test_a_server_that_is_not_there_is_one_clear_line():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for command in (("nodes", "list"), ("status",), ("healthcheck",)):
        result = CliRunner().invoke(main, [*command, "--url", f"http://127.0.0.1:{port}"])
        assert result.exit_code == 1
        assert len(result.stderr.splitlines()) == 1
        assert f"127.0.0.1:{port}" in result.stderr


def test_url_and_key_come_from_the_settings(url, tmp_path):
    port = url.rpartition(":")[2]
    (tmp_path / "config.yaml").write_text(f"server: {{port: {port}}}\nauth: {{admin_api_keys: [sk-admin]}}\n")
    assert CliRunner().invoke(main, ["nodes", "list"]).exit_code == 0


def test_the_settings_key_goes_to_no_other_server(url, tmp_path):
    (tmp_path / "config.yaml").write_text("auth: {admin_api_keys: [sk-admin]}\n")
    result = CliRunner().invoke(main, ["nodes", "list", "--url", url])
    assert result.exit_code == 1
    assert "admin key" in result.stderr


def test_broken_settings_are_told_and_a_url_does_without(url, tmp_path):
    (tmp_path / "config.yaml").write_text("server: {prot: 1}\n")
    result = CliRunner().invoke(main, ["healthcheck"])
    assert result.exit_code == 1
    assert "prot" in result.stderr
    assert CliRunner().invoke(main, ["healthcheck", "--url", url]).exit_code == 0


def test_requests_are_exported_to_a_file(run, site, tmp_path):
    site.request_log.records = [asdict(some_record(f"req-{number}")) for number in range(5)]
    file = tmp_path / "requests.csv"
    result = run("requests", "export", "--model", "qwen", "--output", str(file))
    assert (result.exit_code, result.stdout) == (0, "")
    assert file.read_bytes().startswith(b"\xef\xbb\xbfid,")
    assert len(file.read_text().splitlines()) == 6
    assert "req-0" in run("requests", "export").stdout
    refused = run("requests", "export", "--status", "done")
    assert (refused.exit_code, "status" in refused.stderr) == (1, True)


def test_old_requests_are_counted_then_deleted(run, site):
    site.cleanup.found_matching = 12
    assert "12 requests created before" in run("requests", "cleanup", "--older-than", "7d", "--dry-run").stdout
    assert site.cleanup.asked == []
    assert "are being deleted" in run("requests", "cleanup", "--older-than", "7d").stdout
    assert len(site.cleanup.asked) == 1
    assert json.loads(run("requests", "cleanup", "--older-than", "1h", "--json").stdout)["matching"] == 12
    assert run("requests", "cleanup").exit_code == 2
    assert run("requests", "cleanup", "--older-than", "soon").exit_code == 1
