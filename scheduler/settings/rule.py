"""Rules: what must hold between several keys. Each names the keys, their values and the remedy."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from scheduler.settings.api_key import AdminKey, ApiKey
from scheduler.settings.duration import format_duration, format_size
from scheduler.settings.problem import Path
from scheduler.settings.schema import Settings

Finding = tuple[Path, str]  # where the mistake stands, and what it is


@dataclass(frozen=True, slots=True)
class Rule:
    """A check over `keys`; it is left out where one of them is already wrong by itself."""

    keys: tuple[Path, ...]
    check: Callable[[Settings], Iterator[Finding]]


def _one_process_or_redis(settings: Settings) -> Iterator[Finding]:
    workers = settings.server.workers
    if workers > 1 and not settings.cluster.redis_url:
        yield (
            ("server", "workers"),
            f"{workers} workers need cluster.redis_url: without it each worker would count limits for itself and a "
            f"node would get up to {workers} times its max_concurrent; set cluster.redis_url, or workers: 1",
        )


def _queue_timeout_fits(settings: Settings) -> Iterator[Finding]:
    wait, most = settings.scheduler.queue_timeout, settings.scheduler.queue_timeout_max
    if wait > most:
        yield (
            ("scheduler", "queue_timeout"),
            f"{format_duration(wait)} is more than scheduler.queue_timeout_max ({format_duration(most)}); "
            "lower queue_timeout or raise queue_timeout_max",
        )


def _held_bytes_fit(settings: Settings) -> Iterator[Finding]:
    held, body = settings.server.max_held_bytes, settings.server.max_body
    if held < body:
        yield (
            ("server", "max_held_bytes"),
            f"{format_size(held)} is less than server.max_body ({format_size(body)}), so the largest body could never "
            "be held; raise max_held_bytes or lower max_body",
        )


def _database_is_named(settings: Settings) -> Iterator[Finding]:
    if not settings.database.path and not settings.database.url:
        yield ("database", "path"), "is empty and so is database.url; set one of them"


def _ca_file_exists(settings: Settings) -> Iterator[Finding]:
    name = settings.scheduler.node_ca_file
    if name and not os.path.isfile(name):
        yield ("scheduler", "node_ca_file"), f"there is no file {name!r}; give a PEM file with the CA certificates"


def _keys_differ(settings: Settings) -> Iterator[Finding]:
    lists: dict[str, Sequence[ApiKey | AdminKey]] = {
        "api_keys": settings.auth.api_keys,
        "admin_api_keys": settings.auth.admin_api_keys,
    }
    for section, keys in lists.items():
        by_key: dict[str, int] = {}
        by_name: dict[str, int] = {}
        for index, entry in enumerate(keys):
            path: Path = ("auth", section, index)
            # The key itself must not stand in the message.
            if by_key.setdefault(entry.key, index) != index:
                yield path, f"is the same key as auth.{section}[{by_key[entry.key]}]; remove one"
            if by_name.setdefault(entry.name, index) != index:
                yield path, f"has the name {entry.name!r} like auth.{section}[{by_name[entry.name]}]; give it its own"


def _nodes_differ(settings: Settings) -> Iterator[Finding]:
    ids = Counter(node.id for node in settings.nodes)
    addresses: dict[str, str] = {}
    for index, node in enumerate(settings.nodes):
        if ids[node.id] > 1:
            yield ("nodes", index, "id"), f"{node.id!r} is the id of {ids[node.id]} nodes; give each its own"
        other = addresses.setdefault(node.address, node.id)
        if other != node.id:
            yield ("nodes", index, "address"), f"{node.address} is the address of node {other!r} as well; remove one"


RULES = (
    Rule((("server", "workers"), ("cluster", "redis_url")), _one_process_or_redis),
    Rule((("scheduler", "queue_timeout"), ("scheduler", "queue_timeout_max")), _queue_timeout_fits),
    Rule((("server", "max_held_bytes"), ("server", "max_body")), _held_bytes_fit),
    Rule((("database", "path"), ("database", "url")), _database_is_named),
    Rule((("scheduler", "node_ca_file"),), _ca_file_exists),
    Rule((("auth", "api_keys"), ("auth", "admin_api_keys")), _keys_differ),
    Rule((("nodes",),), _nodes_differ),
)


def warnings_of(settings: Settings) -> Iterator[str]:
    """What is allowed and yet worth a line at start."""
    callers = {entry.key for entry in settings.auth.api_keys}
    for entry in settings.auth.admin_api_keys:
        if entry.key in callers:
            yield f"auth.admin_api_keys: the key {entry.name!r} is a caller's key too: its callers may administer"
