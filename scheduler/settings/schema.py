"""The settings: every key with its default, its unit and its range. Durations are seconds, sizes are bytes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict, model_validator

from scheduler.gateway.node_fields import DEFAULT_WEIGHT, check_node_fields
from scheduler.settings.api_key import AdminKey, ApiKey, entries, usable_key
from scheduler.settings.duration import parse_duration, parse_size


@dataclass(frozen=True, slots=True)
class Unit:
    """Marks a field whose text carries a unit: `duration` or `size`."""

    name: str


YEAR = 366 * 86400.0

Seconds = Annotated[float, Unit("duration"), BeforeValidator(parse_duration), Field(ge=0, le=YEAR)]
SomeSeconds = Annotated[float, Unit("duration"), BeforeValidator(parse_duration), Field(gt=0, le=YEAR)]
SomeBytes = Annotated[int, Unit("size"), BeforeValidator(parse_size), Field(ge=1)]
Whole = Annotated[int, Strict(), Field(ge=0, le=10**12)]
Positive = Annotated[int, Strict(), Field(ge=1, le=10**12)]
Flag = Annotated[bool, Strict()]


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("has control characters; remove them")
    return text


def _host(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9._-]+:[0-9]+", text):
        raise ValueError(f"{text!r} has a port; write the host alone and the port as server.port")
    if not re.fullmatch(r"[A-Za-z0-9._:-]{1,255}", text):
        raise ValueError(f"{text[:60]!r} is no address; use 0.0.0.0, 127.0.0.1, :: or a host name")
    return text


def _health_path(text: str) -> str:
    if not re.fullmatch(r"/[\x21-\x7e]*", text) or "#" in text:
        raise ValueError(f"{text[:60]!r} is no path; write it like /health")
    return text


def _database_url(url: str) -> str:
    # The URL holds a password: no part of it may stand in a message.
    if url and not re.match(r"(postgresql(\+psycopg)?|sqlite)://.", url):
        raise ValueError("must begin with postgresql:// or sqlite:/// (or be empty: SQLite at database.path)")
    return _one_line(url)


def _redis_url(url: str) -> str:
    if url and not re.match(r"(redis|rediss|unix)://.", url):
        raise ValueError("must begin with redis://, rediss:// or unix://")
    return _one_line(url)


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


Text = Annotated[str, AfterValidator(_one_line)]
Level = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)]
Format = Annotated[Literal["json", "console"], BeforeValidator(_lower)]


class Section(BaseModel):
    """Base of the sections: frozen, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ServerSettings(Section):
    """The listening side. `port` 0 takes any free port; `trusted_proxies` is the number of proxies in front."""

    host: Annotated[str, AfterValidator(_host)] = "0.0.0.0"
    port: Annotated[int, Strict(), Field(ge=0, le=65535)] = 8080
    read_timeout: SomeSeconds = 30.0
    write_timeout: SomeSeconds = 60.0
    max_body: SomeBytes = 100 * 1000**2
    max_held_bytes: SomeBytes = 2 * 1000**3
    workers: Annotated[int, Strict(), Field(ge=1, le=256)] = 1
    max_connections: Positive = 20000
    shutdown_timeout: SomeSeconds = 30.0
    trusted_proxies: Annotated[int, Strict(), Field(ge=0, le=100)] = 0
    pid_file: Text = "./data/scheduler.pid"


class DatabaseSettings(Section):
    """Where records are kept, and for how long. An empty `url` means SQLite at `path`."""

    path: Text = "./data/scheduler.db"
    url: Annotated[str, AfterValidator(_database_url)] = Field(default="", repr=False)
    cleanup_enabled: Flag = True
    retention_days: Annotated[int, Strict(), Field(ge=1, le=36500)] = 7
    max_rows: Whole = 0
    rollup_days: Annotated[int, Strict(), Field(ge=1, le=36500)] = 400
    cleanup_interval: SomeSeconds = 3600.0
    spool_path: Text = ""


