"""Sketch: a histogram of durations that can be merged, and that tells percentiles within a known error.

The buckets grow by a constant factor, as in DDSketch (Masson, Rim, Lee: "DDSketch", VLDB 2019), so that the relative
error is the same everywhere: a percentile is at most 4 % off for durations from 0.1 ms to 18 hours, and at most 0.05 ms
off below. The buckets are fixed, so sketches of minutes, models and nodes add up to that of the whole, exactly.
"""

import math
import struct
from collections.abc import Mapping

RELATIVE_ERROR = 0.04
LEAST_MS = 0.1  # all shorter durations share bucket 0
LAST_BUCKET = 255  # a bucket is one byte; longer durations than it holds are counted in it

_GROWTH = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_PER_LOG = 1 / math.log(_GROWTH)
_LOG_LEAST = math.log(LEAST_MS)
_WIDTHS = ((1, "B"), (2, "H"), (4, "I"), (8, "Q"))
_CODES = dict(_WIDTHS)

#: What stands for each bucket: the value that is off by the same share at both of its ends.
_MIDDLES_MS = (
    LEAST_MS / 2,
    *(LEAST_MS * _GROWTH**bucket * 2 / (_GROWTH + 1) for bucket in range(1, LAST_BUCKET + 1)),
)

Counts = dict[int, int]  # bucket: how many


def bucket_of(duration_ms: float) -> int:
    """The bucket of a duration."""
    if duration_ms <= LEAST_MS:
        return 0
    return min(math.ceil((math.log(duration_ms) - _LOG_LEAST) * _PER_LOG), LAST_BUCKET)


def add_counts(into: Counts, more: Mapping[int, int]) -> None:
    """Merge a sketch into another."""
    for bucket, count in more.items():
        into[bucket] = into.get(bucket, 0) + count


def add_packed(into: Counts, packed: bytes | None) -> None:
    """Merge a packed sketch into one; None is the empty one."""
    if packed:
        width = packed[0]
        end = 1 + (len(packed) - 1) // (1 + width)
        buckets = packed[1:end]
        for bucket, count in zip(buckets, struct.unpack(f"<{len(buckets)}{_CODES[width]}", packed[end:]), strict=True):
            into[bucket] = into.get(bucket, 0) + count


def pack(counts: Mapping[int, int]) -> bytes | None:
    """The sketch in few bytes: the width of a count, the buckets that are not empty, their counts."""
    if not counts:
        return None
    most = max(counts.values())
    width, code = next((width, code) for width, code in _WIDTHS if most < 256**width)
    buckets = sorted(counts)
    return bytes((width, *buckets)) + struct.pack(f"<{len(buckets)}{code}", *(counts[bucket] for bucket in buckets))


def percentile(counts: Mapping[int, int], share: float) -> float | None:
    """The duration (ms) that `share` (0 to 1) of all do not exceed, by nearest rank; None for the empty sketch."""
    rank = math.ceil(share * sum(counts.values()))
    seen = 0
    for bucket in sorted(counts):
        seen += counts[bucket]
        if seen >= rank:
            return _MIDDLES_MS[bucket]
    return None
