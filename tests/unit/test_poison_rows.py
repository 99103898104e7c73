"""Rows that kill are found in few deaths, and no other is ever condemned."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.recovery.poison_rows import ChildDeath, PoisonRows, RowRange, RunIntent, is_hopeless, judge, steps

WORKER = "w@host:1"


def note_of(start: int, stop: int, until: int | None = None, since: float = 0.0) -> RunIntent:
    return RunIntent(WORKER, 7, start, stop, until or stop, since)


def death_of(**more: object) -> ChildDeath:
    return ChildDeath(**{"worker": WORKER, "pid": 7, "type": "WorkerLostError", "text": "signal 11", "at": 9.0, **more})  # type: ignore[arg-type]


def story(rows: int, batch_rows: int, killers: set[int]) -> Iterator[tuple[int, set[int]]]:
    """Deaths and condemned rows after each delivery, until one goes through."""
    deaths, bad, note, delivery = 0, set[int](), None, 0
    while True:
        delivery += 1
        poison_rows = None
        if note:
            poison_rows, condemned = judge(note, death_of(), batch_rows)
            if condemned:
                bad.add(condemned.start)
        assert not is_hopeless(deaths, len(bad))
        todo = [RowRange(0, rows, rows)] if delivery == 1 else steps(0, rows, batch_rows, poison_rows, bad)
        ran = [row for step in todo for row in range(step.start, step.stop)]
        assert ran == [row for row in range(rows) if row not in bad]
        died = next((step for step in todo if killers & set(range(step.start, step.stop))), None)
        if died is None:
            yield deaths, bad
            return
        deaths += 1
        note = note_of(died.start, died.stop, died.until) if delivery > 1 else None
        yield deaths, bad


@given(rows=st.integers(1, 400), batch_rows=st.sampled_from([1, 2, 16, 17, 64, 256, 1000]), data=st.data())
def test_every_row_that_kills_is_found_and_no_other(rows: int, batch_rows: int, data: st.DataObject) -> None:
    killers = data.draw(st.sets(st.integers(0, rows - 1), max_size=5))
    told = list(story(rows, batch_rows, killers))
    deaths, bad = told[-1]
    assert bad == killers
    assert all(found <= killers for _, found in told)
    assert deaths <= 4 * len(killers)
    assert deaths <= 1 + 3 * len(killers)


def test_one_row_that_kills_costs_three_children_and_a_fourth_in_large_batches() -> None:
    assert list(story(300, 16, {250}))[-1][0] == 3
    assert list(story(300, 256, {250}))[-1][0] == 4


def test_rows_beside_suspects_run_in_blocks() -> None:
    todo = steps(10, 40, 8, PoisonRows(18, 26, 3), {12, 19})
    assert [(step.start, step.stop) for step in todo] == [
        *[(10, 12), (13, 18)],
        *[(18, 19), (20, 23), (23, 26)],
        *[(26, 34), (34, 40)],
    ]
    assert [step.until for step in todo] == [12, 18, 26, 26, 26, 34, 40]


def test_no_rows_are_one_step() -> None:
    assert steps(5, 5, 8, None, set()) == [RowRange(5, 5, 5)]


@pytest.mark.parametrize(
    "death", [death_of(pid=8), death_of(worker="w@host:2"), death_of(type="")], ids=["pid", "worker", "stopped"]
)
@pytest.mark.parametrize("stop", [4, 20])
def test_a_death_of_another_or_for_no_fault_of_the_rows_tells_nothing(death: ChildDeath, stop: int) -> None:
    assert judge(note_of(3, stop), death, 16) == (None, None)


def test_a_single_row_is_condemned_with_its_cause_and_those_after_it_stay_suspect() -> None:
    poison_rows, condemned = judge(note_of(3, 4, until=9), death_of(), 16)
    assert poison_rows == PoisonRows(4, 9, 1)
    assert condemned
    assert (condemned.start, condemned.stop, condemned.stage) == (3, 4, "worker")
    assert (condemned.type, condemned.text) == ("WorkerLostError", "signal 11")


def test_a_row_that_began_late_in_a_slow_chunk_is_not_condemned_for_the_time_it_took() -> None:
    late, early = note_of(3, 4, until=9, since=100.0), note_of(3, 4, until=9, since=91.0)
    death = death_of(type="TimeLimitExceeded", at=101.0, limit_seconds=12.0)
    assert judge(late, death, 16) == (PoisonRows(3, 9, 1), None)
    assert judge(early, death, 16)[1] is not None
