"""The check of an executor while jobs run: it finds odd rows within its budget, and looks at the right ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from tasks.accuracy.deviations import Allowed, deviation
from tasks.executors.online_check import FREE_CALLS, SHARE, OnlineCheck
from tasks.executors.row_picker import LOOK_SHARE
from tasks.executors.value_ranges import extremes
from tasks.snapshots.executor_notes import ExecutorNotes

ROWS, COLUMNS, BATCH, CHUNK = 100_000, 20, 256, 4_096
ODD = 10
# Of a row: of the executor, and of the own graph, which is slower.
SECONDS, OWN_SECONDS = 2e-6, 3e-6

Array = np.ndarray
WEIGHTS = np.random.default_rng(1).normal(size=(COLUMNS, 4)).astype(np.float32)


def model(rows: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return np.asarray(np.tanh(rows @ WEIGHTS))


@dataclass
class Runner:
    """A job of a model on a clock that moves for its calls alone."""

    wrong: Callable[[Array, Array], Array] = lambda rows, outputs: outputs
    now: float = 0.0
    held: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.check = self.make()

    def make(self) -> OnlineCheck:
        columns = {("inputs", "x"), ("outputs", "y")}
        return OnlineCheck("fast", Allowed(), BATCH, columns, clock=lambda: self.now)

    def own(self, arrays: dict[str, Array]) -> dict[str, Array]:
        self.held.append(len(arrays["x"]))
        self.now += OWN_SECONDS * len(arrays["x"])
        return {"y": model(arrays["x"])}

    def chunk(self, job: str, index: int, rows: Array) -> None:
        self.check.begin(job, index, by_own_graph=False)
        self.check.place(index * CHUNK)
        outputs = {"y": self.wrong(rows, model(rows))}
        self.check.hold({"x": rows}, outputs, self.own, SECONDS * len(rows))

    def job(self, rows: Array, name: str = "a") -> int | None:
        """The row at which it is found to differ."""
        for index in range(-(-len(rows) // CHUNK)):
            self.chunk(name, index, rows[index * CHUNK :][:CHUNK])
            if self.check.found:
                return self.check.found.row
        return None


def make_rows(seed: int) -> tuple[Array, Array]:
    """Rows that are alike, and the numbers of those that are to be odd: none among the first."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    return rows, rng.choice(np.arange(BATCH, ROWS), ODD, replace=False)


def _zeros(rows: Array, odd: Array) -> None:
    rows[odd] = 0


def _constant(rows: Array, odd: Array) -> None:
    rows[odd] = 0.5


def _large(rows: Array, odd: Array) -> None:
    rows[odd] *= 30


def _one_large(rows: Array, odd: Array) -> None:
    rows[odd, 7] = 12


def _not_a_number(rows: Array, odd: Array) -> None:
    rows[odd, 3] = np.nan


def _infinite(rows: Array, odd: Array) -> None:
    rows[odd, 3] = -np.inf


def _as_they_are(rows: Array, odd: Array) -> None:
    """Rows like all others."""


KINDS = [_zeros, _constant, _large, _one_large, _not_a_number, _infinite]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make_odd", KINDS, ids=lambda make: make.__name__[1:])
def test_one_odd_row_in_ten_thousand_is_found_within_the_budget(make_odd: Callable[..., None], seed: int) -> None:
    rows, odd = make_rows(seed)
    make_odd(rows, odd)
    marks = {rows[number].tobytes() for number in odd}

    def wrong(some: Array, outputs: Array) -> Array:
        for place in np.flatnonzero([row.tobytes() in marks for row in some]):
            outputs[place] = 0.123  # which is inside the range
        return outputs

    run = Runner(wrong)
    found = run.job(rows)
    assert found in odd, "and told by its number"
    assert run.check.found
    assert "output y[0] is 0.123 instead of " in run.check.found.text


@pytest.mark.parametrize("value", [1.5, -7e5, np.nan, np.inf])
def test_odd_outputs_of_rows_like_all_others_are_found(value: float) -> None:
    rows, odd = make_rows(5)
    marks = {rows[number].tobytes() for number in odd}

    def wrong(some: Array, outputs: Array) -> Array:
        outputs[[row.tobytes() in marks for row in some]] = value
        return outputs

    assert Runner(wrong).job(rows) in odd


