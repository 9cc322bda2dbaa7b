"""Node fields: addresses that mean one machine, and every bad field at once."""

import pytest

from scheduler.gateway.node_fields import check_node_fields, nearest_name, parse_address

GOOD = {"id": "gpu-01", "address": "http://10.0.0.5:8000", "models": ["qwen"], "max_concurrent": 8}


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("http://10.0.0.5:8000", "http://10.0.0.5:8000"),
        ("HTTP://GPU-01.Lan:8000/", "http://gpu-01.lan:8000"),
        ("https://gpu-01/engine-1/", "https://gpu-01/engine-1"),
        ("http://gpu-01:80", "http://gpu-01"),
        ("https://gpu-01:443/x", "https://gpu-01/x"),
        ("http://gpu-01:443", "http://gpu-01:443"),
        ("http://localhost:08000", "http://localhost:8000"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://[FD00:0:0::5]", "http://[fd00::5]"),
        ("http://[::ffff:10.0.0.5]:1", "http://[::ffff:a00:5]:1"),
        ("http://node_1.svc.cluster.local.:8000", "http://node_1.svc.cluster.local.:8000"),
        ("http://3com.example", "http://3com.example"),
        ("http://v1:8000", "http://v1:8000"),
    ],
)
def test_an_address_has_one_spelling(text, address):
    parsed = parse_address(text)
    assert (parsed.address, parsed.note) == (address, None)
    assert parse_address(parsed.address) == parsed


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("http://gpu-01:8000/v1", "http://gpu-01:8000"),
        ("http://gpu-01:8000/v1/", "http://gpu-01:8000"),
        ("http://gpu-01/engine/v1", "http://gpu-01/engine"),
    ],
)
def test_a_trailing_v1_is_removed_with_a_note(text, address):
    parsed = parse_address(text)
    assert parsed.address == address
    assert "/v1 was removed" in (parsed.note or "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("10.0.0.5:8000", "must begin with http"),
        ("localhost:8000", "must begin with http"),
        ("ftp://gpu-01", "must begin with http"),
        ("http:/gpu-01", "must begin with http"),
        ("http://", "has no host"),
        ("http://:8000", "has no host"),
        ("http://user:secret@gpu-01", "user or password"),
        ("http://gpu-01/?a=b", "query or fragment"),
        ("http://gpu-01#x", "query or fragment"),
        ("http://evil\\@good/", "backslashes"),
        (" http://gpu-01", "spaces"),
        ("http://gpu 01", "spaces"),
        ("http://gpu-01\n", "control characters"),
        ("http://gpu-01:0", "port"),
        ("http://gpu-01:70000", "port"),
        ("http://gpu-01:", "port"),
        ("http://gpu-01:80a", "port"),
        ("http://gpu..lan", "neither a name nor an IP"),
        ("http://-gpu", "neither a name nor an IP"),
        ("http://gpu%2elan", "neither a name nor an IP"),
        ("http://büro", "xn--"),
        ("http://fd00::5:8000", "brackets"),
        ("http://[fd00::5", "brackets"),
        ("http://[fe80::1%25eth0]", "no IPv6 address"),
        ("http://[10.0.0.5]", "no IPv6 address"),
        ("http://gpu-01//x", "unusable path"),
        ("http://gpu-01/../x", "unusable path"),
        ("http://gpu-01/a/%2E%2e/x", "unusable path"),
        ("http://gpu-01/v1/chat/completions", "give the part before /v1"),
        ("http://" + "a" * 600, "longer than 512"),
    ],
)
def test_an_address_of_another_form_is_refused_with_the_reason(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse_address(text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "[fe80::1]",
        "[::ffff:169.254.169.254]",
        "[::169.254.169.254]",
        "[64:ff9b::169.254.169.254]",
        "[2002:a9fe:a9fe::1]",
        "224.0.0.1",
        "255.255.255.255",
        "[ff02::1]",
        "0.0.0.0",
        "0.1.2.3",
        "[::]",
        "[::ffff:0.0.0.0]",
    ],
)
def test_link_local_multicast_and_unspecified_addresses_are_refused(host):
    with pytest.raises(ValueError, match=r"link-local|multicast|unspecified"):
        parse_address(f"http://{host}:8000")


