"""The shapes of the API's bodies, for its description: `/docs/openapi.json` is made of them.

What is answered is built in `schemas.py`; tests hold real answers against these shapes, both ways. Here is what all of
them share; those of each part are in `node_shapes.py`, `record_shapes.py`, `figure_shapes.py` and `status_shapes.py`.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from scheduler.core.priority import Priority


def one_of(*words: str) -> Any:
    """Marks a text that is one of some words."""
    return Field(json_schema_extra={"enum": list(words)})


Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Ms = Annotated[float, Field(description="Milliseconds.")]
PriorityName = Annotated[str, one_of(*(priority.label for priority in Priority))]


class Shape(BaseModel):
    """Base of the shapes: described, never built. One whose name begins with `_` is only a part of others."""

    model_config = ConfigDict(defer_build=True)


class Model(Shape):
    """A model in OpenAI's shape."""

    id: str
    object: Annotated[str, one_of("model")]
    created: int
    owned_by: str


class ModelList(Shape):
    """The models of all nodes that are not disabled."""

    object: Annotated[str, one_of("list")]
    data: list[Model]


class ErrorDetail(Shape):
    """One bad field or parameter."""

    param: str
    message: str


class ErrorFields(Shape):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None
    details: list[ErrorDetail] = Field([], description="Every bad field of an admin call.")


class Error(Shape):
    """An error, in OpenAI's shape."""

    error: ErrorFields
