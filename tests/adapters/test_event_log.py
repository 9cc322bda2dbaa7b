import pytest

from scheduler.adapters.event_log import BatchEventLog
from scheduler.adapters.request_log import SqlRequestLog
from scheduler.gateway.ports import Event


@pytest.fixture
def events(writer):
    events = BatchEventLog(writer, interval_s=0.01)
    events.start()
    yield events
    events.stop(1)


def test_events_come_back_as_they_were_newest_first(events, reader):
    given = [
        Event(1700000000.5, "node.changed", "gpu-01", "10.0.0.9", {"weight": 1}, {"weight": 2}),
        Event(1700000000.5, "node.down", "gpu-01", "scheduler", note="HTTP 503"),
        Event(1700000001.0, "request.cancelled", "r-1", "10.0.0.9"),
    ]
    for event in given:
        events.add(event)
    assert events.flush(5)
    log = SqlRequestLog(reader)
    assert list(log.events(10, 0)) == given[::-1]
    assert list(log.events(1, 1)) == [given[1]]


def test_an_event_that_is_written_twice_is_kept_once(events, writer, reader):
    events.add(Event(1700000000.0, "node.up", "gpu-01", "scheduler"))
    write = events._write
    events._write = lambda connection, rows: (write(connection, rows), write(connection, rows))
    assert events.flush(5)
    assert len(list(SqlRequestLog(reader).events(10, 0))) == 1


def test_past_its_bound_the_oldest_go_and_are_counted(writer, reader):
    events = BatchEventLog(writer, max_backlog=2)
    for at in (1.0, 2.0, 3.0):
        events.add(Event(at, "node.up", "gpu-01", "scheduler"))
    assert (events.backlog, events.lost) == (2, 1)
    events.start()
    assert events.stop(5)
    assert [event.at for event in SqlRequestLog(reader).events(10, 0)] == [3.0, 2.0]