@pytest.mark.parametrize(
    "host", ["0", "127.1", "0x7f.1", "2130706433", "0177.0.0.1", "010.0.0.5", "1.2.3.4.5", "127.0.0.1.", "0x", "a.0x1"]
)
def test_a_numeric_host_that_is_no_plain_ipv4_address_is_refused(host):
    with pytest.raises(ValueError, match="no plain IPv4"):
        parse_address(f"http://{host}")


def test_a_whole_node_gets_its_defaults():
    values, faults = check_node_fields(GOOD, partial=False)
    assert faults == []
    assert values == {**GOOD, "weight": 100, "api_key": None, "labels": {}, "remark": ""}


def test_every_bad_field_is_reported_at_once():
    bad = {
        "id": "a b",
        "address": "gpu-01",
        "models": [],
        "max_concurrent": True,
        "weight": 0,
        "api_key": "has space",
        "labels": {"zone": 1},
        "remark": "x" * 1001,
        "state": "asleep",
        "max_concurent": 4,
    }
    values, faults = check_node_fields(bad, partial=False)
    assert [param for param, _ in faults] == list(bad)
    assert dict(faults)["max_concurent"] == "unknown field; did you mean max_concurrent?"
    assert "has space" not in str(faults)
    assert "id" not in values


def test_missing_fields_are_reported_each():
    _, faults = check_node_fields({"address": None}, partial=False)
    assert faults == [(name, "is required") for name in ("id", "address", "models", "max_concurrent")]


@pytest.mark.parametrize("value", [0, -1, 100_001, 8.0, "8", True, [8]])
def test_max_concurrent_is_a_whole_number_within_its_range(value):
    _, faults = check_node_fields({**GOOD, "max_concurrent": value}, partial=False)
    assert [param for param, _ in faults] == ["max_concurrent"]


@pytest.mark.parametrize(
    "models",
    ["qwen", [], [""], [" qwen"], ["a", "a"], [1.1], ["x" * 257], ["a\nb"], ["\ud800"], ["m"] * 1001, {"a": 1}],
)
def test_models_are_unique_names_of_one_line(models):
    _, faults = check_node_fields({**GOOD, "models": models}, partial=False)
    assert [param for param, _ in faults] == ["models"]


@pytest.mark.parametrize("node_id", ["", ".", "..", "a/b", "ü", "x" * 65, "a\n"])
def test_an_id_fits_into_a_url(node_id):
    _, faults = check_node_fields({**GOOD, "id": node_id}, partial=False)
    assert [param for param, _ in faults] == ["id"]


@pytest.mark.parametrize("labels", ["zone", {"a": None}, {"": "x"}, {"a": {"b": "c"}}, {1: "x"}, {"a": "x\ny"}])
def test_labels_map_names_to_texts(labels):
    _, faults = check_node_fields({**GOOD, "labels": labels}, partial=False)
    assert [param for param, _ in faults] == ["labels"]


def test_a_partial_check_takes_what_is_given_and_lets_null_pass():
    fields = {"weight": None, "state": "draining", "api_key": "", "address": "http://gpu-02/v1"}
    values, faults = check_node_fields(fields, partial=True)
    assert faults == []
    assert values == {"address": "http://gpu-02", "weight": None, "api_key": "", "state": "draining"}


def test_an_id_cannot_be_changed():
    _, faults = check_node_fields({"id": "gpu-02"}, partial=True)
    assert faults == [("id", "cannot be changed; register the node under its new id and delete this one")]


def test_a_name_far_from_all_has_no_nearest_one():
    assert nearest_name("zzz", ["port", "host"]) is None
    assert nearest_name("Max-Body", ["max_body", "max_held_bytes"]) == "max_body"
