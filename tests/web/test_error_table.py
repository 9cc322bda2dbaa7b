"""The table of errors, as the contract has it, and what no table can foresee."""

import pytest
from flask import abort

from scheduler import errors
from scheduler.web.error_handlers import describe

BAD, LIMIT, SERVER = "invalid_request_error", "rate_limit_error", "server_error"

CONTRACT = [
    (errors.BadCall("x", "invalid_json"), 400, BAD, "invalid_json", None, None),
    (errors.BadCall("x", "malformed_body"), 400, BAD, "malformed_body", None, None),
    (errors.BadCall("x", "missing_required_parameter", "model"), 400, BAD, "missing_required_parameter", None, None),
    (errors.Unauthorized(), 401, BAD, "invalid_api_key", None, None),
    (errors.UnknownModel("a", ["b"]), 404, BAD, "model_not_found", None, None),
    (errors.BodyTimeout(), 408, BAD, "request_timeout", None, "false"),
    (errors.BodyTooLarge(1), 413, BAD, "request_too_large", None, None),
    (errors.QueueFull("full", 7), 429, LIMIT, "queue_full", "7", None),
    (errors.QueueTimeout(120.0, 9), 503, SERVER, "queue_timeout", "9", "false"),
    (errors.NoHealthyNode("a", 30), 503, SERVER, "no_healthy_node", "30", None),
    (errors.NodeUnreachable("x"), 502, SERVER, "upstream_unreachable", "5", None),
    (errors.NoOtherNode(), 502, SERVER, "upstream_unreachable", "5", None),
    (errors.NodeClosed("x"), 502, SERVER, "upstream_closed", None, "false"),
    (errors.NodeProtocolError("x"), 502, SERVER, "upstream_protocol_error", None, "false"),
    (errors.NodeAuthError("x"), 502, SERVER, "upstream_auth_error", None, "false"),
    (errors.NodeTimeout("idle_timeout"), 504, SERVER, "upstream_timeout", None, "false"),
    (errors.ShuttingDown(), 503, SERVER, "shutting_down", "5", None),
    (errors.Cancelled(), 503, SERVER, "cancelled", None, "false"),
    (errors.CoordinationUnavailable(), 503, SERVER, "coordination_unavailable", "5", None),
    (errors.ClientGone(), 499, BAD, "client_closed", None, None),
    (errors.UnknownNode("a"), 404, BAD, "node_not_found", None, None),
    (errors.UnknownRequest("a"), 404, BAD, "request_not_found", None, None),
    (errors.NodeConflict("http://a", "b"), 409, BAD, "address_in_use", None, None),
    (errors.InvalidFields([("a", "b")]), 400, BAD, "invalid_fields", None, None),
]


@pytest.mark.parametrize("row", CONTRACT, ids=lambda row: f"{type(row[0]).__name__}-{row[3]}")
def test_every_error_is_answered_as_the_contract_says(row):
    error, status, kind, code, retry_after, should_retry = row
    answer = describe(error)
    assert (answer.status, answer.type, answer.code) == (status, kind, code)
    assert answer.headers.get("Retry-After") == retry_after
    assert answer.headers.get("x-should-retry") == should_retry
    assert set(answer.body["error"]) - {"details"} == {"message", "type", "param", "code"}
    assert answer.message
    assert (answer.headers.get("WWW-Authenticate") == "Bearer") is (status == 401)


def test_every_family_of_errors_has_its_row():
    def below(kind):
        return {kind}.union(*(below(child) for child in kind.__subclasses__()))

    told = {type(row[0]) for row in CONTRACT}
    bases = {errors.SchedulerError, errors.AdmissionError, errors.NodeError}
    # Raised before anybody can ask, or to the command line alone.
    starts = {errors.ConfigError, errors.StartRefused, errors.BackupFailed}
    ours = {kind for kind in below(errors.SchedulerError) if kind.__module__ == "scheduler.errors"}
    assert ours - told - bases - starts == {errors.ReplyBroken}  # ends a stream in the middle


def test_the_missing_model_is_named_as_parameter():
    assert describe(errors.BadCall("x", "missing_required_parameter", "model")).param == "model"


def test_a_bug_says_nothing_but_the_request_id():
    answer = describe(ZeroDivisionError("secret"), "req_1")
    assert (answer.status, answer.type, answer.code) == (500, SERVER, "internal_error")
    assert answer.message == "Internal error. Request id: req_1"


@pytest.mark.parametrize(("path", "method", "status"), [("/nowhere", "GET", 404), ("/health", "POST", 405)])
def test_paths_and_methods_that_are_not_there_are_answered_in_openais_shape(site, path, method, status):
    reply = site.client.open(path, method=method)
    assert reply.status_code == status
    assert reply.json["error"]["type"] == BAD
    assert (reply.headers.get("Allow") is not None) is (status == 405)
    assert reply.headers["X-Scheduler-Request-Id"].startswith("req_")
    assert reply.headers["X-Request-Id"] == reply.headers["X-Scheduler-Request-Id"]


@pytest.mark.parametrize(("given", "is_echoed"), [("my-id.1", True), ("a b", False), ("x" * 129, False)])
def test_the_callers_request_id_is_echoed_where_it_is_one(site, given, is_echoed):
    reply = site.get("/nowhere", headers={"X-Request-Id": given})
    assert (reply.headers["X-Request-Id"] == given) is is_echoed


def test_a_bug_in_a_view_is_a_500_with_its_id_and_nothing_else(site):
    site.app.add_url_rule("/bug", "bug", view_func=lambda: 1 / 0)
    site.app.add_url_rule("/abort", "abort", view_func=lambda: abort(500, "secret"))
    for path in ("/bug", "/abort"):
        reply = site.get(path)
        assert reply.status_code == 500
        assert reply.json["error"]["code"] == "internal_error"
        assert reply.headers["X-Scheduler-Request-Id"] in reply.json["error"]["message"]
        assert b"division" not in reply.data
        assert b"secret" not in reply.data
