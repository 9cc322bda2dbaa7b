"""The dashboard, the alert rules and docs/api.md name only metrics and labels that are exported."""

import json
import re
from pathlib import Path

import pytest
import yaml

from scheduler.adapters.request_metrics import RequestMetrics
from scheduler.core.node import Health
from scheduler.core.priority import Priority
from tests.adapters.test_metrics import State, finished, scrape

ROOT = Path(__file__).resolve().parent.parent
DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboard.json").read_text(encoding="utf-8"))
RULES = yaml.safe_load((ROOT / "deploy/grafana/alerts.yaml").read_text(encoding="utf-8"))["groups"][0]["rules"]

#: What Prometheus adds to every sample.
TARGET_LABELS = {"instance", "job"}


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """Every sample's name, with its labels: the scrape of a scheduler to which everything has happened."""
    metrics = RequestMetrics(lambda model: True)
    metrics.note_finished(finished(prompt_tokens=1, completion_tokens=1))
    metrics.note_finished(finished(outcome="failed", error_code="upstream_timeout"))
    metrics.note_finished(finished(outcome="rejected", error_code="queue_full"))
    metrics.note_unread("invalid_json")
    state = State()
    state.add("gpu-1", ("qwen",), 1, Health.UP)
    state.submit("a", Priority.NORMAL)
    found: dict[str, set[str]] = {}
    for name, labels in scrape(metrics, state.metrics):
        found.setdefault(f"llm_scheduler_{name}", set()).update(dict(labels))
    return found


def panels() -> list[dict]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


EXPRESSIONS = [
    *(pytest.param(target["expr"], id=panel["title"]) for panel in panels() for target in panel["targets"]),
    *(pytest.param(rule["expr"], id=rule["alert"]) for rule in RULES),
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_names_only_metrics_and_labels_that_are_exported(expression, exported):
    selectors = re.findall(r"(llm_scheduler_\w+)(?:\{([^}]*)\})?", expression)
    assert selectors
    labels = set(TARGET_LABELS)
    for name, matchers in selectors:
        assert name in exported
        labels |= exported[name]
        matched = re.findall(r'(\w+)(?:=~|!~|!=|=)"[^"]*"(?:,|$)', matchers)
        assert len(matched) == matchers.count('="') + matchers.count('~"')
        assert set(matched) <= exported[name] | TARGET_LABELS
    for grouped in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression):
        assert set(grouped.split(", ")) <= labels
    without_texts = re.sub(r'"[^"]*"', "", expression)
    assert all(without_texts.count(a) == without_texts.count(b) for a, b in ("()", "{}", "[]"))
    # Counters are only good for their rates.
    counters = re.findall(r"(\w+\()?llm_scheduler_\w+_(?:total|bucket)\b", expression)
    assert set(counters) <= {"rate(", "increase("}


def test_the_dashboard_can_be_imported():
    assert (DASHBOARD["id"], DASHBOARD["uid"], DASHBOARD["title"]) == (None, "llm-scheduler", "LLM Scheduler")
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(DASHBOARD)))
    assert used == variables
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in panels():
        assert panel["datasource"]["uid"] == "${datasource}"
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


def test_no_panel_covers_another():
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (place["x"] + right, place["y"] + down) for right in range(place["w"]) for down in range(place["h"])
        }  # fmt: skip
        assert not cells & taken, panel["title"]
        taken |= cells


def test_legends_and_variables_name_labels_that_are_there(exported):
    for panel in panels():
        for target in panel["targets"]:
            known = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", target["expr"])))) | TARGET_LABELS
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= known, panel["title"]
    for variable in DASHBOARD["templating"]["list"][1:]:
        found = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"])
        assert found
        assert found[2] in exported[found[1]] | TARGET_LABELS


def test_every_alert_says_how_bad_it_is_and_what_to_do(exported):
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}
        assert all(text.endswith(".") for text in rule["annotations"].values())
        assert re.fullmatch(r"[0-9]+[smh]", rule.get("for", "0s"))
        labels = set().union(*(exported[name] for name in re.findall(r"llm_scheduler_\w+", rule["expr"])))
        grouped = re.findall(r"^\w+ by \(([^)]*)\)", rule["expr"])
        left = set(grouped[0].split(", ")) if grouped else labels | TARGET_LABELS
        assert set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"]))) <= left, rule["alert"]


def test_what_matters_most_has_an_alert():
    watched = " ".join(rule["expr"] for rule in RULES)
    for name in (
        *("node_health", "model_nodes_serving", "queue_oldest_wait_seconds", "queue_depth", "rejections_total"),
        *("failures_total", "recorder_backlog", "recorder_lost_total", "hub_lag_max_seconds", "held_body_bytes"),
    ):
        assert f"llm_scheduler_{name}" in watched


def test_the_documented_metrics_and_labels_are_those_that_are_exported(exported):
    part = (ROOT / "docs/api.md").read_text(encoding="utf-8").partition("\n## Metrics\n")[2].partition("\n## ")[0]
    told = {
        name: set(re.findall(r"`(\w+)`", line.split("|")[2]))
        for line in part.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(llm_scheduler_\w+)`", line.split("|")[1])
    }
    parts_of_histograms = re.compile(r"_(bucket|count|sum)$")
    assert told == {
        parts_of_histograms.sub("", name): labels - {"le"}
        for name, labels in sorted(exported.items(), key=lambda item: len(item[0]), reverse=True)
    }
