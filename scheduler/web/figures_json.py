"""Figures as JSON: counts, tokens, and percentiles beside every average."""

from typing import Any

from scheduler.gateway.figures import Figures, Totals, Usage
from scheduler.web.schemas import Json

_DURATIONS = (("queue_ms", "queue"), ("ttfb_ms", "ttfb"), ("latency_ms", "latency"))


def figures_json(figures: Figures) -> Json:
    """Counts, tokens and durations of finished requests."""
    shown: Json = {
        "request_count": figures.requests,
        "completed_count": figures.completed,
        "failed_count": figures.requests - figures.completed,
    }
    shown |= durations_json(figures)
    return shown | tokens_json(figures)


def totals_json(totals: Totals) -> Json:
    """The figures of `GET /admin/stats`."""
    figures = totals.figures
    return {
        "total_requests": figures.requests + totals.pending + totals.processing,
        "pending_requests": totals.pending,
        "processing_count": totals.processing,
        "completed_count": figures.completed,
        "failed_count": figures.requests - figures.completed,
        **durations_json(figures),
        **tokens_json(figures),
        "is_exact": totals.is_exact,
    }


def durations_json(figures: Figures) -> Json:
    """Mean and percentiles of latency, queue wait and first byte."""
    shown: Json = {}
    for name, attribute in reversed(_DURATIONS):
        durations = getattr(figures, attribute)
        shown[f"avg_{name}"] = _ms(durations.mean_ms)
        for percentile in ("p50", "p95", "p99"):
            shown[f"{percentile}_{name}"] = _ms(getattr(durations, f"{percentile}_ms"))
    return shown


def tokens_json(figures: Figures | Usage) -> Json:
    """Tokens, and how many answers brought no count of them."""
    return {
        "prompt_tokens": figures.prompt_tokens,
        "completion_tokens": figures.completion_tokens,
        "total_tokens": figures.prompt_tokens + figures.completion_tokens,
        "without_usage_count": figures.without_usage,
        "without_usage_share": round(figures.without_usage / figures.requests, 4) if figures.requests else 0.0,
    }


def usage_json(usage: Usage, group_by: tuple[str, ...]) -> Json:
    """A line of the usage: the names it is grouped by, counts and tokens."""
    names: dict[str, Any] = {"key": usage.key_name, "model": usage.model}
    return {
        **{{"key": "key_name"}.get(name, name): names[name] for name in group_by},
        "request_count": usage.requests,
        "completed_count": usage.completed,
        "failed_count": usage.requests - usage.completed,
        **tokens_json(usage),
    }


def _ms(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
