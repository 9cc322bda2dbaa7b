"""The settings on show: every key with its value as YAML would have it, its source, and no secret."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scheduler.settings.api_key import ApiKey
from scheduler.settings.duration import format_duration, format_size
from scheduler.settings.load import Loaded
from scheduler.settings.schema import SECTIONS, NodeSettings, Settings, unit_of

MASK = "***"


@dataclass(frozen=True, slots=True)
class Row:
    """One key: `value` can go into JSON (durations and sizes as text), `text` is the same for a person."""

    key: str
    value: Any
    source: str

    @property
    def text(self) -> str:
        """The value as it would be written in the file, in one line; of keys and nodes only the names."""
        if isinstance(self.value, str):
            return self.value or '""'
        if isinstance(self.value, list):
            return f"[{', '.join(entry['name'] + ' ' + MASK for entry in self.value)}]"
        if isinstance(self.value, Mapping):
            return f"{self.value['id']} {self.value['address']}"
        return json.dumps(self.value)


def rows(loaded: Loaded) -> list[Row]:
    """Every key in the order of the schema, then one row a node."""
    settings, sources = loaded.settings, loaded.sources
    found = [
        Row(f"{section}.{key}", _value(settings, section, key), sources.get(f"{section}.{key}", "default"))
        for section, model in SECTIONS.items()
        for key in model.model_fields
    ]
    if not settings.nodes:
        found.append(Row("nodes", [], sources.get("nodes", "default")))
    for index, node in enumerate(settings.nodes):
        key = f"nodes[{index}]"
        found.append(Row(key, _node(node), sources.get(key, "default")))
    return found


def as_dict(loaded: Loaded) -> dict[str, Any]:
    """The same for JSON: `{"file", "settings": [{"key", "value", "source"}], "warnings"}`."""
    return {
        "file": str(loaded.path) if loaded.path else None,
        "settings": [{"key": row.key, "value": row.value, "source": row.source} for row in rows(loaded)],
        "warnings": list(loaded.warnings),
    }


def masked_url(url: str) -> str:
    """A URL without its password, in the user part and in the query; a text that is no URL is masked as a whole."""
    if not url:
        return ""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return MASK
    place, question, query = rest.partition("?")
    # The last @: a password may hold one that nobody encoded.
    user_part, at, host = place.rpartition("@")
    user, colon, _ = user_part.partition(":")
    query = re.sub(r"(?i)([^&=]*(?:pass|secret|token|key)[^&=]*)=[^&]*", rf"\1={MASK}", query)
    return f"{scheme}://{user}{colon}{MASK if colon else ''}{at}{host}{question}{query}"


def _value(settings: Settings, section: str, key: str) -> Any:
    value = getattr(getattr(settings, section), key)
    unit = unit_of(section, key)
    if unit:
        return format_duration(value) if unit == "duration" else format_size(value)
    if key in ("api_keys", "admin_api_keys"):
        return [_key(entry) for entry in value]
    if key in ("url", "redis_url"):
        return masked_url(value)
    if key == "metrics_key":
        return MASK if value else ""
    return value


def _key(entry: Any) -> Mapping[str, str]:
    shown = {"name": entry.name, "key": MASK}
    if isinstance(entry, ApiKey):
        shown |= {"priority": entry.priority.label, "max_priority": entry.max_priority.label}
    return shown


def _node(node: NodeSettings) -> Mapping[str, Any]:
    return {**node.model_dump(mode="json"), "api_key": MASK if node.api_key else None}