class SchedulerSettings(Section):
    """The queue, the clocks of a request, the retries, and the health of nodes. 0 for `aging`, `sse_keepalive`: off."""

    max_queue_size: Annotated[int, Strict(), Field(ge=1, le=1_000_000)] = 10000
    max_queue_per_model: Whole = 0
    queue_timeout: SomeSeconds = 120.0
    queue_timeout_max: SomeSeconds = 3600.0
    unavailable_wait: Seconds = 30.0
    aging: Seconds = 0.0
    worker_count: Annotated[int, Strict(), Field(ge=1, le=1000)] = 10
    sse_keepalive: Seconds = 0.0
    request_timeout: SomeSeconds = 300.0
    connect_timeout: SomeSeconds = 5.0
    idle_timeout: SomeSeconds = 300.0
    stream_timeout: SomeSeconds = 3600.0
    max_attempts: Annotated[int, Strict(), Field(ge=1, le=100)] = 3
    retry_sent: Flag = True
    health_check_interval: SomeSeconds = 30.0
    health_check_timeout: SomeSeconds = 5.0
    health_check_path: Annotated[str, AfterValidator(_health_path)] = "/health"
    health_check_rise: Annotated[int, Strict(), Field(ge=1, le=1000)] = 2
    health_check_fall: Annotated[int, Strict(), Field(ge=1, le=1000)] = 3
    eject_after: Annotated[int, Strict(), Field(ge=1, le=1000)] = 3
    slow_start: Seconds = 15.0
    node_ca_file: Text = ""


class LoggingSettings(Section):
    """How much is logged, and in which form."""

    level: Level = "info"
    format: Format = "json"


class AuthSettings(Section):
    """Who may call and who may administer. An empty list: anybody; an empty `metrics_key`: /metrics is open."""

    api_keys: Annotated[tuple[ApiKey, ...], entries("key")] = ()
    admin_api_keys: Annotated[tuple[AdminKey, ...], entries("admin")] = ()
    metrics_key: Annotated[str, AfterValidator(lambda key: usable_key(key) if key else "")] = Field(
        default="", repr=False
    )


class ClusterSettings(Section):
    """The state that several workers and hosts share. An empty `redis_url`: this process alone."""

    redis_url: Annotated[str, AfterValidator(_redis_url)] = Field(default="", repr=False)


class NodeSettings(Section):
    """A node of the file, registered at start if it is not yet known. The rules are those of the admin API."""

    id: str
    address: str
    models: tuple[str, ...]
    max_concurrent: int
    weight: int = DEFAULT_WEIGHT
    api_key: str | None = Field(default=None, repr=False)
    labels: dict[str, str] = {}
    remark: str = ""

    @model_validator(mode="before")
    @classmethod
    def _as_the_admin_api(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        values, faults = check_node_fields(data, partial=False)
        if faults:
            raise ValueError("; ".join(f"{param}: {message}" for param, message in faults))
        return values


class Settings(Section):
    """All settings, checked. `load_settings` reads them with the rules between keys; `Settings()` is the defaults."""

    server: ServerSettings = ServerSettings()
    database: DatabaseSettings = DatabaseSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    logging: LoggingSettings = LoggingSettings()
    auth: AuthSettings = AuthSettings()
    cluster: ClusterSettings = ClusterSettings()
    nodes: tuple[NodeSettings, ...] = ()


SECTIONS: dict[str, type[Section]] = {
    "server": ServerSettings,
    "database": DatabaseSettings,
    "scheduler": SchedulerSettings,
    "logging": LoggingSettings,
    "auth": AuthSettings,
    "cluster": ClusterSettings,
}

SECRET_KEYS = frozenset(
    {"auth.api_keys", "auth.admin_api_keys", "auth.metrics_key", "database.url", "cluster.redis_url"}
)


def unit_of(section: str, key: str) -> str:
    """`duration`, `size` or `` for a key of a section."""
    field = SECTIONS[section].model_fields.get(key)
    return next((mark.name for mark in field.metadata if isinstance(mark, Unit)), "") if field else ""
