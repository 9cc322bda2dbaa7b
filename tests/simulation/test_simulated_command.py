"""The command, and the process behind it."""

import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner

from scheduler.cli.simulate_node import simulate_node
from scheduler.simulation.settings import parse_duration
from tests.simulation.wire import Wire
from tests.support.sim_node import SimNode


@pytest.mark.parametrize(("text", "seconds"), [("50ms", 0.05), ("1s", 1), ("1.5s", 1.5), ("2m", 120), ("3", 3)])
def test_durations_are_read(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ttft", "soon"], "'soon' is no duration"),
        (["--models", ","], "at least one model"),
        (["--slots", "0"], "--slots"),
        (["--engine", "abacus"], "--engine"),
    ],
)
def test_a_wrong_option_is_a_usage_error(options, said):
    result = CliRunner().invoke(simulate_node, options)
    assert result.exit_code == 2
    assert said in result.output


def test_a_taken_port_is_told_without_a_traceback():
    with SimNode() as node:
        command = [sys.executable, "-m", "scheduler.simulation", "--port", str(node.port)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert ended.returncode == 1
    assert ended.stderr == f"Error: cannot listen on 127.0.0.1:{node.port}: Address already in use\n"


def test_the_first_line_tells_the_port_and_sigterm_ends_it_cleanly():
    command = [sys.executable, "-m", "scheduler.simulation", "--port=0", "--models=a,b", "--models=c"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().removeprefix("simulate-node listening on http://127.0.0.1:")
        with Wire(int(address)) as wire:
            listed = wire.get("/v1/models").answer().json["data"]
            assert [model["id"] for model in listed] == ["a", "b", "c"]
            wire.post(model="a", sim_ttft_ms=60_000)
            process.send_signal(signal.SIGTERM)
            assert process.wait(5) == 0


@pytest.mark.parametrize("first", ["", "from gevent import monkey; monkey.patch_all()"])
def test_it_runs_within_a_process_patched_or_not(first):
    script = f"""{first}
import gevent
from gevent import socket
from scheduler.simulation.node import SimulatedNode
from scheduler.simulation.settings import SimulationSettings
node = SimulatedNode(SimulationSettings(ttft_s=60))
node.start()
with socket.create_connection(("127.0.0.1", node.port)) as peer:
    peer.sendall({Wire.encoded()!r})
    assert node.journal.wait(dict(running=1), 5)
assert node.journal.wait(dict(aborted=1, running=0, connections_open=0), 1)
node.stop()
print("fine")
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20)
    assert (ended.stdout, ended.stderr) == ("fine\n", "")


def test_a_killed_node_comes_back_on_its_ports():
    with SimNode() as node:
        port = node.port
        with Wire(port) as wire:
            assert wire.post().answer().status == 200
            node.kill()
            assert wire.rest() == b""
        with pytest.raises(ConnectionRefusedError):
            Wire(port)
        node.restart_on_same_port()
        assert node.port == port
        with Wire(port) as wire:
            assert wire.post().answer().status == 200
        assert node.stats()["arrived"] == 1


def test_a_frozen_node_accepts_and_says_nothing():
    with SimNode() as node:
        node.freeze()
        with Wire(node.port) as wire:
            assert wire.get("/health").is_silent(0.05)
            node.thaw()
            assert wire.answer().status == 200
