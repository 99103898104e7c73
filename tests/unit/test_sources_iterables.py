"""Rows and ready batches from iterables."""

import itertools
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from producer.sources import BatchSource, Column, Rows, from_batches, from_rows
from tasks.datasets.marked import plain, unfed_of
from tasks.datasets.rows import MAX_BATCH_BYTES
from worker_config.errors import InputError, UsageError

DTYPES = st.sampled_from(["int8", "uint16", "int64", "float16", "float32", "float64", "bool", "complex64"])
TEXTS = st.text() | st.binary()


@st.composite
def values(draw: st.DrawFn) -> Any:
    """A strategy for one input's values, all of one dtype, of one shape or of several."""
    if draw(st.booleans()):
        return TEXTS
    dtype = np.dtype(draw(DTYPES))
    shape: Any = draw(st.sampled_from([(), (2,), (0,), (2, 1)]))
    ragged = draw(st.booleans()) and len(shape) > 0
    return arrays.arrays(dtype, arrays.array_shapes(max_dims=2, max_side=3) if ragged else shape)


@st.composite
def data_sets(draw: st.DrawFn) -> list[Any]:
    """Rows that fit together: single values, dicts or tuples."""
    columns = [draw(values()) for _ in range(draw(st.integers(1, 2)))]
    form = draw(st.sampled_from(["single", "dict", "tuple"]))
    if form == "single":
        return draw(st.lists(columns[0], max_size=12))
    if form == "tuple":
        return draw(st.lists(st.tuples(*columns), max_size=12))
    return draw(st.lists(st.fixed_dictionaries({f"in{i}": column for i, column in enumerate(columns)}), max_size=12))


def rows_of(batches: Iterator[Rows]) -> list[Any]:
    """The rows of all batches, one after another."""
    rows: list[Any] = []
    for batch in batches:
        if isinstance(batch, dict):
            rows += [dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)]
        elif isinstance(batch, tuple):
            rows += zip(*batch, strict=True)
        else:
            rows.extend(batch)
    return rows


def assert_equal_rows(got: list[Any], wanted: list[Any]) -> None:
    np.testing.assert_equal(got, wanted)
    for row, expected in zip(got, wanted, strict=True):
        if isinstance(expected, np.ndarray):
            assert (np.asarray(row).dtype, np.shape(row)) == (expected.dtype, expected.shape)


