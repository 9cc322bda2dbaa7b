"""/admin/stats and what is below it."""

import pytest

from scheduler.gateway.figures import Durations, Figures, Totals, Usage

FIGURES = Figures(10, 8, 100, 50, 4, Durations(1.04, 1, 2, 3), Durations(5, 5, 6, 7), Durations(12.34, 10, 20, 30))
DURATIONS = {
    f"{kind}_{name}" for kind in ("avg", "p50", "p95", "p99") for name in ("queue_ms", "ttfb_ms", "latency_ms")
}


def params(reply):
    assert reply.status_code == 400
    return [detail["param"] for detail in reply.json["error"]["details"]]


def test_percentiles_stand_beside_every_average(site):
    site.statistics.found_totals = Totals(FIGURES, pending=2, processing=1, is_exact=True)
    stats = site.get("/admin/stats?start_time=2023-11-14").json
    assert stats["total_requests"] == 13
    assert (stats["pending_requests"], stats["processing_count"]) == (2, 1)
    assert (stats["completed_count"], stats["failed_count"]) == (8, 2)
    assert (stats["avg_latency_ms"], stats["p50_latency_ms"], stats["p99_latency_ms"]) == (12.3, 10, 30)
    assert (stats["avg_queue_ms"], stats["p95_ttfb_ms"]) == (1.0, 6)
    assert set(stats) >= DURATIONS
    assert (stats["total_tokens"], stats["without_usage_count"], stats["without_usage_share"]) == (150, 4, 0.4)
    assert site.statistics.asked == [(1_699_920_000.0, None)]


def test_nothing_has_no_average(site):
    stats = site.get("/admin/stats").json
    assert (stats["total_requests"], stats["avg_latency_ms"], stats["without_usage_share"]) == (0, None, 0.0)


def test_models_come_with_the_most_asked_for_first(site):
    site.statistics.found_ranges = [{"a": Figures(1, 1), "b": FIGURES, None: Figures(1)}]
    found = site.get("/admin/stats/models").json
    assert [(model["model"], model["request_count"]) for model in found["models"]] == [("b", 10), (None, 1), ("a", 1)]
    assert set(found["models"][0]) >= DURATIONS | {"model", "request_count", "completed_count", "total_tokens"}
    assert site.statistics.asked == [([None, None], "model")]


def test_a_timeseries_has_a_point_for_each_local_day(site):
    site.statistics.found_ranges = [{"qwen": Figures(2)}, {"qwen": Figures(3), "llama": FIGURES}]
    found = site.get(
        "/admin/stats/timeseries?start_time=2025-10-25T22:00:00Z&end_time=2025-10-28T23:00:00Z&step=1d"
        "&tz=Europe/Berlin&group_by=model"
    ).json
    assert found["buckets"] == [
        "2025-10-25T22:00:00.000Z", "2025-10-26T23:00:00.000Z", "2025-10-27T23:00:00.000Z",
    ]  # fmt: skip
    counts = {each["name"]: [point and point["request_count"] for point in each["points"]] for each in found["series"]}
    assert counts == {"llama": [None, 10, None], "qwen": [2, 3, None]}
    assert (found["step"], found["tz"], found["group_by"]) == ("1d", "Europe/Berlin", "model")


def test_a_timeseries_without_groups_is_one(site):
    site.statistics.found_ranges = [{None: FIGURES}]
    found = site.get("/admin/stats/timeseries").json
    assert [each["name"] for each in found["series"]] == [None]
    assert found["series"][0]["points"][0]["p95_latency_ms"] == 20
    assert (found["step"], found["tz"], found["groups_left_out"]) == ("15m", "UTC", 0)


def test_a_timeseries_of_many_groups_keeps_the_greatest(site):
    site.statistics.found_ranges = [{f"team-{number}": Figures(number) for number in range(100)}]
    found = site.get("/admin/stats/timeseries?group_by=key").json
    assert found["series"][0]["name"] == "team-99"
    assert len(found["series"]) + found["groups_left_out"] == 100
    assert len(found["series"]) * len(found["buckets"]) <= 2000


def test_every_bad_parameter_of_a_timeseries_is_told_at_once(site):
    reply = site.get("/admin/stats/timeseries?start_time=x&step=2h&tz=Mars/Olympus&group_by=colour&limit=1")
    assert params(reply) == ["tz", "start_time", "step", "group_by", "limit"]
    assert params(site.get("/admin/stats/timeseries?start_time=2025-01-02&end_time=2025-01-01")) == ["end_time"]
    assert params(site.get("/admin/stats/timeseries?start_time=2999-01-01")) == ["start_time"]
    assert site.statistics.asked == []


@pytest.mark.parametrize(
    "wanted",
    ["step=1m&start_time=2025-01-01&end_time=2025-01-02", "start_time=0001-01-01&end_time=9999-12-30&step=1mo"],
)
def test_more_buckets_than_a_chart_can_show_are_refused(site, wanted):
    assert params(site.get(f"/admin/stats/timeseries?{wanted}")) == ["step"]


USED = [
    Usage("a", "llama", 3, 2, 10, 5, 1),
    Usage("a", "qwen", 1, 1, 1, 1, 0),
    Usage(None, "llama", 1, 0, 0, 0, 0),
    Usage("=cmd()", "qwen", 1, 1, 2, 2, 1),
]


def test_usage_is_that_of_a_local_month(site):
    site.statistics.found_usage = USED
    found = site.get("/admin/stats/usage?month=2025-03&tz=Europe/Berlin").json
    assert (found["start_time"], found["end_time"]) == ("2025-02-28T23:00:00.000Z", "2025-03-31T22:00:00.000Z")
    assert found["usage"][0] == {
        "key_name": "a", "model": "llama", "request_count": 3, "completed_count": 2, "failed_count": 1,
        "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "without_usage_count": 1,
        "without_usage_share": 0.3333,
    }  # fmt: skip
    assert found["is_exact"]


@pytest.mark.parametrize(
    ("group_by", "expected"),
    [
        ("key", [("a", 17), (None, 0), ("=cmd()", 4)]),
        ("model", [("llama", 15), ("qwen", 6)]),
    ],
)
def test_usage_is_added_up_as_it_is_grouped(site, group_by, expected):
    site.statistics.found_usage = USED
    name = {"key": "key_name"}.get(group_by, group_by)
    lines = site.get(f"/admin/stats/usage?group_by={group_by}").json["usage"]
    assert [(line[name], line["total_tokens"]) for line in lines] == expected


def test_usage_comes_as_a_file_for_spreadsheets(site):
    site.statistics.found_usage = USED
    reply = site.get("/admin/stats/usage.csv?group_by=key")
    assert reply.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert reply.headers["Content-Disposition"] == 'attachment; filename="usage.csv"'
    lines = reply.data.decode("utf-8-sig").splitlines()
    assert reply.data[:3] == b"\xef\xbb\xbf"
    assert lines[0].startswith("key_name,request_count,")
    assert lines[3].startswith("'=cmd(),1,")


def test_every_bad_parameter_of_usage_is_told_at_once(site):
    assert params(site.get("/admin/stats/usage?month=2025-13&group_by=key,colour&tz=x&colour=1")) == [
        "tz", "month", "group_by", "colour",
    ]  # fmt: skip
    assert params(site.get("/admin/stats/usage?month=2025-12&start_time=2025-12-01")) == ["month"]
