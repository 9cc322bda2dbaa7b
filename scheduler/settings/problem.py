"""A problem: one mistake in the settings, told in one line that names place, key, value and remedy."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from scheduler.settings.duration import format_duration, format_size

Path = tuple[str | int, ...]  # ("auth", "api_keys", 0, "name") is auth.api_keys[0].name


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands: `config.yaml:12` or a variable. `text` is what stood there if YAML read it as no text."""

    source: str
    line: int = 0  # 0: not in the file
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake. `place` is None where the mistake is in no single place (a default that does not fit)."""

    path: Path
    message: str
    place: Place | None = None

    @property
    def order(self) -> tuple[int, int, str]:
        """The file first, line by line, then the variables by name."""
        if self.place is None:
            return (2, 0, dotted(self.path))
        return (0, self.place.line, "") if self.place.line else (1, 0, self.place.source)

    def __str__(self) -> str:
        parts = [self.place.source] if self.place else []
        if self.path:
            parts.append(dotted(self.path))
        # One problem, one line, whatever the file holds.
        return "".join(char if char.isprintable() else "?" for char in ": ".join([*parts, self.message]))


def dotted(path: Path) -> str:
    """`("nodes", 0, "id")` as `nodes[0].id`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if len(part) <= 80 else part[:77] + "...")
    return text


def is_covered(path: Path, others: Iterable[Path]) -> bool:
    """True where one of `others` is `path` itself or lies inside it."""
    return any(other[: len(path)] == path for other in others)


def describe(error: Mapping[str, Any], yaml_text: str | None, is_secret: bool, unit: str) -> str:
    """What pydantic found, in our words: the value (never a secret), what is wrong with it, the remedy.

    `error` is one of `ValidationError.errors()`; `unit` is the field's unit: `duration`, `size` or ``.
    """
    kind, value, ctx = error["type"], error["input"], error.get("ctx", {})
    shown = "the value" if is_secret else yaml_text or shown_value(value)
    if value is None:
        return "has no value; give one, or remove the line"
    if kind == "value_error":
        return str(ctx["error"])
    if kind == "string_type":
        if yaml_text is None:
            return f"must be text, not {_kind_of(value)}"
        what = "" if is_secret else f" {yaml_text}"
        remedy = "put it in quotes" if is_secret else f'put it in quotes: "{yaml_text}"'
        return f"must be text, but YAML reads{what or ' the value'} as {_kind_of(value)}; {remedy}"
    if kind in _WORDS:
        return f"{shown} {_WORDS[kind]}"
    for name, word in (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than")):
        if name in ctx:
            limit = {"duration": format_duration, "size": format_size}.get(unit, str)(ctx[name])
            return f"{shown} is too {'small' if name in ('ge', 'gt') else 'large'}; give {word} {limit}"
    if kind == "literal_error":
        return f"{shown} is not possible; use {ctx['expected']}".replace("'", "")
    return str(error["msg"])


_WORDS = {
    "int_type": "is no whole number; write plain digits without quotes",
    "bool_type": "is neither true nor false",
    "tuple_type": "is no list; write it as [a, b]",
    "model_type": "is no mapping of keys to values",
    "model_attributes_type": "is no mapping of keys to values",
}


def shown_value(value: Any) -> str:
    """A value in a message: short, on one line, booleans as YAML writes them."""
    if isinstance(value, list | tuple | Mapping) or value is None:
        return _kind_of(value)
    text = str(value).lower() if isinstance(value, bool) else str(value) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _kind_of(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, Mapping):
        return "a mapping"
    return "nothing" if value is None else "a list"
