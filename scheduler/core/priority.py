"""Priority: how urgent a request is."""

from enum import IntEnum


class Priority(IntEnum):
    """How urgent a request is. The smaller number goes first."""

    CRITICAL = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3

    @property
    def label(self) -> str:
        """The name used in headers, JSON, tables and the log: `critical`, `high`, `normal`, `low`."""
        return self.name.lower()

    @classmethod
    def parse(cls, text: str | None, default: "Priority") -> "Priority":
        """The priority that `text` names in any case; without a text it is `default`, an unknown one is NORMAL."""
        if not text or not text.strip():
            return default
        return cls.__members__.get(text.strip().upper(), cls.NORMAL)
