"""The shapes of `/admin/stats`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from scheduler.gateway.figures import DIMENSIONS
from scheduler.gateway.time_buckets import STEPS
from scheduler.web.shapes import Ms, Shape, Time, one_of

IsExact = Annotated[bool, Field(description="False where the range cuts what is only kept as a whole.")]


class _Durations(Shape):
    """Mean and percentiles of completed requests; `null` where there are none."""

    avg_latency_ms: Ms | None
    p50_latency_ms: Ms | None
    p95_latency_ms: Ms | None
    p99_latency_ms: Ms | None
    avg_ttfb_ms: Ms | None
    p50_ttfb_ms: Ms | None
    p95_ttfb_ms: Ms | None
    p99_ttfb_ms: Ms | None
    avg_queue_ms: Ms | None
    p50_queue_ms: Ms | None
    p95_queue_ms: Ms | None
    p99_queue_ms: Ms | None


class _Tokens(Shape):
    """Tokens as the engines tell them, and how many answers brought no count of them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    without_usage_count: int
    without_usage_share: float


class Stats(_Durations, _Tokens):
    """Counts, durations and tokens of all requests, those that are not finished counted too."""

    total_requests: int
    pending_requests: int
    processing_count: int
    completed_count: int
    failed_count: int
    is_exact: IsExact


class Figures(_Durations, _Tokens):
    """Counts, durations and tokens of finished requests."""

    request_count: int
    completed_count: int
    failed_count: int


class ModelFigures(Figures):
    """Figures of one model."""

    model: str | None


class ModelStats(Shape):
    """Figures by model, the most asked for first."""

    models: list[ModelFigures]
    is_exact: IsExact


class Series(Shape):
    """Figures of one group, bucket by bucket; `null` where nothing ended."""

    name: str | None
    points: list[Figures | None]


class Timeseries(Shape):
    """Figures by time, and by group where one is asked for."""

    start_time: Time
    end_time: Time
    step: Annotated[str, one_of(*STEPS)]
    tz: str
    group_by: Annotated[str, one_of(*DIMENSIONS)] | None
    buckets: list[Time] = Field(description="When each bucket begins.")
    series: list[Series]
    groups_left_out: int
    is_exact: IsExact


class UsageLine(_Tokens):
    """What one key, one model, or one key with one model has used."""

    key_name: str | None = None
    model: str | None = None
    request_count: int
    completed_count: int
    failed_count: int


class Usage(Shape):
    """Who has used how much."""

    start_time: Time | None
    end_time: Time | None
    group_by: list[str]
    usage: list[UsageLine]
    is_exact: IsExact
