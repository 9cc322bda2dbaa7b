"""`nodes import` and `nodes export`: what a file changes, what it leaves alone, and every mistake with its line."""

import pytest
import yaml
from click.testing import CliRunner

from scheduler.cli import main
from tests.web.conftest import GPU_1

FILE = """\
nodes:
  - id: gpu-1
    address: http://10.0.0.1:8000
    models: [qwen]
    max_concurrent: 4
  - id: gpu-2
    address: http://10.0.0.2:8000/v1
    models: [bge, "on"]
    max_concurrent: 8
    labels: {zone: a}
    api_key: "sk-of-the-node"
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "nodes.yaml"
    path.write_text(FILE)
    return path


def test_nodes_of_a_file_are_registered_and_a_second_import_has_nothing_to_do(run, site, file):
    result = run("nodes", "import", str(file), "--yes")
    assert result.exit_code == 0, result.output
    assert 'added      gpu-2  address: "http://10.0.0.2:8000"' in result.stdout
    assert result.stdout.endswith("2 added\nDone.\n")
    assert "/v1 was removed" in result.stderr
    assert "sk-of-the-node" not in result.output
    assert site.roster.target("gpu-2").api_key == "sk-of-the-node"
    assert site.roster.get("gpu-2").models == ("bge", "on")
    events = len(site.events.events)
    file.write_text(FILE.replace('    api_key: "sk-of-the-node"\n', ""))
    again = run("nodes", "import", str(file))
    assert (again.exit_code, again.stdout.splitlines()[-2:]) == (0, ["2 unchanged", "There is nothing to do."])
    assert len(site.events.events) == events


def test_a_key_that_cannot_be_compared_is_sent_again_and_changes_nothing(run, site, file):
    run("nodes", "import", str(file), "--yes")
    events = len(site.events.events)
    again = run("nodes", "import", str(file), "--yes")
    assert "unchanged  gpu-2  its key is sent again" in again.stdout
    assert len(site.events.events) == events
    file.write_text(FILE.replace("sk-of-the-node", ""))
    assert "its key is taken away" in run("nodes", "import", str(file), "--yes").stdout
    assert site.roster.target("gpu-2").api_key is None


def test_changes_are_told_field_by_field_and_what_the_file_leaves_out_stays(run, site, file):
    site.roster.register({**GPU_1, "remark": "rack 3", "weight": 50, "api_key": "sk-1"}, "op")
    site.roster.change("gpu-1", {"max_concurrent": 2, "state": "disabled"}, "op")
    result = run("nodes", "import", str(file), "--yes")
    assert "changed    gpu-1  max_concurrent: 2 (set by hand) -> 4" in result.stdout
    node = site.roster.get("gpu-1")
    assert (node.max_concurrent, node.weight, node.remark, node.state) == (4, 50, "rack 3", "disabled")
    assert site.roster.target("gpu-1").api_key == "sk-1"


def test_a_dry_run_and_a_no_change_nothing(run, site, file):
    dry = run("nodes", "import", str(file), "--dry-run")
    assert (dry.exit_code, dry.stdout.splitlines()[-1]) == (0, "Nothing was done (--dry-run).")
    refused = run("nodes", "import", str(file))
    assert refused.exit_code == 1
    assert "Do it?" in refused.stdout
    assert site.roster.list() == []


def test_nodes_that_the_file_lacks_are_kept_unless_it_is_said(run, site, file):
    site.roster.register({**GPU_1, "id": "gpu-9", "address": "http://10.0.0.9:8000"}, "op")
    kept = run("nodes", "import", str(file), "--yes")
    assert "kept       gpu-9  not in the file; --prune removes it" in kept.stdout
    assert [node.id for node in site.roster.list()] == ["gpu-9", "gpu-1", "gpu-2"]
    assert run("nodes", "import", str(file), "--yes", "--prune").exit_code == 0
    assert [node.id for node in site.roster.list()] == ["gpu-1", "gpu-2"]


def test_an_address_of_a_node_that_is_kept_is_a_conflict_before_anything_is_done(run, site, file):
    site.roster.register({**GPU_1, "id": "old-name"}, "op")
    result = run("nodes", "import", str(file), "--yes")
    assert result.exit_code == 1
    assert "gpu-1: http://10.0.0.1:8000 is the address of old-name" in result.stderr
    assert [node.id for node in site.roster.list()] == ["old-name"]
    assert run("nodes", "import", str(file), "--yes", "--prune").exit_code == 0
    assert site.roster.get("gpu-1").address == "http://10.0.0.1:8000"


def test_a_node_may_take_the_address_that_another_leaves_in_the_same_import(run, site, file):
    site.roster.register({**GPU_1, "address": "http://10.0.0.2:8000"}, "op")
    site.roster.register({**GPU_1, "id": "gpu-2", "address": "http://10.0.0.3:8000"}, "op")
    file.write_text("\n".join([*FILE.splitlines()[:1], *FILE.splitlines()[5:], *FILE.splitlines()[1:5]]))
    assert run("nodes", "import", str(file), "--yes").exit_code == 0
    assert [node.address for node in site.roster.list()] == ["http://10.0.0.1:8000", "http://10.0.0.2:8000"]


def test_what_the_server_refuses_is_told_and_the_rest_is_done(run, site, file):
    for node_id, other in (("gpu-1", "2"), ("gpu-2", "1")):  # each wants the other's address: neither can go first
        site.roster.register({**GPU_1, "id": node_id, "address": f"http://10.0.0.{other}:8000"}, "op")
    file.write_text(FILE + "  - {id: gpu-3, address: http://10.0.0.3:8000, models: [m], max_concurrent: 1}\n")
    result = run("nodes", "import", str(file), "--yes")
    assert result.exit_code == 1
    assert "2 of 3 changes failed." in result.stderr
    assert "10.0.0.1:8000" in result.stderr
    assert site.roster.get("gpu-3").max_concurrent == 1


def test_every_mistake_is_told_with_its_line_and_nothing_is_done(run, site, file):
    file.write_text(
        FILE.replace("max_concurrent: 4", "max_concurrent: 0\n    wieght: 5").replace("10.0.0.2", "0.0.0.0")
    )
    result = run("nodes", "import", str(file), "--yes")
    assert result.exit_code == 1
    assert [line.partition(": ")[0].rpartition("/")[2] for line in result.stderr.splitlines()] == [
        "Error",
        "nodes.yaml:6",
        "nodes.yaml:8",
    ]
    assert "did you mean weight?" in result.stderr
    assert site.roster.list() == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no nodes:"),
        ("server: {port: 1}\n", "has no nodes:"),
        ("node: []\nnodes: []\n", "unknown section; did you mean nodes?"),
        ("nodes: {a: 1}\n", "must be a list of nodes"),
        ("nodes: [\n", "is no valid YAML"),
        (
            "nodes:\n- {id: a, address: http://a, models: [m], max_concurrent: 1, state: disabled}\n",
            "is not set in the file",
        ),
    ],
)
def test_what_is_no_list_of_nodes_is_said_so(run, file, text, said):
    file.write_text(text)
    result = run("nodes", "import", str(file), "--yes", "--prune")
    assert result.exit_code == 1
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_a_whole_config_file_will_do_whatever_stands_in_its_other_sections(run, site, file):
    file.write_text("server: {workers: 4}\nauth: {api_keys: [sk-one]}\n" + FILE)
    assert run("nodes", "import", str(file), "--yes", LLM_SCHEDULER_SERVER_PORT="none").exit_code == 0
    assert len(site.roster.list()) == 2


def test_a_file_that_is_not_there_and_a_server_that_is_not_there_are_told(run, file, tmp_path):
    assert "cannot be read" in run("nodes", "import", str(tmp_path / "none.yaml")).stderr
    lost = CliRunner().invoke(main, ["nodes", "import", str(file), "--url", "http://127.0.0.1:9"])
    assert lost.exit_code == 1
    assert "No server can be reached" in lost.stderr.splitlines()[-1]


# -- export -----------------------------------------------------------------------------------


def test_an_export_is_a_file_that_import_takes_and_has_no_keys(run, site, file):
    odd = {
        "models": ["on", "1:20", "0x1F", "null", "a: b"],
        "labels": {"zone": "no", "1": "1.0"},
        "remark": "机房 🚀\n# two",
    }
    site.roster.register({**GPU_1, **odd, "api_key": "sk-1"}, "op")
    site.roster.register({**GPU_1, "id": "gpu-2", "address": "http://10.0.0.2:8000"}, "op")
    result = run("nodes", "export")
    assert result.exit_code == 0
    assert "sk-1" not in result.stdout
    assert "# These have a key: gpu-1\n" in result.stdout
    assert "机房" in result.stdout
    assert yaml.safe_load(result.stdout)["nodes"][0]["models"] == odd["models"]
    file.write_text(result.stdout)
    assert "2 unchanged\nThere is nothing to do." in run("nodes", "import", str(file), "--prune").stdout
    site.roster.remove("gpu-1", "op")
    assert run("nodes", "import", str(file), "--yes").exit_code == 0
    assert (site.roster.get("gpu-1").remark, site.roster.get("gpu-1").labels) == (odd["remark"], odd["labels"])


def test_an_export_of_no_nodes_is_a_file_too(run, file):
    result = run("nodes", "export")
    assert result.stdout.endswith("nodes: []\n")
    file.write_text(result.stdout)
    assert run("nodes", "import", str(file)).exit_code == 0
