"""API keys: who may call, under which name, how urgently; and who may administer."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from scheduler.core.priority import Priority

MAX_KEY_LENGTH = 512
MAX_NAME_LENGTH = 64


def usable_key(key: str) -> str:
    """The key, if it can travel in a header. Raises ValueError without the key in it."""
    if not re.fullmatch(r"[\x21-\x7e]+", key) or len(key) > MAX_KEY_LENGTH:
        raise ValueError(f"a key must be 1 to {MAX_KEY_LENGTH} printable ASCII characters without spaces")
    return key


def _usable_name(name: str) -> str:
    if not name or name != name.strip() or not name.isprintable() or len(name) > MAX_NAME_LENGTH:
        raise ValueError(
            f"{name[:MAX_NAME_LENGTH]!r} is no usable name; use 1 to {MAX_NAME_LENGTH} printable characters"
        )
    return name


def _priority(value: Any) -> Priority:
    if isinstance(value, Priority):
        return value
    member = Priority.__members__.get(value.strip().upper()) if isinstance(value, str) else None
    if member is None:
        raise ValueError(f"{str(value)[:60]!r} is no priority; use low, normal, high or critical")
    return member


def entries(prefix: str) -> Any:
    """A validator that turns plain texts of a list into named keys: the third becomes `<prefix>-3`.

    The name comes from the place in the list, so a key keeps it while the keys before it stay.
    """

    def named(value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        return tuple(
            {"name": f"{prefix}-{number}", "key": entry} if isinstance(entry, str) else entry
            for number, entry in enumerate(value, 1)
        )

    return BeforeValidator(named)


KeyName = Annotated[str, AfterValidator(_usable_name)]
KeyText = Annotated[str, AfterValidator(usable_key)]
KeyPriority = Annotated[Priority, BeforeValidator(_priority)]


class AdminKey(BaseModel):
    """A key of the admin side."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: KeyName
    key: KeyText = Field(repr=False)


class ApiKey(BaseModel):
    """A caller's key: the priority of its requests that name none, and the most urgent one they may have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: KeyName
    key: KeyText = Field(repr=False)
    priority: KeyPriority = Priority.NORMAL
    max_priority: KeyPriority = Priority.CRITICAL

    @model_validator(mode="before")
    @classmethod
    def _lower_the_default(cls, data: Any) -> Any:
        # Where only max_priority is given and is below normal, normal would be a mistake nobody made.
        if isinstance(data, Mapping) and "priority" not in data and "max_priority" in data:
            try:
                return {**data, "priority": max(Priority.NORMAL, _priority(data["max_priority"]))}
            except ValueError:
                return data
        return data

    @model_validator(mode="after")
    def _fits_its_ceiling(self) -> "ApiKey":
        if self.priority < self.max_priority:
            raise ValueError(
                f"priority {self.priority.label} is above max_priority {self.max_priority.label}; "
                "lower the one or raise the other"
            )
        return self