@settings(deadline=None)
@given(rows=data_sets(), batch_rows=st.integers(1, 13))
def test_batches_one_after_another_are_the_rows(rows: list[Any], batch_rows: int) -> None:
    batches = list(from_rows(iter(rows), batch_rows).batches())

    assert_equal_rows(rows_of(iter(batches)), rows)
    assert len(batches) == -(-len(rows) // batch_rows)


@settings(deadline=None)
@given(rows=data_sets(), cuts=st.lists(st.integers(0, 12)))
def test_batches_of_any_size_come_as_they_are(rows: list[Any], cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    ready = [
        next(from_rows(rows[start:stop], 13).batches()) for start, stop in itertools.pairwise(edges) if start < stop
    ]

    batches = list(from_batches(iter(ready)).batches())

    assert_equal_rows(rows_of(iter(batches)), rows)
    assert len(batches) == len(ready)


class TestRows:
    @pytest.mark.parametrize(
        ("rows", "dtype"),
        [
            ([1, 2, 3], "int64"),
            ([1.5, 2.5], "float64"),
            ([True, False], "bool"),
            (["a\0", "bc"], "object"),
            ([b"a\0", b"bc"], "object"),
            ([np.float32(1), np.float32(2)], "float32"),
            ([[1, 2], [3, 4]], "int64"),
            ([["a\0", "b"], ["c", "d"]], "object"),
            ([np.array(["a", "b"])], "object"),
            ([np.array([1, 2], ">i4")], "int32"),
        ],
    )
    def test_a_row_may_be_any_value(self, rows: list[Any], dtype: str) -> None:
        (batch,) = from_rows(rows).batches()

        assert isinstance(batch, np.ndarray)
        assert (batch.dtype, batch.tolist()) == (np.dtype(dtype), [np.asarray(row, object).tolist() for row in rows])

    def test_rows_of_unlike_shapes_are_a_list_for_their_batch_only(self) -> None:
        images = [np.zeros((2, 2)), np.zeros((2, 2)), np.zeros((3, 1)), np.zeros((2, 2))]

        first, second = from_rows(({"image": image, "age": 1} for image in images), batch_rows=2).batches()

        assert isinstance(first, dict)
        assert isinstance(second, dict)
        assert isinstance(first["image"], np.ndarray)
        assert isinstance(second["image"], list)
        assert isinstance(second["age"], np.ndarray)

    def test_an_empty_list_among_lists_keeps_their_dtype(self) -> None:
        (batch,) = from_rows([[1], [], [2, 3]]).batches()

        assert [row.dtype for row in batch] == [np.dtype("int64")] * 3  # type: ignore[union-attr]

    def test_memory_that_the_giver_uses_again_does_no_harm(self) -> None:
        def frames() -> Iterator[Any]:
            frame = np.zeros(2)
            for number in range(3):
                frame[:] = number
                yield frame

        (batch,) = from_rows(frames()).batches()

        assert batch.tolist() == [[0, 0], [1, 1], [2, 2]]  # type: ignore[union-attr]

    def test_names_in_another_order_are_the_same_names(self) -> None:
        (batch,) = from_rows([{"a": 1, "b": 2}, {"b": 4, "a": 3}]).batches()

        np.testing.assert_equal(batch, {"a": np.array([1, 3]), "b": np.array([2, 4])})

    @pytest.mark.parametrize(
        ("rows", "cause"),
        [
            ([1, 2, 3.5], "row 2: is float64, earlier ones are int64"),
            ([{"x": np.float32(1)}, {"x": 1}], "row 1: input 'x': is int64, earlier ones are float32"),
            ([1, "a"], "row 1: is object, earlier ones are int64"),
            ([{"a": 1}, {"b": 1}], "row 1: is a dict of 'b', earlier ones are a dict of 'a'"),
            ([{"a": 1}, 1], "row 1: is one value, earlier ones are a dict of 'a'"),
            ([(1, 2), (1,)], "row 1: is a tuple of 1, earlier ones are a tuple of 2"),
            ([1, None], "row 1: holds a NoneType"),
            (["a", ["b", 1]], "row 1: holds a int"),
            ([[1], [[1], 2]], "row 1: cannot become an array"),
            ([1, np.datetime64(1, "s")], "row 1: its dtype datetime64"),
            ([np.zeros(2), np.ma.masked_equal([1, 2], 2)], "row 1: has masked values"),
            ([{"a": 1}, {1: 1}], "row 1: input names must be strings"),
            ([{"a": 1}, {}], "row 1: holds no arrays"),
        ],
    )
    def test_a_row_that_does_not_fit_is_named_after_those_before_it(self, rows: list[Any], cause: str) -> None:
        self.assert_fails(from_rows(rows), rows[:-1], cause)

    def test_an_iterable_that_raises_is_named_after_its_rows(self) -> None:
        def broken() -> Iterator[int]:
            yield from range(5)
            raise KeyError("disk\n on fire")

        error = self.assert_fails(from_rows(broken(), batch_rows=2), list(range(5)), "row 5 did not come: KeyError: ")

        assert isinstance(error.__cause__, KeyError)
        assert str(error).startswith("rows of broken: ")

    def test_an_iterable_that_cannot_begin_is_row_zero(self) -> None:
        class Broken:
            def __iter__(self) -> Iterator[int]:
                raise OSError("no disk")

        self.assert_fails(from_rows(Broken()), [], "rows of Broken: row 0 did not come: OSError: no disk")

    @staticmethod
    def assert_fails(source: BatchSource, rows: list[Any], cause: str) -> InputError:
        batches: list[Rows] = []
        with pytest.raises(InputError) as caught:
            batches.extend(source.batches())  # keeps those before the error
        np.testing.assert_equal(rows_of(iter(batches)), rows)
        assert cause in str(caught.value)
        assert "\n" not in str(caught.value)
        return caught.value

    def test_closing_closes_the_generator(self) -> None:
        closed = []

        def endless() -> Iterator[int]:
            try:
                while True:
                    yield 1
            finally:
                closed.append(True)

        batches = from_rows(endless(), batch_rows=1).batches()
        next(batches)
        assert not closed

        batches.close()

        assert closed

    def test_an_iterator_is_read_once_and_other_iterables_again(self) -> None:
        once = from_rows(iter([1, 2]))
        assert rows_of(once.batches()) == [1, 2]
        with pytest.raises(InputError, match="can be read only once"):
            once.batches()

        again = from_rows([1, 2])
        assert rows_of(again.batches()) == rows_of(again.batches()) == [1, 2]

    def test_no_rows_are_no_batches(self) -> None:
        assert list(from_rows([]).batches()) == []

    def test_what_cannot_be_read_is_refused_at_once(self) -> None:
        with pytest.raises(InputError, match="a int cannot be iterated over"):
            from_rows(5)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="batch_rows is 0"):
            from_rows([], batch_rows=0)

    def test_memory_does_not_grow_with_the_rows(self) -> None:
        row_bytes, rows = 2**16, 2048  # 128 MiB
        tracemalloc.start()
        try:
            sizes = [len(batch) for batch in from_rows(bytes([i % 256]) * row_bytes for i in range(rows)).batches()]
            array_rows = (np.full(row_bytes, i % 256, np.uint8) for i in range(rows))
            sizes += [len(batch) for batch in from_rows(array_rows).batches()]
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

        assert max(sizes) == MAX_BATCH_BYTES // row_bytes
        assert sum(sizes) == 2 * rows
        assert peak < 4 * MAX_BATCH_BYTES


class TestBatches:
    @pytest.mark.parametrize(
        ("batches", "cause"),
        [
            ([np.zeros(2), np.zeros(1, int)], "batch 1: is int64, earlier ones are float64"),
            ([{"a": np.zeros(2), "b": np.zeros(3)}], "batch 0: all inputs must have the same number of rows"),
            ([np.zeros(2), (np.zeros(2),)], "batch 1: is a tuple of 1, earlier ones are one value"),
            ([np.zeros(2), 5.0], "batch 1: is one value, not rows"),
            ([[np.zeros(2), np.zeros(3, int)]], "batch 0: is int64, earlier ones are float64"),
            ([np.zeros(2, "f4,i4")], "batch 0: its dtype"),
        ],
    )
    def test_a_batch_that_does_not_fit_is_named(self, batches: list[Any], cause: str) -> None:
        with pytest.raises(InputError, match="rows of list: " + cause):
            list(from_batches(batches).batches())

    @pytest.mark.parametrize("batch", [[[1, 2], [3]], [np.array([1, 2]), np.array([3])]])
    def test_a_list_may_hold_rows_of_unlike_shapes(self, batch: Any) -> None:
        ((column,),) = from_batches([(batch,)]).batches()

        assert isinstance(column, list)
        assert [row.tolist() for row in column] == [[1, 2], [3]]

    @pytest.mark.parametrize("batch", [[1, 2], ["a", "b\0"], [np.float32(1), np.float32(2)], [[1], [2]], []])
    def test_other_lists_are_arrays(self, batch: list[Any]) -> None:
        (column,) = from_batches([batch]).batches()

        assert isinstance(column, np.ndarray)
        assert column.tolist() == batch

    def test_batches_without_rows_are_batches(self) -> None:
        sizes: list[Column] = [np.zeros((size, 3)) for size in (0, 2, 0, 1)]

        assert [len(batch) for batch in from_batches(sizes).batches()] == [0, 2, 0, 1]

    def test_batches_do_not_change_when_the_giver_uses_its_memory_again(self) -> None:
        memory = np.zeros(2)

        def fills() -> Iterator[Any]:
            for number in range(2):
                memory[:] = number
                yield memory

        assert [batch.tolist() for batch in from_batches(fills()).batches()] == [[0, 0], [1, 1]]  # type: ignore[union-attr]

    def test_an_iterable_that_raises_names_the_batch(self) -> None:
        def broken() -> Iterator[Any]:
            yield np.zeros(2)
            raise ValueError

        batches = from_batches(broken()).batches()
        next(batches)
        with pytest.raises(InputError, match="rows of broken: batch 1 did not come: ValueError"):
            next(batches)


def test_a_row_that_does_not_fit_is_marked_where_rows_may_fail() -> None:
    rows = [np.float32(0), np.float32(1), np.int32(2), "three", np.float32(4)]
    batches = list(from_rows(rows, batch_rows=2).marked_batches())

    assert [sorted(unfed_of(batch)) for batch in batches] == [[], [0, 1], []]
    assert "row 2: is int32, earlier ones are float32" in unfed_of(batches[1])[0]
    np.testing.assert_array_equal(np.concatenate([plain(batch) for batch in batches]), [0, 1, 1, 1, 4])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="row 0: holds a NoneType"):
        list(from_rows([["a", None], "b"]).marked_batches())
