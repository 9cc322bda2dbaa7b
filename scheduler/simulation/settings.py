"""SimulationSettings: how a simulated node behaves where a request does not say otherwise."""

import re
from dataclasses import dataclass

ENGINES = ("vllm", "sglang", "llama.cpp", "plain")

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


def parse_duration(text: str) -> float:
    """Seconds in `50ms`, `1s`, `2m`; a bare number is seconds. Raises ValueError."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"'{text}' is no duration; write for example 50ms, 1s or 2m")
    return float(match[1]) * _SECONDS[match[2]]


@dataclass(frozen=True, slots=True)
class SimulationSettings:
    """What `simulate-node` was started with."""

    host: str = "127.0.0.1"
    port: int = 0  # 0: any free one
    control_port: int | None = None  # a second listener for /sim/*, for faults that close the first; 0: any free one
    models: tuple[str, ...] = ("sim",)
    slots: int = 4  # what it says it can bear; more is counted as over-admission, never refused
    ttft_s: float = 0.05
    tokens_per_second: float = 50.0  # 0: no pauses
    tokens: int = 20
    api_key: str | None = None
    engine: str = "vllm"

    @property
    def gap_s(self) -> float:
        """Pause between two tokens."""
        return 1.0 / self.tokens_per_second if self.tokens_per_second > 0 else 0.0
