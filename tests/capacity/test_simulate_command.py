"""`llm-scheduler simulate`, and the examples of docs/capacity.md."""

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from scheduler.cli import main
from scheduler.cli.fleet_file import read_fleet
from scheduler.cli.table import text_width

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "capacity.md").read_text(encoding="utf-8")

FLEET = """
nodes:
  - {id: gpu-01, models: [qwen2.5-72b, 通义千问], max_concurrent: 2}
  - {id: gpu-02, models: [qwen2.5-72b], max_concurrent: 2, speed: 2}
events:
  - {at: 2m, node: gpu-02, action: activate}
  - {at: 1m, node: gpu-02, action: drain}
"""


@pytest.fixture
def simulate(tmp_path, monkeypatch):
    """Runs the command in a folder with fleet.yaml."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fleet.yaml").write_text(FLEET, encoding="utf-8")

    def run(line: str, nodes: str | None = None) -> Result:
        if nodes is not None:
            (tmp_path / "fleet.yaml").write_text(nodes, encoding="utf-8")
        return CliRunner().invoke(main, ["simulate", "--nodes", "fleet.yaml", *shlex.split(line)])

    return run


def test_the_table_tells_each_model_and_priority_and_each_node(simulate):
    result = simulate("--rate 1 --service 1s --duration 5m --priorities critical=1,normal=8,low=1")
    assert result.exit_code == 0, result.output
    requests, nodes, queue = result.stdout.split("\n\n")
    rows = [line.split() for line in requests.splitlines()]
    assert rows[0][:7] == ["MODEL", "PRIORITY", "REQUESTS", "COMPLETED", "REJECTED", "TIMED", "OUT"]
    assert [row[:2] for row in rows[1:]] == [
        *(["qwen2.5-72b", priority] for priority in ("critical", "normal", "low", "all")),
        *(["通义千问", priority] for priority in ("critical", "normal", "low", "all")),
        ["all", "all"],
    ]
    assert len({text_width(line) for line in requests.splitlines()}) == 1
    assert [line.split()[0] for line in nodes.splitlines()] == ["NODE", "gpu-01", "gpu-02"]
    assert re.match(r"longest queue \d+ \(.*通义千问 \d+.*\); the last request ended at", queue)
    assert re.search(r"\d+ requests in [\d.]+ s \([\d,]+ a second\)", result.stderr)


def test_the_same_seed_prints_the_same_json(simulate):
    line = "--rate qwen2.5-72b=4 --service 1s --duration 2m --json --seed"
    first, again, other = (simulate(f"{line} {seed}").stdout for seed in (5, 5, 6))
    assert first == again != other
    report = json.loads(first)
    assert [(r["model"], r["priority"]) for r in report["requests"]] == [("qwen2.5-72b", "normal"), (None, None)]
    total = report["requests"][-1]
    ends = ("completed", "rejected", "pushed_out", "timed_out", "no_node", "left")
    assert total["requests"] == sum(total[end] for end in ends) > 0
    assert set(total["wait"]) == {"mean_s", "p50_s", "p95_s", "p99_s", "max_s"}
    assert [set(node) for node in report["nodes"]] == [{"node_id", "use", "peak", "granted"}] * 2
    assert report["max_queue"] == report["max_queue_by_model"]["qwen2.5-72b"] > 0


def test_a_full_queue_and_impatient_clients_show(simulate):
    crowd = "--rate 9 --service 3s --duration 1m --max-queue 5 --priorities high=1,low=1"
    total = json.loads(simulate(f"{crowd} --gives-up-after 4s --json").stdout)["requests"][-1]
    assert min(total["rejected"], total["pushed_out"], total["left"]) > 0
    assert "PUSHED OUT" in simulate(crowd).stdout


def test_records_are_replayed_as_often_as_files_are_given(simulate, tmp_path):
    rows = [
        {
            "id": str(i),
            "model": "qwen2.5-72b",
            "priority": "high",
            "created_at": f"2026-11-22T08:00:{i:02}.000Z",
            "started_at": f"2026-11-22T08:00:{i:02}.000Z" if i else None,
            "queue_ms": 0,
            "latency_ms": 1500,
        }
        for i in range(20)
    ]
    (tmp_path / "one.json").write_text(json.dumps({"requests": rows[:12]}))
    (tmp_path / "two.csv").write_text(
        "\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows[10:])])
    )
    result = simulate("--arrivals one.json --arrivals two.csv --json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["requests"][0]["requests"] == 20
    assert "1 of 20 records had no slot, or had not ended: service times drawn." in result.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "Say what comes: either --rate and --service, or --arrivals."),
        ("--rate 1 --service 1s --arrivals fleet.yaml", "Say what comes"),
        ("--rate 1", "Say with --service how long a request for qwen2.5-72b keeps its slot."),
        ("--rate llama=1 --service 1s", "'llama' is none of qwen2.5-72b, 通义千问"),
        ("--rate 0 --service 1s", "0 is no rate"),
        ("--rate nan --service 1s", "nan is no rate"),
        ("--rate 1 --service soon", "'soon' is no duration"),
        ("--rate 1 --service 1s --priorities urgent=1", "'urgent=1'; write critical=1,normal=8,low=1"),
        ("--rate 1 --service 1s --priorities low=0", "shares must be at least 0"),
        ("--arrivals fleet.yaml", "fleet.yaml: record 1: has no 'created_at'"),
    ],
)
def test_a_mistake_on_the_command_line_is_told(simulate, line, said):
    result = simulate(line)
    assert result.exit_code != 0
    assert said in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ("nodes: []", ["there must be at least one node"]),
        ("- {id: a}", ["fleet.yaml:1: must hold sections"]),
        (
            "nodes:\n  - {id: a b, models: [m], max_concurrent: 0}\n"
            "  - {id: c, models: [m], max_concurrent: 1, speed: 0}",
            [
                "fleet.yaml:2: nodes[0].id: 'a b' is",
                "fleet.yaml:2: nodes[0].max_concurrent",
                "fleet.yaml:3: nodes[1].speed",
            ],
        ),
        (
            "nodes:\n  - &a {id: a, models: [m], max_concurrent: 1}\n  - {id: a, models: [m], max_concurrent: 1}",
            ["anchors", "there is another node 'a' above"],
        ),
        (
            "nodes:\n  - {id: a, models: [m], max_concurrent: 1}\nevents:\n"
            "  - {at: 1m, node: a, action: explode}\n  - {at: 1m, node: b, action: drain}\n"
            "  - {at: 1m, node: a, action: limit, to: 0}\n  - {at: soon, node: a, action: up}\n"
            "  - {at: 1m, node: a, action: up, to: 3}\n  - drain\n  - {at: 1m, node: a, action: up, why: not}\n",
            [
                "fleet.yaml:4: events[0].action: 'explode' is none of drain, activate, disable",
                "fleet.yaml:5: events[1].node: 'b' is none of a",
                "fleet.yaml:6: events[2].to: must be a whole number from 1 to",
                "fleet.yaml:7: events[3].at: 'soon' is no duration",
                "fleet.yaml:8: events[4].to: says nothing about up",
                "fleet.yaml:9: events[5]: must be an event such as",
                "fleet.yaml:10: events[6].why: unknown; the fields are at, node, action, to",
            ],
        ),
        ("node:\n  - {id: a}", ["fleet.yaml:1: node: unknown; did you mean nodes?"]),
    ],
)
def test_every_mistake_of_the_file_is_told_with_its_line(simulate, nodes, said):
    result = simulate("--rate 1 --service 1s", nodes)
    assert result.exit_code == 1
    assert [words for words in said if words not in result.output] == []


def test_an_event_for_a_node_that_is_gone_is_told(simulate):
    nodes = FLEET + "  - {at: 2m, node: gpu-01, action: remove}\n  - {at: 3m, node: gpu-01, action: drain}\n"
    result = simulate("--rate 1 --service 1s --duration 5m", nodes)
    assert result.exit_code == 1
    assert "fleet.yaml: an event comes while its node is not registered. There is no node 'gpu-01'." in result.output


def test_a_whole_settings_file_will_do(simulate):
    nodes = "server: {port: 9000}\n" + FLEET.replace(
        "max_concurrent: 2}", "max_concurrent: 2, address: 'http://a:8000'}"
    )
    assert simulate("--rate 1 --service 1s --duration 1m", nodes).exit_code == 0


def test_events_come_in_the_order_of_time_and_nodes_can_be_added(simulate, tmp_path):
    (tmp_path / "fleet.yaml").write_text(
        FLEET + "  - {at: 3m, action: add, node: {id: gpu-03, models: [通义千问], max_concurrent: 4}}\n",
        encoding="utf-8",
    )
    assert [event.at_s for event in read_fleet(tmp_path / "fleet.yaml").events] == [60.0, 120.0, 180.0]
    report = json.loads(simulate("--rate 3 --service 2s --json").stdout)
    assert report["nodes"][2]["node_id"] == "gpu-03"
    assert report["nodes"][2]["granted"] > 0


# -- the document -----------------------------------------------------------------------------


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    text = "".join(blocks("sh")).replace("\\\n", " ")
    return [line.split("simulate", 1)[1] for line in text.splitlines() if line.startswith("llm-scheduler simulate")]


def test_the_examples_of_the_document_print_what_it_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (fleet, *changes) = blocks("yaml")
    for block in ("# fleet.yaml\n", *changes):
        name = re.match(r"# ([\w.]+)", block)
        assert name
        (tmp_path / name[1]).write_text(fleet + block, encoding="utf-8")
    shown = [line.rstrip() for block in blocks("text") for line in block.splitlines() if line]
    printed: list[str] = []
    for command in commands():
        if "--arrivals" not in command:
            result = CliRunner().invoke(main, ["simulate", *shlex.split(command)])
            assert result.exit_code == 0, result.output
            printed += result.stdout.splitlines()
    assert len(commands()) == 5
    assert [line for line in shown if line not in printed] == []
