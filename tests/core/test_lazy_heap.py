import random

import pytest

from scheduler.core.lazy_heap import MIN_DEAD, LazyHeap


def test_the_smallest_key_comes_first() -> None:
    heap: LazyHeap[str] = LazyHeap()
    for key, item in ((3, "c"), (1, "a"), (2, "b")):
        heap.push(key, item)
    assert (heap.first(), heap.first_key()) == ("a", 1)
    assert [heap.pop() for _ in range(3)] == ["a", "b", "c"]


def test_equal_keys_keep_their_order_and_items_are_never_compared() -> None:
    heap: LazyHeap[dict[str, int]] = LazyHeap()
    items = [{"n": i} for i in range(20)]
    for item in items:
        heap.push(0, item)
    assert [heap.pop() for _ in items] == items


def test_a_discarded_item_is_skipped_and_not_counted() -> None:
    heap: LazyHeap[str] = LazyHeap()
    first = heap.push(1, "a")
    heap.push(2, "b")
    heap.discard(first)
    assert len(heap) == 1
    assert list(heap) == ["b"]
    assert heap.first() == "b"


def test_discarding_twice_or_after_the_pop_does_nothing() -> None:
    heap: LazyHeap[str] = LazyHeap()
    first, second = heap.push(1, "a"), heap.push(2, "b")
    heap.push(3, "c")
    heap.discard(second)
    heap.discard(second)
    assert heap.pop() == "a"
    heap.discard(first)
    assert len(heap) == 1
    assert heap.pop() == "c"


def test_an_empty_heap_has_no_first_and_refuses_to_pop() -> None:
    heap: LazyHeap[str] = LazyHeap()
    heap.discard(heap.push(1, "a"))
    assert (len(heap), heap.first(), heap.first_key()) == (0, None, None)
    with pytest.raises(IndexError):
        heap.pop()


def test_the_heap_is_compacted_when_half_of_it_is_dead() -> None:
    heap: LazyHeap[int] = LazyHeap()
    entries = [heap.push(i, i) for i in range(4 * MIN_DEAD)]
    for entry in entries[1::2] + entries[2::4]:
        heap.discard(entry)
    assert heap._queue.qsize() < 2 * len(heap) + MIN_DEAD
    assert list(heap) == list(range(0, 4 * MIN_DEAD, 4))


def test_it_agrees_with_a_sorted_list_whatever_is_done() -> None:
    dice = random.Random(7)
    heap: LazyHeap[int] = LazyHeap()
    model: dict[int, tuple[int, object]] = {}
    for serial in range(5_000):
        what = dice.random()
        if what < 0.5 or not model:
            key = dice.randrange(50)
            model[serial] = (key, heap.push(key, serial))
        elif what < 0.9:
            _, entry = model.pop(dice.choice(list(model)))
            heap.discard(entry)  # type: ignore[arg-type]
        else:
            expected = min(model, key=lambda item: (model[item][0], item))
            assert heap.pop() == expected
            del model[expected]
        assert len(heap) == len(model)
    assert list(heap) == sorted(model, key=lambda item: (model[item][0], item))
