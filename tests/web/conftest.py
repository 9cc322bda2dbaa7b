"""An app with real dispatcher and roster, and fakes behind the other ports."""

from dataclasses import dataclass, field

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from scheduler.core.dispatcher import Dispatcher
from scheduler.gateway.caller import Caller, KeyRing
from scheduler.gateway.hub_lag import HubLag
from scheduler.gateway.live_calls import LiveCalls
from scheduler.gateway.node_trial import NodeTrial
from scheduler.gateway.roster import NodeRoster
from scheduler.web.blueprints import register_blueprints
from scheduler.web.context import Services
from tests.support.fakes import (
    FixedMetricsPage,
    MemoryEventLog,
    MemoryNodeStore,
    MemoryRequestLog,
    ScriptedCleanup,
    ScriptedExaminer,
    ScriptedStatistics,
)

GPU_1 = {"id": "gpu-1", "address": "http://10.0.0.1:8000", "models": ["qwen"], "max_concurrent": 4}


@dataclass
class Site:
    """The app of one test, and everything behind it. Change the attributes to change what the app sees."""

    admin_keys: tuple[bytes, ...] = ()
    client_keys: tuple[bytes, ...] = ()
    metrics_keys: tuple[bytes, ...] = ()
    warnings: list[str] = field(default_factory=list)
    is_ready: bool = True
    now: float = 1_000.0

    def __post_init__(self) -> None:
        self.dispatcher = Dispatcher(lambda: self.now)
        self.events = MemoryEventLog()
        self.request_log = MemoryRequestLog(self.events)
        self.statistics = ScriptedStatistics()
        self.cleanup = ScriptedCleanup()
        self.live_calls = LiveCalls()
        self.roster = NodeRoster(
            self.dispatcher,
            MemoryNodeStore(),
            self.events,
            clock=lambda: self.now,
            wall_clock=lambda: self.now + 1_700_000_000.0,
            on_registered=lambda node_id: None,
            on_removed=lambda node_id: None,
            on_left=lambda address: None,
        )
        self.examiner = ScriptedExaminer()
        self.metrics_page = FixedMetricsPage()
        keys = KeyRing([Caller("key", key=key) for key in self.client_keys])
        self.app = Flask("test", static_folder=None)
        self.app.extensions["scheduler"] = Services(
            dispatcher=self.dispatcher,
            roster=self.roster,
            node_trial=NodeTrial(self.roster, self.examiner, lambda: self.now),
            live_calls=self.live_calls,
            request_log=self.request_log,
            statistics=self.statistics,
            cleanup=self.cleanup,
            event_log=self.events,
            admin_keys=self.admin_keys,
            metrics_page=self.metrics_page,
            metrics_keys=self.metrics_keys,
            settings_view=lambda: {"server": {"port": {"value": 8080, "source": "default"}}},
            warnings=lambda: self.warnings,
            is_ready=lambda: self.is_ready,
            uptime_s=lambda: 12.345,
            hub_lag=HubLag(lambda: self.now, lambda error: None),
            version="0.1.0",
            boot_id="boot",
        )
        register_blueprints(self.app, lambda headers: keys.find(headers.get("Authorization"), headers.get("x-api-key")))
        self.client: FlaskClient = self.app.test_client()

    def get(self, path: str, **options) -> TestResponse:
        return self.client.get(path, **options)

    def send(self, method: str, path: str, body: object = None, **options) -> TestResponse:
        """A state-changing call with a JSON body."""
        return self.client.open(path, method=method, json=body, **options)


@pytest.fixture
def site() -> Site:
    return Site()
