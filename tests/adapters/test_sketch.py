import math
import random
import struct

import pytest

from scheduler.adapters.sketch import LEAST_MS, RELATIVE_ERROR, Sketch, bucket_of


def sketch_of(durations):
    sketch = Sketch()
    for duration_ms in durations:
        sketch.add(bucket_of(duration_ms))
    return sketch


def packed(counts):
    return bytes((8, *counts)) + struct.pack(f"<{len(counts)}Q", *counts.values())


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
        assert sketch_of(durations).percentiles(share)[0] == pytest.approx(
            exact, rel=RELATIVE_ERROR * (1 + 1e-9), abs=LEAST_MS / 2
        )


def test_several_percentiles_are_told_at_once():
    sketch = sketch_of([1.0] * 50 + [100.0] * 45 + [10_000.0] * 5)
    assert sketch.percentiles(0.5, 0.95, 0.99) == [sketch.percentiles(share)[0] for share in (0.5, 0.95, 0.99)]


def test_sketches_of_parts_add_up_to_that_of_the_whole():
    durations = [random.Random(3).expovariate(0.01) for _ in range(500)]
    merged, unpacked = Sketch(), Sketch()
    for part in (durations[:5], durations[5:100], durations[100:]):
        unpacked.merge(sketch_of(part))
        merged.merge_packed(sketch_of(part).pack())
    assert merged == unpacked == sketch_of(durations)


def test_any_number_of_full_sketches_add_up_without_a_carry():
    most = 2**24 - 1
    full = Sketch()
    full.merge_packed(packed(dict.fromkeys(range(256), most)))
    merged = Sketch()
    for _ in range(1000):
        merged.merge_packed(full.pack())
    assert merged.counts == dict.fromkeys(range(256), 1000 * most)


@pytest.mark.parametrize("most", [1, 255, 256, 65_535, 65_536, 2**32, 2**63])
def test_a_packed_sketch_comes_back_whole(most):
    for others in ({}, dict.fromkeys(range(100, 120), 7)):
        sketch, again = Sketch(), Sketch()
        sketch.merge_packed(packed({0: 1, 17: most, 255: 3, **others}))
        again.merge_packed(sketch.pack())
        assert again == sketch
        assert again.counts == {0: 1, 17: most, 255: 3, **others}


def test_a_sketch_of_nothing_takes_no_place_and_has_no_percentiles():
    sketch = Sketch()
    assert sketch.pack() is None
    sketch.merge_packed(None)
    assert (sketch.percentiles(0.5), len(sketch)) == ([], 0)


def test_durations_out_of_range_are_counted_at_its_ends():
    assert bucket_of(0.0) == bucket_of(LEAST_MS) == 0
    assert bucket_of(1e30) == bucket_of(1e9) == 255


def test_a_sketch_of_an_hour_is_small():
    chance = random.Random(1)
    assert len(sketch_of(chance.lognormvariate(7, 1) for _ in range(10_000)).pack() or b"") < 500
    assert len(sketch_of(chance.lognormvariate(7, 1) for _ in range(5)).pack() or b"") <= 11
