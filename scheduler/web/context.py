"""Services: what the blueprints may call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask import current_app

from scheduler.core.dispatcher import Dispatcher
from scheduler.gateway.hub_lag import HubLag
from scheduler.gateway.live_calls import LiveCalls
from scheduler.gateway.node_trial import NodeTrial
from scheduler.gateway.ports import Cleanup, EventLog, MetricsPage, RequestLog, Statistics
from scheduler.gateway.roster import NodeRoster


@dataclass(frozen=True, slots=True)
class Services:
    """What the blueprints may call; built by bootstrap, found in the app's extensions."""

    dispatcher: Dispatcher
    roster: NodeRoster
    node_trial: NodeTrial
    live_calls: LiveCalls
    request_log: RequestLog
    statistics: Statistics
    cleanup: Cleanup
    event_log: EventLog
    admin_keys: tuple[bytes, ...]  # empty: the admin side is open
    metrics_page: MetricsPage
    metrics_keys: tuple[bytes, ...]  # empty: anybody may scrape
    settings_view: Callable[[], dict[str, Any]]  # effective settings with sources, secrets masked
    warnings: Callable[[], list[str]]  # what an operator must know: open admin side, lost records, ...
    is_ready: Callable[[], bool]  # may be sent traffic
    uptime_s: Callable[[], float]
    hub_lag: HubLag
    version: str
    boot_id: str


def services() -> Services:
    """The services of the current app."""
    found: Services = current_app.extensions["scheduler"]
    return found