def test_rows_that_are_alike_cost_no_more_than_the_budget_and_are_held_nevertheless() -> None:
    rows, _ = make_rows(7)
    run = Runner()
    assert run.job(rows) is None
    first, *others = run.held
    assert first == BATCH
    budget = (SHARE - LOOK_SHARE) * SECONDS * ROWS / OWN_SECONDS
    assert budget / 2 < sum(others) <= budget + BATCH
    assert run.check.rows_held == first + sum(others)


def test_a_model_that_is_done_before_it_has_a_budget_is_held_on_rows_that_are_clearly_odd_a_few_times() -> None:
    rows, odd = make_rows(3)
    rows[odd] *= 30
    run = Runner()
    run.check.begin("a", 0, by_own_graph=False)
    for start in range(0, ROWS, CHUNK):
        some = rows[start:][:CHUNK]
        run.check.hold({"x": some}, {"y": model(some)}, run.own, 1e-9)
    assert run.check.found is None
    assert 2 <= len(run.held) <= 2 + FREE_CALLS

    rows[2 * BATCH] = 0
    run = Runner(lambda some, outputs: np.where(some.any(axis=1, keepdims=True), outputs, np.float32(0.1)))
    run.check.begin("a", 0, by_own_graph=False)
    run.check.hold({"x": rows[:CHUNK]}, {"y": run.wrong(rows[:CHUNK], model(rows[:CHUNK]))}, run.own, 1e-9)
    assert run.check.found
    assert run.check.found.row == 2 * BATCH


def test_each_job_begins_anew_and_goes_on_where_it_was() -> None:
    rows, _ = make_rows(8)
    run = Runner()
    run.chunk("a", 0, rows[:CHUNK])
    run.held.clear()
    run.chunk("b", 0, rows[:100])
    assert run.held[0] == 100, "the first batch, all of it"
    run.held.clear()
    run.chunk("a", 1, rows[:CHUNK])
    assert BATCH not in run.held


def test_a_batch_in_a_thousand_is_held_by_chance_and_always_the_same() -> None:
    rows, _ = make_rows(9)
    rows = np.concatenate([rows, rows])
    runs = Runner(), Runner()
    for run in runs:
        run.check._picker.look_seconds = run.check._run_seconds = 1e3
        for index in range(2_000):
            start = index * BATCH % len(rows)
            run.chunk("a", index, rows[start:][:BATCH])
        assert run.held.count(BATCH) in range(2, 9), "the first one, and two by chance"
    assert runs[0].held == runs[1].held


def test_what_the_own_graph_refuses_is_a_difference_and_a_want_of_memory_is_none() -> None:
    rows, _ = make_rows(2)

    def refuses(arrays: dict[str, Array]) -> dict[str, Array]:
        raise error

    for error, found in ((ValueError("x is negative"), True), (MemoryError(), False)):  # noqa: B007 - raised
        check = Runner().make()
        check.begin("a", 0, by_own_graph=False)
        check.hold({"x": rows[:9]}, {"y": model(rows[:9])}, refuses, 1.0)
        assert bool(check.found) is found


def test_a_mark_counts_from_the_next_job_on_and_for_good(tmp_path: Path) -> None:
    notes = ExecutorNotes(tmp_path, "fast")
    check = OnlineCheck("fast", Allowed(), BATCH, notes=notes)
    check.begin("a", 0, by_own_graph=False)
    notes.note_difference("it differed")
    check.begin("a", 1, by_own_graph=False)
    assert not check.by_own_graph
    check.begin("b", 0, by_own_graph=False)
    assert check.by_own_graph
    check.begin("a", 2, by_own_graph=False)
    assert check.by_own_graph


def test_rows_are_told_by_their_number_in_the_data_set() -> None:
    rows, _ = make_rows(4)
    check = Runner().make()
    check.begin("a", 3, by_own_graph=False)
    kept = np.array([True, False, False, True, True])
    check.place(500, kept)
    outputs = model(rows[:3])
    outputs[1] = 9
    check.hold({"x": rows[:3]}, {"y": outputs}, lambda arrays: {"y": model(arrays["x"])}, 1.0)
    assert check.found
    assert check.found.row == 503


