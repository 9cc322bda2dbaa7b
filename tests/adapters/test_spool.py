import errno
import os

import pytest

from scheduler.adapters.spool import CHUNK_BYTES, RESERVED_BYTES, Spool, dead_spools

COLUMNS = ("id", "model", "latency_ms")


@pytest.fixture
def spool(tmp_path):
    spool = Spool(tmp_path / "spool" / "boot-1.jsonl", COLUMNS)
    yield spool
    spool.close()


def rows(first, last):
    return [(f"r-{number}", "llama", number / 2) for number in range(first, last + 1)]


def read_all(spool, columns=COLUMNS):
    found, offset = [], 0
    while True:
        some, offset = spool.read(offset, columns)
        if not some:
            return found, offset
        found += some


def die(spool):
    """As the kernel does it: the lock is gone, the file stays."""
    os.close(spool._descriptor)
    spool._descriptor = None


def test_rows_come_back_as_they_were_in_the_order_in_which_they_went(spool):
    spool.append([*rows(1, 3), ("\0\ud800é", None, 1e-9)])
    spool.append(rows(4, 5))
    assert read_all(spool)[0] == [*rows(1, 3), ("\0\ud800é", None, 1e-9), *rows(4, 5)]
    assert spool.count == 6


def test_many_rows_are_read_in_pieces_and_a_line_may_be_longer_than_a_piece(spool):
    long = ("r-0", "x" * (2 * CHUNK_BYTES), None)
    spool.append([long, *rows(1, 50_000)])
    some, _ = spool.read(0, COLUMNS)
    assert 0 < len(some) < 50_000
    assert read_all(spool)[0] == [long, *rows(1, 50_000)]


def test_the_room_is_set_aside_before_it_is_needed_and_stays(spool):
    spool.reserve()
    assert spool.problem is None
    assert os.stat(spool.file).st_size == os.stat(spool.file).st_blocks * 512 == RESERVED_BYTES
    spool.append(rows(1, 10_000))
    assert spool.clear_if_read(read_all(spool)[1])
    assert os.stat(spool.file).st_size == os.stat(spool.file).st_blocks * 512 == RESERVED_BYTES
    assert not spool.file.read_bytes().strip(b"\0")


def test_only_its_owner_may_read_the_file(spool):
    spool.reserve()
    assert spool.file.stat().st_mode & 0o777 == 0o600


def test_it_is_emptied_only_when_everything_was_read_and_takes_rows_again(spool):
    spool.append(rows(1, 3))
    _, offset = read_all(spool)
    spool.append(rows(4, 4))
    assert not spool.clear_if_read(offset)
    _, offset = read_all(spool)
    assert spool.clear_if_read(offset)
    assert (read_all(spool)[0], spool.count) == ([], 0)
    spool.append(rows(5, 5))
    assert read_all(spool)[0] == rows(5, 5)


def test_a_batch_that_does_not_fit_leaves_nothing_behind(spool, monkeypatch):
    spool.append(rows(1, 2))

    def half(descriptor, data, offset, write=os.pwrite):
        if any(data):
            write(descriptor, data[: len(data) // 2], offset)
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", half)
    with pytest.raises(OSError, match="No space left"):
        spool.append(rows(3, 100))
    monkeypatch.undo()
    assert (read_all(spool)[0], spool.count) == (rows(1, 2), 2)
    spool.append(rows(3, 3))
    die(spool)
    with dead_spools(spool.file.parent, COLUMNS) as [found]:
        assert read_all(found)[0] == rows(1, 3)


def test_a_folder_that_cannot_be_written_is_a_problem_and_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    spool = Spool(tmp_path / "file" / "boot-1.jsonl", COLUMNS)
    spool.reserve()
    assert spool.problem
    with pytest.raises(OSError):
        spool.append(rows(1, 1))


def test_what_an_ended_process_left_is_found_once_and_that_of_a_living_one_is_not(spool):
    spool.reserve()
    spool.append(rows(1, 3))
    folder = spool.file.parent
    with dead_spools(folder, COLUMNS) as found:
        assert found == []
    die(spool)
    with dead_spools(folder, COLUMNS) as [first]:
        assert read_all(first)[0] == rows(1, 3)
        with dead_spools(folder, COLUMNS) as second:
            assert second == []
    assert spool.file.exists(), "it was not said that its rows are no longer needed"
    with dead_spools(folder, COLUMNS) as [first]:
        first.forget()
    assert not spool.file.exists()


def test_an_empty_one_goes_with_its_process_and_one_with_rows_stays(tmp_path):
    empty, full = (Spool(tmp_path / f"{name}.jsonl", COLUMNS) for name in ("empty", "full"))
    for spool in (empty, full):
        spool.reserve()
    full.append(rows(1, 1))
    empty.close()
    full.close()
    full.close()
    assert (empty.file.exists(), full.file.exists()) == (False, True)


@pytest.mark.parametrize("torn", [b'["r-4","lla', b'["r-4","llama",2.0]\n\0\0ma",2.5]\n', b"4\n["])
def test_lines_that_were_being_written_when_the_power_went_do_not_spoil_the_others(spool, torn, caplog):
    spool.reserve()
    spool.append(rows(1, 3))
    os.pwrite(spool._descriptor, torn, spool._end)
    die(spool)
    with dead_spools(spool.file.parent, COLUMNS) as [found]:
        assert read_all(found)[0][:3] == rows(1, 3)
        assert found.count == 3 + torn.startswith(b'["r-4","llama",2.0]\n')


def test_lines_of_another_version_are_read_by_the_names_of_their_columns(spool):
    spool.append(rows(1, 1))
    die(spool)
    with dead_spools(spool.file.parent, ("id", "region", "model")) as [found]:
        assert read_all(found, ("id", "region", "model"))[0] == [("r-1", None, "llama")]
