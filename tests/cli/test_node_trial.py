"""`nodes test`: what it prints of a trial, and with which status it exits."""

import json

from scheduler.gateway.ports import ExamStep, NodeFindings
from tests.web.conftest import GPU_1

FOUND = NodeFindings((ExamStep("tcp", True, "connected", 1.0),), ("qwen", "bge"), "sglang", "0.5.4", 32, ("a note",))


def test_a_good_address_ends_with_the_command_that_registers_it(run, site):
    site.examiner.findings = FOUND
    result = run("nodes", "test", "http://10.0.0.1:8000/v1", "--api-key", "sk-node")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].split() == ["STEP", "RESULT", "MS", "MESSAGE"]
    command = "nodes add ID http://10.0.0.1:8000 --models qwen,bge --max-concurrent 32"
    assert result.stdout.endswith(f"Register it: llm-scheduler {command}\n")
    assert "note: a note" in result.stderr
    assert "/v1 was removed" in result.stderr
    assert site.examiner.targets[0].api_key == "sk-node"
    assert site.roster.list() == []


def test_the_key_of_the_node_comes_from_its_variable(run, site):
    run("nodes", "test", "http://a", LLM_SCHEDULER_NODE_API_KEY="sk-node")
    run("nodes", "test", "http://a")
    assert [target.api_key for target in site.examiner.targets] == ["sk-node", None]


def test_what_is_registered_already_is_told(run, site):
    site.examiner.findings = FOUND
    site.roster.register(GPU_1, "op")
    result = run("nodes", "test", "http://10.0.0.1:8000")
    assert "This address is registered as gpu-1." in result.stdout
    assert "qwen is also on gpu-1" in result.stderr


def test_a_step_that_fails_is_shown_and_exits_with_1(run, site):
    site.examiner.findings = NodeFindings((ExamStep("tcp", False, "port 8000: connection refused", 1.0),))
    result = run("nodes", "test", "http://10.0.0.1:8000")
    assert result.exit_code == 1
    assert "FAILED" in result.stdout
    assert "connection refused" in result.stdout
    assert "Register it" not in result.stdout
    answer = run("nodes", "test", "nowhere", "--json")
    assert answer.exit_code == 1
    assert json.loads(answer.stdout)["failed_step"] == "url"
