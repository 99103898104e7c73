"""What feeds a training loop, without workers: the order of an epoch, batches cut from parts, what they look like."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.rows.assemble import Join, ResultArrays
from producer.rows.drop_rows import drop_rows
from producer.rows.part import Part, flatten
from producer.sources import from_arrays, from_batches, open_file
from producer.training import batch_specs
from producer.training.batch_specs import ArraySpec, BatchSchema
from producer.training.cutter import Batch, Cutter
from producer.training.epoch_source import Arrived, Stream
from producer.training.failed_rows import MOST_KEPT, FailedRows, of_data_set, renumbered_text
from producer.training.order import ShuffleBuffer, epoch_order, random_of, shard_rows
from tasks.datasets.columns import runs_of
from tasks.datasets.rebatcher import columns
from tasks.protocol.codec import tree_of
from tasks.protocol.messages import FailureRecord
from tests.parts import split
from worker_config.errors import InputError, MessageError, RowsFailedError, UsageError

ROWS = st.integers(0, 60)
SHUFFLES = st.sampled_from([False, True, 1, 7, 100])


def failure(start: int, stop: int) -> FailureRecord:
    return FailureRecord(start, stop, "infer", "ValueError", "bad")


@given(rows=ROWS, shuffle=SHUFFLES, seed=st.integers(0, 9), epoch=st.integers(0, 9), count=st.integers(1, 5))
def test_shards_have_all_rows_once_whatever_the_shuffle(
    rows: int, shuffle: bool | int, seed: int, epoch: int, count: int
) -> None:
    shards = [np.asarray(epoch_order(rows, shuffle, seed, epoch, (index, count))) for index in range(count)]
    assert sorted(np.concatenate(shards).tolist()) == list(range(rows))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    assert sum(shard_rows(rows, (index, count)) for index in range(count)) == rows
    again = epoch_order(rows, shuffle, seed, epoch, (0, count))
    assert np.asarray(again).tolist() == shards[0].tolist()


def test_an_epoch_is_shuffled_by_seed_and_number_alone() -> None:
    orders = {
        (seed, epoch): np.asarray(epoch_order(50, True, seed, epoch, (0, 1))).tolist()
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len({tuple(order) for order in orders.values()}) == 4
    assert epoch_order(50, False, 3, 4, (1, 2)) == range(25, 50)


@given(cuts=st.lists(st.integers(0, 20), max_size=8), size=st.integers(1, 30), uneven=st.booleans())
def test_a_shuffle_buffer_gives_every_row_once_however_they_come(cuts: list[int], size: int, uneven: bool) -> None:
    total = sum(cuts)

    def shuffled(cuts: list[int]) -> list[int]:
        buffer, first, out = ShuffleBuffer(size, random_of(1, 2)), 0, []
        for number, cut in enumerate(cuts):
            numbers = np.arange(first, first + cut)
            rows: Any = {"a": numbers, "b": np.repeat(numbers[:, None], 2 + (uneven and number % 2), axis=1)}
            if uneven and number % 3 == 2:
                rows["b"] = list(rows["b"])
            out.append(buffer.add(rows))
            first += cut
        out.append(buffer.rest())
        given: list[int] = []
        for rows in out:
            if rows is not None:
                assert [int(row[0]) for row in rows["b"]] == rows["a"].tolist()
                given += rows["a"].tolist()
        return given

    given = shuffled(cuts)
    assert sorted(given) == list(range(total))
    assert given == shuffled([total]), "the order does not depend on how the rows came"
    assert all(row < place + size for place, row in enumerate(given)), "no row comes before it can be in the buffer"


@given(data=st.data(), sizes=st.lists(st.integers(0, 9), max_size=8))
def test_the_numbers_of_rows_that_were_read_are_known_until_they_are_forgotten(
    data: st.DataObject, sizes: list[int]
) -> None:
    total = sum(sizes)
    numbers = np.random.default_rng(3).permutation(total)
    arrived = Arrived()
    for block in np.split(numbers, np.cumsum(sizes)[:-1]) if sizes else []:
        arrived.add(block)
    chunks = data.draw(st.permutations(split(total, data.draw(st.integers(1, 7)))))
    for chunk in chunks:
        assert arrived.of(chunk.start, chunk.stop).tolist() == numbers[chunk.start : chunk.stop].tolist()
        arrived.forget(chunk.start, chunk.stop)
    assert not any(len(block) for block in arrived._blocks.values())


def test_a_stream_can_be_looked_at_although_it_comes_once() -> None:
    stream = Stream(from_batches(iter([np.arange(0), np.arange(3), np.arange(3, 8)])))
    assert stream.peek().tolist() == [0, 1, 2]  # type: ignore[union-attr]
    source, numbers = stream.epoch("x", (1, 2), 0, random_of(0, 0))
    read = np.concatenate([np.asarray(batch) for batch in source.batches()])
    assert read.tolist() == [1, 3, 5, 7] == numbers.of(0, 4).tolist()
    source, _ = stream.epoch("x", (1, 2), 0, random_of(0, 1))
    with pytest.raises(InputError, match="can be read only once"):
        list(source.batches())


def parts_of(rows: int, chunk_rows: int, failed: set[int]) -> list[Part]:
    parts = []
    for chunk in split(rows, chunk_rows):
        numbers = np.arange(chunk.start, chunk.stop)
        records = tuple(failure(row, row + 1) for row in numbers.tolist() if row in failed)
        part = Part(chunk.index, chunk.start, chunk.stop, (numbers, {"twice": 2.0 * numbers}), records)
        parts.append(drop_rows(part, with_failed=True) if records else part)
    return parts


def cut(parts: list[Part], cutter: Cutter) -> list[Batch]:
    return [batch for part in parts for batch in cutter.add(part, flatten(part))] + cutter.end()


@given(
    rows=ROWS, chunk_rows=st.integers(1, 70), batch_rows=st.integers(1, 20), failed=st.sets(st.integers(0, 59)),
    data=st.data(),
)  # fmt: skip
def test_batches_are_the_rows_in_order_less_those_that_failed(
    rows: int, chunk_rows: int, batch_rows: int, failed: set[int], data: st.DataObject
) -> None:
    parts = data.draw(st.permutations(parts_of(rows, chunk_rows, failed)))
    kept = [row for part in parts for row in part.numbers().tolist()]
    order = [row for part in parts for row in range(part.start, part.stop)]
    wanted = [[row for row in order[at : at + batch_rows] if row not in failed] for at in range(0, rows, batch_rows)]

    uncounted = cut(parts, Cutter(batch_rows, counted=False))
    assert [batch.tree[0].tolist() for batch in uncounted] == [batch for batch in wanted if batch]  # type: ignore[index]
    batches: list[Batch] | None = None
    with suppress(RowsFailedError):  # more is owed than there is
        batches = cut(parts, Cutter(batch_rows))
    if batches is None:
        assert not all(wanted)
    else:
        assert len(batches) == math.ceil(rows / batch_rows)
        assert all(batch.rows for batch in batches)
        if all(wanted):
            assert [batch.tree[0].tolist() for batch in batches] == wanted  # type: ignore[index]
        assert [row for batch in batches for row in batch.tree[0].tolist()] == kept  # type: ignore[index]
        for batch in batches:
            numbers, other = batch.tree
            np.testing.assert_array_equal(other["twice"], 2.0 * numbers)  # type: ignore[index]
            assert list(batch.positions) == numbers.tolist()  # type: ignore[union-attr]

    refilled = cut(parts, Cutter(batch_rows, refill=True))
    assert [batch.rows for batch in refilled] == [
        min(batch_rows, len(kept) - at) for at in range(0, len(kept), batch_rows)
    ]
    assert [row for batch in refilled for row in batch.tree[0].tolist()] == kept  # type: ignore[index]


@pytest.mark.parametrize(
    ("failed", "expected"),
    [
        ({0, 1}, [[2], [3], [4, 5]]),  # split from the next
        ({4, 5}, [[0, 1], [2], [3]]),  # at the end, from the last
        ({0, 1, 2, 3}, None),
    ],
)
def test_a_batch_of_which_all_rows_failed_is_made_of_another(
    failed: set[int], expected: list[list[int]] | None
) -> None:
    parts = parts_of(6, 4, failed)
    if expected is None:
        with pytest.raises(RowsFailedError, match=r"all rows of 1 batches failed, .* use larger batches"):
            cut(parts, Cutter(2))
        return
    assert [batch.tree[0].tolist() for batch in cut(parts, Cutter(2))] == expected  # type: ignore[index]


def test_a_batch_within_a_part_is_a_view_of_it() -> None:
    (part,) = parts_of(8, 8, set())
    for batch in cut([part], Cutter(4)):
        assert np.shares_memory(batch.tree[0], part.outputs[0])  # type: ignore[arg-type, index]


def test_rows_of_one_batch_have_one_shape() -> None:
    cutter = Cutter(2)
    first, second = Part(0, 0, 1, np.ones((1, 2))), Part(1, 1, 2, np.ones((1, 3)))
    cutter.add(first, flatten(first))
    with pytest.raises(MessageError, match="rows 0-2 of the epoch are one batch, and not of one shape"):
        cutter.add(second, flatten(second))


@given(data=st.data(), rows=st.integers(0, 40), chunk_rows=st.integers(1, 10))
def test_without_order_each_part_comes_at_once_and_once(data: st.DataObject, rows: int, chunk_rows: int) -> None:
    parts = parts_of(rows, chunk_rows, set())
    once = data.draw(st.permutations(parts))
    repeats = data.draw(st.lists(st.sampled_from(once)))
    arrivals = data.draw(st.permutations([*once, *repeats]))
    join, whole, seen = Join(ordered=False), ResultArrays(rows), []
    for part in arrivals:
        new = join.add(part)
        assert new == (part.index not in seen)
        ready = join.pop_ready()
        assert [one.index for one in ready] == [part.index] * new
        for one in ready:
            whole.add(one)
            seen.append(one.index)
    assert join.duplicates == len(repeats)
    assert (join.waiting, join.next_index, join._ahead) == (0, len(parts), set())
    if rows:
        np.testing.assert_array_equal(whole.result()[0], np.arange(rows))


@pytest.mark.parametrize("kind", ["memory", "file", "npz"])
def test_rows_are_picked_in_any_order(tmp_path: Path, kind: str) -> None:
    data = np.random.default_rng(1).random((50, 3)).astype(np.float32)
    source = from_arrays(data)
    if kind == "file":
        np.save(tmp_path / "a.npy", data)
        source = open_file(tmp_path / "a.npy")
    elif kind == "npz":
        np.savez(tmp_path / "a.npz", x=data, name=np.array([f"{row}" for row in range(50)]))
        source = open_file(tmp_path / "a.npz")
    numbers = np.random.default_rng(2).permutation(50)[:20]
    for some in (numbers, np.arange(7, 30), numbers[:0]):
        taken: Any = source.pick(some)
        if kind == "npz":
            assert taken["name"].tolist() == [f"{row}" for row in some]
            taken = taken["x"]
        np.testing.assert_array_equal(taken, data[some])
    with pytest.raises(InputError, match="no rows 3-51"):
        source.pick(np.array([3, 50]))


def test_rows_of_a_file_that_has_changed_are_not_picked(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(100.0))
    source = open_file(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", np.arange(50.0))
    with pytest.raises(InputError, match=r"a\.npy: has been cut short since it was opened; rows 3-91"):
        source.pick(np.array([90, 3]))


def test_failures_are_told_in_rows_of_the_data_set() -> None:
    arrived = Arrived()
    arrived.add(np.array([10, 7, 8, 3, 30]))
    record = failure(0, 4)
    assert [(one.start, one.stop) for one in of_data_set(record, arrived)] == [(3, 4), (7, 9), (10, 11)]
    told = renumbered_text(f"no row was predicted; {record}", [record], arrived)
    assert told == "no row was predicted; row 3 and 3 more of the data set failed at infer: ValueError: bad"
    failed = FailedRows()
    for _ in range(3):
        failed.keep([failure(5, 6), failure(2, 3)])
    assert [record.start for record in failed.in_order()] == [2, 5]
    failed.keep(failure(row, row + 1) for row in range(10, MOST_KEPT + 10))
    assert (len(failed.in_order()), failed.more) == (MOST_KEPT, 2)


def test_what_batches_look_like_is_learnt_or_given() -> None:
    arrays = {("x",): np.ones((3, 4), np.float32), ("y",): np.array(["a"] * 3, object)}
    known = batch_specs.inferred(arrays)
    assert tree_of(known) == {
        "x": ArraySpec((None, 4), np.dtype(np.float32)),
        "y": ArraySpec((None,), np.dtype(object)),
    }
    batch_specs.check(known, arrays, "here")
    element_spec = {"x": ArraySpec((3, None), np.dtype("f4")), "y": np.array(["a"])}
    loose = batch_specs.declared(element_spec)
    batch_specs.check(loose, arrays, "here")
    with pytest.raises(MessageError, match="here: a batch has 2 rows, element_spec says 3 for output 'x'"):
        BatchSchema(element_spec).check_rows(2, "here")
    for odd, told in [
        (
            {**arrays, ("x",): np.ones((3, 5), np.float32)},
            r"here: output 'x' has rows of float32 \(5,\), .*had float32",
        ),
        ({**arrays, ("x",): np.ones((3, 4))}, r"here: output 'x' has rows of float64 \(4,\)"),
        ({("x",): arrays[("x",)]}, "here: has the outputs x, .* had the outputs x, y"),
    ]:
        with pytest.raises(MessageError, match=told):
            batch_specs.check(known, odd, "here")
    with pytest.raises(UsageError, match="output 'x' is 3, which has no dtype and shape"):
        batch_specs.declared({"x": 3})
    with pytest.raises(UsageError, match="has no axis for the rows"):
        batch_specs.declared(ArraySpec((), np.dtype("f4")))


def test_a_tuple_is_not_a_dict_with_numbers() -> None:
    known = batch_specs.inferred(dict(columns_by_key((np.ones(2),))))
    with pytest.raises(MessageError, match="has the outputs 0"):
        batch_specs.check(known, dict(columns_by_key({"0": np.ones(2)})), "here")


def columns_by_key(tree: Any) -> Any:
    from tasks.protocol.codec import leaves_of

    return leaves_of(tree)


def test_runs_and_columns() -> None:
    assert runs_of(np.array([4])) == [(4, 5)]
    assert len(columns({"a": np.ones(1), "b": np.ones(1)})) == 2
