"""What a view takes and answers, said beside it: `/docs/openapi.json` is made of that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from scheduler.web.shapes import Shape

View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Param:
    """A query parameter: its name, what it must be (as JSON schema), and what it does."""

    name: str
    schema: Mapping[str, Any]
    text: str = ""


@dataclass(frozen=True, slots=True)
class Description:
    """What a view does. An answer is a shape, a content type for what is no JSON, or None for no body."""

    summary: str
    answers: Mapping[int, type[Shape] | str | None]
    body: type[Shape] | None = None
    query: Sequence[Param] = field(default=())


def describes(
    summary: str,
    answers: Mapping[int, type[Shape] | str | None],
    *,
    body: type[Shape] | None = None,
    query: Sequence[Param] = (),
) -> Callable[[View], View]:
    """Say what a view does; the view itself is left as it is."""

    def mark(view: View) -> View:
        view.description = Description(summary, answers, body, query)  # type: ignore[attr-defined]
        return view

    return mark


def description_of(view: Callable[..., Any]) -> Description | None:
    """What was said of a view, or None."""
    found: Description | None = getattr(view, "description", None)
    return found


def text(name: str, about: str = "") -> Param:
    return Param(name, {"type": "string"}, about)


def flag(name: str, about: str = "") -> Param:
    return Param(name, {"type": "boolean"}, about)


def choice(name: str, words: Sequence[str], about: str = "") -> Param:
    return Param(name, {"type": "string", "enum": list(words)}, about)


def whole(name: str, *, default: int, least: int, most: int, about: str = "") -> Param:
    return Param(name, {"type": "integer", "default": default, "minimum": least, "maximum": most}, about)


def time(name: str, about: str = "") -> Param:
    return Param(name, {"type": "string", "format": "date-time"}, about)


def number(name: str, about: str = "") -> Param:
    return Param(name, {"type": "number", "minimum": 0}, about)
