import math
import random

import pytest

from scheduler.adapters.sketch import LEAST_MS, RELATIVE_ERROR, add_counts, add_packed, bucket_of, pack, percentile


def sketch_of(durations):
    counts = {}
    for duration_ms in durations:
        add_counts(counts, {bucket_of(duration_ms): 1})
    return counts


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
@pytest.mark.parametrize(
    "draw",
    [
        lambda random: random.lognormvariate(6, 1.5),
        lambda random: random.uniform(0, 40),
        lambda random: 10 ** random.uniform(-1, 7.8),
        lambda random: random.choice([0.0, 250.0]),
    ],
)
def test_percentiles_are_within_the_bound_that_is_promised(draw, share):
    chance = random.Random(7)
    for count in (1, 2, 19, 1000):
        durations = sorted(draw(chance) for _ in range(count))
        exact = durations[math.ceil(share * count) - 1]
        assert percentile(sketch_of(durations), share) == pytest.approx(
            exact, rel=RELATIVE_ERROR * (1 + 1e-9), abs=LEAST_MS / 2
        )


def test_sketches_of_parts_add_up_to_that_of_the_whole():
    durations = [random.Random(3).expovariate(0.01) for _ in range(500)]
    merged = {}
    for part in (durations[:100], durations[100:]):
        add_packed(merged, pack(sketch_of(part)))
    assert merged == sketch_of(durations)


@pytest.mark.parametrize("most", [1, 255, 256, 65_535, 65_536, 2**32, 2**63])
def test_a_packed_sketch_comes_back_whole(most):
    counts = {0: 1, 17: most, 255: 3}
    unpacked = {}
    add_packed(unpacked, pack(counts))
    assert unpacked == counts


def test_a_sketch_of_nothing_takes_no_place_and_has_no_percentiles():
    assert pack({}) is None
    counts = {}
    add_packed(counts, None)
    assert percentile(counts, 0.5) is None


def test_durations_out_of_range_are_counted_at_its_ends():
    assert bucket_of(0.0) == bucket_of(LEAST_MS) == 0
    assert bucket_of(1e30) == bucket_of(1e9) == 255


def test_a_sketch_of_an_hour_is_small():
    chance = random.Random(1)
    assert len(pack(sketch_of(chance.lognormvariate(7, 1) for _ in range(10_000))) or b"") < 300
