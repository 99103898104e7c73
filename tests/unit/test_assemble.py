"""The join: any order of arrival, with repeats, gives the rows once and in order."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from producer.rows.assemble import Join, ResultArrays
from producer.rows.part import OutputTree, Part
from producer.sinks import open_sink
from tests.parts import split
from tests.sink_outputs import READERS
from worker_config.errors import CeleriacError, MessageError


def outputs_of(data: OutputTree, start: int, stop: int) -> Any:
    if isinstance(data, dict):
        return {name: outputs_of(below, start, stop) for name, below in data.items()}
    return data[start:stop]


def parts_of(data: OutputTree, rows: int, chunk_rows: int) -> list[Part]:
    return [
        Part(chunk.index, chunk.start, chunk.stop, outputs_of(data, chunk.start, chunk.stop))
        for chunk in split(rows, chunk_rows)
    ]


def gathered(parts: list[Part], rows: int | None) -> Any:
    whole = ResultArrays(rows)
    for part in parts:
        whole.add(part)
    return whole.result()


def sunk(parts: list[Part], rows: int | None, folder: Path, suffix: str) -> Any:
    with open_sink(folder / f"out{suffix}", rows, force=True) as sink:
        for part in parts:
            sink.write(part)
        sink.commit()
    return next(iter(READERS[suffix](folder / f"out{suffix}").values()))


# The ways from the join to the whole output; some take parts in any order, and get them backwards.
GATHER: dict[str, Callable[[list[Part], int, Path], Any]] = {
    "memory": lambda parts, rows, _: gathered(parts, rows),
    "memory, rows unknown": lambda parts, _, __: gathered(parts, None),
    "memory, backwards": lambda parts, rows, _: gathered(parts[::-1], rows),
    ".npy": lambda parts, rows, folder: sunk(parts, rows, folder, ".npy"),
    ".npy, rows unknown": lambda parts, _, folder: sunk(parts, None, folder, ".npy"),
    ".npy, backwards": lambda parts, rows, folder: sunk(parts[::-1], rows, folder, ".npy"),
    ".npz, backwards": lambda parts, rows, folder: sunk(parts[::-1], rows, folder, ".npz"),
    ".zarr, rows unknown": lambda parts, _, folder: sunk(parts, None, folder, ".zarr"),
}
ENDS = list(GATHER)


@given(
    rows=st.integers(0, 100),
    chunk_rows=st.integers(1, 110),
    known=st.booleans(),
    dtype=st.sampled_from(["float32", "int64", "bool", "complex64", "object"]),
    row_shape=st.sampled_from([(), (3,), (2, 2), (0,)]),
)
def test_splitting_then_joining_is_the_identity(
    rows: int, chunk_rows: int, known: bool, dtype: str, row_shape: tuple[int, ...]
) -> None:
    data = np.arange(rows * int(np.prod(row_shape))).reshape(rows, *row_shape).astype(dtype)

    whole = gathered(parts_of(data, rows, chunk_rows), rows if known else None)

    np.testing.assert_array_equal(whole, data)
    assert whole.dtype == data.dtype
    assert whole.shape == data.shape


@given(data=st.data(), rows=st.integers(0, 40), chunk_rows=st.integers(1, 10))
def test_any_order_of_arrival_with_repeats_gives_the_same_answer(
    data: st.DataObject, rows: int, chunk_rows: int
) -> None:
    expected = np.arange(rows, dtype=np.float32)
    once = data.draw(st.permutations(parts_of(expected, rows, chunk_rows)))
    repeats = data.draw(st.lists(st.sampled_from(once)))
    arrivals = data.draw(st.permutations([*once, *repeats]))
    join, whole, order = Join(), ResultArrays(rows), []

    seen: set[int] = set()
    for part in arrivals:
        new = join.add(part)
        assert new == (part.index not in seen)
        seen.add(part.index)
        for ready in join.pop_ready():
            order.append(ready.index)
            whole.add(ready)
        assert join.waiting == len(seen) - len(order)

    np.testing.assert_array_equal(whole.result(), expected)
    assert order == list(range(len(once)))
    assert join.duplicates == len(repeats)
    assert (join.waiting, join.next_index) == (0, len(once))


@given(data=st.data(), rows=st.integers(1, 40), chunk_rows=st.integers(1, 10), known=st.booleans())
def test_parts_are_gathered_in_any_order(data: st.DataObject, rows: int, chunk_rows: int, known: bool) -> None:
    expected = np.arange(rows)
    parts = data.draw(st.permutations(parts_of(expected, rows, chunk_rows)))

    np.testing.assert_array_equal(gathered(parts, rows if known else None), expected)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(data=st.data(), cuts=st.lists(st.integers(0, 60), max_size=12), end=st.sampled_from(ENDS))
def test_any_split_in_any_order_with_any_duplicates_joins_to_the_identity(
    tmp_path: Path, data: st.DataObject, cuts: list[int], end: str
) -> None:
    bounds = [0, *sorted(cuts)]  # chunks of any size, also of none
    rows = bounds[-1]
    expected = np.random.default_rng(rows).random((rows, 3), np.float32)
    chunks = [(index, start, stop) for index, (start, stop) in enumerate(pairwise(bounds))] or [(0, 0, 0)]
    arrivals = data.draw(st.permutations([*chunks, *data.draw(st.lists(st.sampled_from(chunks), max_size=9))]))
    join, parts, came = Join(), [], set()
    for index, start, stop in arrivals:
        # The first answer counts: what a duplicate holds is never looked at.
        outputs = expected[start:stop] if index not in came else np.zeros(0)
        assert join.add(Part(index, start, stop, outputs)) == (index not in came)
        came.add(index)
        parts += join.pop_ready()
    assert join.duplicates == len(arrivals) - len(chunks)

    whole = GATHER[end](parts, rows, tmp_path)

    assert (whole.shape, whole.dtype) == ((rows, 3), np.float32)
    np.testing.assert_array_equal(whole, expected)


def test_parts_that_came_too_early_are_held_back() -> None:
    join = Join()
    second, first = np.array([2]), np.array([1])

    assert join.add(Part(1, 1, 2, second))
    assert join.pop_ready() == []
    assert join.waiting == 1
    assert join.add(Part(0, 0, 1, first))
    assert join.pop_ready() == [Part(0, 0, 1, first), Part(1, 1, 2, second)]
    assert join.pop_ready() == []


def test_an_answer_counts_once_whether_held_or_released() -> None:
    join = Join()
    join.add(Part(0, 0, 1, np.array([1])))

    assert not join.add(Part(0, 0, 1, np.array([9])))
    assert join.pop_ready()[0].outputs == np.array([1])
    assert not join.add(Part(0, 0, 1, np.array([9])))
    assert join.duplicates == 2


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (np.zeros((2, 3)), r"chunk 4 \(rows 12-15\): the output has the shape \(2, 3\), it must have 3 rows"),
        ({"m": {"y": np.zeros(4)}}, "output 'm/y' has the shape"),
        (np.float32(1), "is a float32, it must be an array"),
        (np.array(1), "has the shape"),
        ({}, "an empty dict"),
        ({"m": {}}, "output 'm' is an empty dict"),
        ({"m": [1, 2, 3]}, "output 'm' is a list"),
        ({1: np.zeros(3)}, "strings as names"),
        (None, "NoneType"),
    ],
)
def test_outputs_that_are_not_one_row_for_each_row_are_refused(outputs: Any, message: str) -> None:
    join = Join()

    with pytest.raises(MessageError, match=message):
        join.add(Part(4, 12, 15, outputs))
    assert join.waiting == 0


@pytest.mark.parametrize("rows", [6, None])
@pytest.mark.parametrize("names", [("a", "b"), (("m", "x"), ("m", "y"), ("n", "x"))])
def test_the_result_has_the_form_of_the_parts(rows: int | None, names: tuple[Any, ...]) -> None:
    data: dict[str, Any] = {}
    for number, name in enumerate(names):
        array = np.full((6, number + 1), number, np.int16)
        if isinstance(name, tuple):
            data.setdefault(name[0], {})[name[1]] = array
        else:
            data[name] = array

    whole = gathered(parts_of(data, 6, 4), rows)

    np.testing.assert_equal(whole, data)


@pytest.mark.parametrize("rows", [0, None])
def test_zero_rows_keep_dtype_and_row_shape(rows: int | None) -> None:
    whole = gathered([Part(0, 0, 0, {"y": np.empty((0, 10), np.float16)})], rows)

    assert whole["y"].shape == (0, 10)
    assert whole["y"].dtype == np.float16


@pytest.mark.parametrize("rows", [0, None])
def test_no_part_at_all_gives_an_empty_array(rows: int | None) -> None:
    assert gathered([], rows).shape == (0,)


@pytest.mark.parametrize("rows", [3, None])
def test_strings_and_bfloat16_are_gathered(rows: int | None) -> None:
    data = {"text": np.array(["a", b"b", "longer"], object), "score": np.arange(3).astype(ml_dtypes.bfloat16)}

    np.testing.assert_equal(gathered(parts_of(data, 3, 2), rows), data)


def test_missing_rows_are_never_returned() -> None:
    with pytest.raises(CeleriacError, match="2 of 3 rows"):
        gathered(parts_of(np.arange(3), 3, 2)[:1], 3)


@pytest.mark.parametrize("rows", [7, None])
def test_rows_before_the_first_one_are_left_out(rows: int | None) -> None:
    expected = np.arange(7)
    whole = ResultArrays(rows, first_row=3)
    for part in [Part(1, 5, 7, expected[5:]), Part(0, 3, 5, expected[3:5])]:
        whole.add(part)

    np.testing.assert_array_equal(whole.result(), expected[3:])


def test_a_part_before_the_first_row_is_refused() -> None:
    with pytest.raises(MessageError, match=r"chunk 0 \(rows 2-4\) lies outside the rows of the data set, \[3, 7\)"):
        ResultArrays(7, first_row=3).add(Part(0, 2, 4, np.zeros(2)))


def test_a_part_outside_the_rows_is_refused() -> None:
    with pytest.raises(MessageError, match=r"chunk 1 \(rows 2-4\) lies outside"):
        gathered([Part(1, 2, 4, np.zeros(2))], 3)


@pytest.mark.parametrize("rows", [4, None])
@pytest.mark.parametrize(
    ("second", "message"),
    [
        (np.zeros((2, 4), np.float32), r"chunk 1 .*float32 \(4,\), earlier ones had float32 \(3,\)"),
        (np.zeros((2, 3), np.float64), r"chunk 1 .*float64 \(3,\), earlier ones had float32 \(3,\)"),
        ({"y": np.zeros((2, 3), np.float32)}, r"has the outputs y, earlier ones had \(one array\)"),
    ],
)
def test_a_part_unlike_the_first_one_is_refused(rows: int | None, second: Any, message: str) -> None:
    first = Part(0, 0, 2, np.zeros((2, 3), np.float32))

    with pytest.raises(MessageError, match=message):
        gathered([first, Part(1, 2, 4, second)], rows)


@pytest.mark.parametrize("rows", [6, None])
@pytest.mark.parametrize("placed", [0, 1, 2, 3])
def test_parts_that_are_at_their_place_already_stay_there(rows: int | None, placed: int) -> None:
    whole = ResultArrays(rows)
    scratch = np.empty((2, 3))  # as memory that is read into again and again
    parts = []
    for index in range(3):
        scratch[...] = index
        part = Part(index, 2 * index, 2 * index + 2, {"a": scratch if index < placed else scratch.copy()})
        parts.append(whole.place(part) if index < placed else part)
    scratch[...] = -1
    for part in parts:
        whole.add(part)
    result = whole.result()
    assert isinstance(result, dict)
    np.testing.assert_array_equal(result["a"], np.repeat([[0.0] * 3, [1.0] * 3, [2.0] * 3], 2, axis=0))


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.complex64, bool])
def test_there_is_room_for_bytes_when_the_outputs_are_known(dtype: type) -> None:
    whole = ResultArrays(6, first_row=2)
    assert whole.room(2, 4) is None
    whole.add(Part(0, 2, 4, {"a": np.ones((2, 3), dtype)}))
    room = whole.room(4, 6)
    if dtype is bool:  # a byte that is neither 0 nor 1 must be looked at
        assert room is None
        return
    assert isinstance(room, dict)
    room["a"][...] = 5
    whole.add(Part(1, 4, 6, room))
    result = whole.result()
    assert isinstance(result, dict)
    np.testing.assert_array_equal(result["a"], np.repeat([[1] * 3, [5] * 3], 2, axis=0))
    assert ResultArrays(None).room(0, 1) is None


@given(data=st.data(), rows=st.integers(1, 30), chunk_rows=st.integers(1, 7), known=st.booleans())
def test_a_model_that_is_left_out_at_any_time_leaves_the_others_whole(
    data: st.DataObject, rows: int, chunk_rows: int, known: bool
) -> None:
    whole = {"a": np.arange(rows), "b": {"x": np.arange(rows) * 2.0, "y": np.ones((rows, 2))}, "c": np.arange(rows) + 5}
    parts = data.draw(st.permutations(parts_of(whole, rows, chunk_rows)))
    # Left out before this part; parts before it may lack the model only if it was left out by then.
    times = {name: data.draw(st.integers(0, len(parts))) for name in ("b", "c")}
    left_out: set[str] = set()
    result = ResultArrays(rows if known else None, without=left_out)
    for number, part in enumerate(parts):
        left_out |= {name for name, time in times.items() if time <= number}
        lacking = data.draw(st.sets(st.sampled_from(sorted(left_out)))) if left_out else set()
        part = part.without(lacking)
        placed = data.draw(st.sampled_from(["placed", "read", "as it is"]))
        if placed == "placed":
            part = result.place(part)
        elif placed == "read" and (room := result.room(part.start, part.stop)) is not None:
            assert isinstance(room, dict)
            assert room.keys() == whole.keys() - left_out
            for name, array in room.items():
                for key, column in array.items() if isinstance(array, dict) else [("", array)]:
                    column[...] = part.outputs[name][key] if key else part.outputs[name]  # type: ignore[index]
            part = Part(part.index, part.start, part.stop, room)
        # It may come to light between the two.
        left_out |= {name for name, time in times.items() if time <= number + data.draw(st.integers(0, 1))}
        result.add(part)
    left_out |= data.draw(st.sets(st.sampled_from(["b", "c"])))

    np.testing.assert_equal(result.result(), {name: tree for name, tree in whole.items() if name not in left_out})


def test_a_part_that_lacks_a_model_which_has_not_failed_is_refused() -> None:
    result = ResultArrays(4, without=set())
    result.add(Part(0, 0, 2, {"a": np.zeros(2), "b": np.zeros(2)}))
    with pytest.raises(MessageError, match=r"chunk 1 .*has the outputs a, earlier ones had a, b"):
        result.add(Part(1, 2, 4, {"a": np.zeros(2)}))
