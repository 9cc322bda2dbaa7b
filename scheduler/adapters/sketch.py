"""Sketch: a histogram of durations that can be merged, and that tells percentiles within a known error.

The buckets grow by a constant factor, as in DDSketch (Masson, Rim, Lee: "DDSketch", VLDB 2019), so that the relative
error is the same everywhere: a percentile is at most 4 % off for durations from 0.1 ms to 18 hours, and at most 0.05 ms
off below. The buckets are fixed, so sketches of minutes, models and nodes add up to that of the whole, exactly.

Figures over a month merge tens of thousands of sketches. Those with many buckets are therefore packed as one row of
counts of equal width, which Python adds up as one large number; those with few as pairs.
"""

import math
import struct

RELATIVE_ERROR = 0.04
LEAST_MS = 0.1  # all shorter durations share bucket 0
LAST_BUCKET = 255  # a bucket is one byte; longer durations than it holds are counted in it

_GROWTH = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_PER_LOG = 1 / math.log(_GROWTH)
_LOG_LEAST = math.log(LEAST_MS)
_WIDTHS = ((1, "B"), (2, "H"), (4, "I"), (8, "Q"))
_CODES = dict(_WIDTHS)

_ROW = 0  # the first byte of a packed row of counts, where others have the width of their counts
_ROW_FROM = 12  # as many buckets make a row
_LANE_BYTES = 4
_MOST_IN_ROW = 2**24  # so that 2**8 rows add up without touching each other's counts
_MOST_ROWS = 2**8

#: What stands for each bucket: the value that is off by the same share at both of its ends.
_MIDDLES_MS = (
    LEAST_MS / 2,
    *(LEAST_MS * _GROWTH**bucket * 2 / (_GROWTH + 1) for bucket in range(1, LAST_BUCKET + 1)),
)


def bucket_of(duration_ms: float) -> int:
    """The bucket of a duration."""
    if duration_ms <= LEAST_MS:
        return 0
    return min(math.ceil((math.log(duration_ms) - _LOG_LEAST) * _PER_LOG), LAST_BUCKET)


class Sketch:
    """How many durations are in each bucket."""

    __slots__ = ("_counts", "_row", "_rows")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._row = 0  # counts that came as rows, in one number
        self._rows = 0  # how many rows are in it

    @property
    def counts(self) -> dict[int, int]:
        """How many by bucket; empty buckets are missing."""
        if self._rows:
            self._settle()
        return self._counts

    def add(self, bucket: int) -> None:
        """Count one duration."""
        self._counts[bucket] = self._counts.get(bucket, 0) + 1

    def merge(self, other: "Sketch") -> None:
        """Add all that another has counted."""
        mine = self._counts
        for bucket, count in other.counts.items():
            mine[bucket] = mine.get(bucket, 0) + count

    def merge_packed(self, packed: bytes | None) -> None:
        """Add a packed sketch; None is the empty one."""
        if not packed:
            return
        width = packed[0]
        if width == _ROW:
            self._row += int.from_bytes(packed[2:], "little") << (8 * _LANE_BYTES * packed[1])
            self._rows += 1
            if self._rows == _MOST_ROWS - 1:
                self._settle()
            return
        mine = self._counts
        end = 1 + (len(packed) - 1) // (1 + width)
        counts = struct.unpack(f"<{end - 1}{_CODES[width]}", packed[end:])
        for bucket, count in zip(packed[1:end], counts, strict=True):
            mine[bucket] = mine.get(bucket, 0) + count

    def pack(self) -> bytes | None:
        """The sketch in few bytes; None for the empty one."""
        counts = self.counts
        if not counts:
            return None
        buckets, most = sorted(counts), max(counts.values())
        if len(buckets) >= _ROW_FROM and most < _MOST_IN_ROW:
            first, last = buckets[0], buckets[-1]
            row = [counts.get(bucket, 0) for bucket in range(first, last + 1)]
            return bytes((_ROW, first)) + struct.pack(f"<{len(row)}I", *row)
        width, code = next((width, code) for width, code in _WIDTHS if most < 256**width)
        return bytes((width, *buckets)) + struct.pack(f"<{len(buckets)}{code}", *(counts[each] for each in buckets))

    def percentiles(self, *shares: float) -> list[float]:
        """The durations (ms) that each share (0 to 1, rising) of all do not exceed, by nearest rank.

        Of an empty sketch there are none.
        """
        counts = self.counts
        ranks = [math.ceil(share * sum(counts.values())) for share in shares] if counts else []
        found: list[float] = []
        seen = 0
        for bucket in sorted(counts):
            seen += counts[bucket]
            while len(found) < len(ranks) and seen >= ranks[len(found)]:
                found.append(_MIDDLES_MS[bucket])
            if len(found) == len(ranks):
                break
        return found

    def __len__(self) -> int:
        return sum(self.counts.values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sketch) and self.counts == other.counts

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Sketch of {len(self)} durations in {len(self.counts)} buckets>"

    def _settle(self) -> None:
        lane_bits = 8 * _LANE_BYTES
        first = ((self._row & -self._row).bit_length() - 1) // lane_bits
        row = self._row >> (lane_bits * first)
        length = -(-row.bit_length() // lane_bits)
        self._row = self._rows = 0
        mine = self._counts
        lanes = struct.unpack(f"<{length}I", row.to_bytes(length * _LANE_BYTES, "little"))
        for bucket, count in enumerate(lanes, start=first):
            if count:
                mine[bucket] = mine.get(bucket, 0) + count
