from scheduler.core.timetable import Timetable


def test_what_is_due_runs_in_order_and_the_rest_stays() -> None:
    table, done = Timetable(), []
    for due in (3.0, 1.0, 2.0):
        table.add(due, lambda due=due: done.append(due))  # type: ignore[misc]
    table.run_due(2.0)
    assert done == [1.0, 2.0]
    assert (len(table), table.next_due) == (1, 3.0)


def test_what_was_planned_first_runs_first_at_the_same_time() -> None:
    table, done = Timetable(), []
    table.add(1.0, lambda: done.append("first"))
    table.add(1.0, lambda: done.append("second"))
    table.run_due(1.0)
    assert done == ["first", "second"]


def test_a_cancelled_action_never_runs() -> None:
    table, done = Timetable(), []
    entry = table.add(1.0, lambda: done.append("no"))
    table.cancel(entry)
    table.run_due(9.0)
    table.cancel(entry)
    assert (done, table.next_due, len(table)) == ([], None, 0)


def test_an_action_may_plan_and_cancel_others_that_are_due() -> None:
    table, done = Timetable(), []
    victim = table.add(2.0, lambda: done.append("cancelled"))

    def action() -> None:
        table.cancel(victim)
        table.add(1.5, lambda: done.append("planned"))

    table.add(1.0, action)
    table.run_due(3.0)
    assert done == ["planned"]


def test_only_what_becomes_due_before_all_others_is_announced() -> None:
    table, announced = Timetable(), []
    table.on_sooner = lambda: announced.append(table.next_due)
    for due in (5.0, 7.0, 5.0, 3.0):
        table.add(due, lambda: None)
    assert announced == [5.0, 3.0]


def test_an_action_that_raises_is_not_tried_again() -> None:
    table = Timetable()
    table.add(1.0, lambda: 1 / 0)
    try:
        table.run_due(1.0)
    except ZeroDivisionError:
        table.run_due(1.0)
    assert len(table) == 0