@pytest.mark.parametrize("shape", [(3, 8, 8), (2_000,)])
def test_rows_with_axes_and_wide_ones_count_by_their_extremes(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(6)
    rows = rng.random((4_000, *shape), np.float32)
    rows[3_100] *= 0.5
    rows[3_100].flat[0] = 0
    outputs = rows.reshape(len(rows), -1)[:, :3].copy()
    got = outputs.copy()
    got[3_100] += 0.1
    check = OnlineCheck("fast", Allowed(), BATCH)
    for start in (0, 2_000):
        check.begin("a", start, by_own_graph=False)
        check.place(start)
        part = slice(start, start + 2_000)
        own = dict(zip(map(bytes, rows[part]), outputs[part], strict=True))
        check.hold(
            {"x": rows[part]},
            {"y": got[part]},
            lambda arrays, own=own: {"y": np.stack([own[bytes(row)] for row in arrays["x"]])},
            1e6,
        )
    assert check.found
    assert check.found.row == 3_100


def test_integers_texts_and_empty_arrays_are_taken_as_they_are() -> None:
    numbers = np.tile(np.arange(10, dtype=np.int64), 200)[:, None]
    words = np.array([b"a"] * 2_000, object)[:, None]
    numbers[1_500] = -1

    def own(arrays: dict[str, Array]) -> dict[str, Array]:
        return {"label": np.where(arrays["n"] < 0, 7, arrays["n"]), "none": np.empty((len(arrays["n"]), 0))}

    check = OnlineCheck("fast", Allowed(), BATCH, {("inputs", "n"), ("outputs", "label")})
    check.begin("a", 0, by_own_graph=False)
    outputs = {"label": np.maximum(numbers, 0), "none": np.empty((2_000, 0))}
    check.hold({"n": numbers, "words": words}, outputs, own, 1e6)
    assert check.found is not None
    assert (check.found.row, check.found.text) == (1_500, "output label[0] is 0 instead of 7")


def test_extremes_of_any_number_of_rows() -> None:
    rng = np.random.default_rng(0)
    for rows, columns in ((1, 1), (5, 3), (8_191, 7), (1_000, 512), (3, 5_000)):
        table = rng.normal(size=(rows, columns)).astype(np.float32)
        low, high = extremes(table)
        np.testing.assert_array_equal(low, table.min(axis=0))
        np.testing.assert_array_equal(high, table.max(axis=0))


# --- what deviates --------------------------------------------------------------------------------------------------

Y = np.array([[1.0, 100.0], [2.0, -50.0], [3.0, np.nan], [4.0, np.inf]], np.float32)


EXACT = Allowed()


def _deviation(got: Array, allowed: Allowed = EXACT, reached: Array | None = None) -> tuple[int, str] | None:
    return deviation({"y": Y}, {"y": got}, allowed, {} if reached is None else {"y": reached})


def test_rounding_is_no_deviation_and_all_else_is() -> None:
    assert _deviation(Y * np.float32(1 + 2e-6)) is None
    got = Y.copy()
    got[1, 0] = 2.01
    assert _deviation(got) == (1, "output y[0] is 2.01 instead of 2")
    assert _deviation(got, reached=np.array([1e4, 0.0])) is None, "where the column goes on to 10,000"
    for row, value in ((0, np.inf), (2, 3.0), (3, -np.inf), (3, np.nan), (3, 7.0)):
        for allowed in (Allowed(), Allowed(exact=False), Allowed(exact=False, tolerance=1e9)):
            got = Y.copy()
            got[row, 1] = value
            assert (_deviation(got, allowed) or (None,))[0] == row


def test_a_lower_precision_is_held_to_its_tolerance_and_an_agreement_is_no_matter_of_rows() -> None:
    got = Y * np.float32(1.05)
    assert _deviation(got) is not None
    assert _deviation(got, Allowed(exact=False, tolerance=0.1)) is None
    assert _deviation(got, Allowed(exact=False, tolerance=0.01)) is not None
    assert _deviation(got, Allowed(exact=False)) is None
    labels = {"y": np.array([1, 2])}
    other = {"y": np.array([1, 3])}
    assert deviation(labels, other, Allowed(), {}) == (1, "output y is 3 instead of 2")
    assert deviation(labels, other, Allowed(exact=False), {}) is None
