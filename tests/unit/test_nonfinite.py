"""Rows that are not finite: found in what models take and give, counted once each, or failed where that is wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from tasks.child.loaded_model import LoadedModel
from tasks.child.model_runner import ModelRunner
from tasks.child.run_models import ChunkOutputs, ChunkRun
from tasks.models.batches import BatchSize
from tasks.models.nonfinite import NotFinite
from tasks.protocol.messages import ChunkMessage, FailureRecord, InlineRef, ModelRef, OnError, OnNonfinite
from tasks.protocol.records import ModelInfo, TensorSpec
from tasks.recovery.poison_rows import RowRange
from tasks.telemetry.stopwatch import Stopwatch

NAN, INF = float("nan"), float("inf")
FIRST = 100  # the chunk's rows are those from here on


def model(
    call: Callable[[np.ndarray], np.ndarray] = lambda x: x * 2,
    *,
    name: str = "m",
    dtype: str = "float32",
    preprocess: Any = None,
    postprocess: Any = None,
    drops: bool = False,
) -> LoadedModel:
    specs = [TensorSpec("x", dtype, (None,))]
    info = ModelInfo(name, "d", 4, specs, [TensorSpec("y", dtype, (None,))], 0.0, 0, drops_rows=drops)
    info = msgspec.structs.replace(info, preprocess="f:p" if preprocess else "")
    runner = ModelRunner(name, lambda arrays: {"y": call(arrays["x"])}, BatchSize(4))
    return LoadedModel(info, runner, preprocess, postprocess)


def step(function: Any, name: str = "s") -> LoadedModel:
    info = ModelInfo(name, "d", 4, [], [], 0.0, 0, preprocess="f:p")
    return LoadedModel(info, ModelRunner(name, lambda arrays: arrays, BatchSize(4)), function)


def run(
    rows: Any,
    *models: LoadedModel,
    on_error: OnError = "raise",
    on_nonfinite: OnNonfinite = "warn",
    steps: list[tuple[int, int]] | None = None,
) -> ChunkOutputs:
    stop = FIRST + len(rows)
    message = ChunkMessage(
        version=1,
        job="0" * 12,
        index=0,
        start=FIRST,
        stop=stop,
        chunks=1,
        models=[ModelRef(one.info.name, "d") for one in models],
        ref=InlineRef(b""),
        on_error=on_error,
        on_nonfinite=on_nonfinite,
    )
    todo = [RowRange(FIRST + a, FIRST + b, FIRST + b) for a, b in steps or [(0, len(rows))]]
    return ChunkRun(message, {one.info.name: one for one in models}, rows, Stopwatch()).run(todo, lambda _: None)


def rows_of(failed: list[FailureRecord]) -> list[int]:
    return [row - FIRST for record in failed for row in range(record.start, record.stop)]


@pytest.mark.parametrize("on_error", ["raise", "skip", "fill"])
@pytest.mark.parametrize("on_nonfinite", ["warn", "allow"])
@pytest.mark.parametrize("steps", [[(0, 6)], [(0, 2), (2, 4), (4, 6)]])
def test_rows_count_once_for_inputs_and_once_for_outputs(
    on_error: OnError, on_nonfinite: OnNonfinite, steps: list[tuple[int, int]]
) -> None:
    rows = np.array([0, NAN, 1, INF, 2, 3], np.float32)
    first, other = model(np.nan_to_num, name="a"), model(lambda x: np.where(x == 2, NAN, x * 0 + 1), name="b")
    with np.errstate(invalid="ignore"):
        assert run(rows, first, on_error=on_error, on_nonfinite=on_nonfinite, steps=steps).nonfinite == (2, 0)
        both = run(rows, first, other, on_error=on_error, on_nonfinite=on_nonfinite, steps=steps)
    assert both.nonfinite == (2, 3)
    assert not both.failed
    assert not both.failed_rows


@pytest.mark.parametrize(
    ("rows", "dtype"),
    [
        (np.arange(5), "int32"),
        (np.arange(5, dtype=np.uint8), "uint8"),
        (np.array(["nan", "inf", "a", "b", "c"], object), "string"),
        (np.arange(5.0), "float32"),
        (np.zeros(0, np.float32), "float32"),
    ],
)
def test_others_count_nothing(rows: np.ndarray, dtype: str) -> None:
    found = run(rows, model(lambda x: x, dtype=dtype), on_nonfinite="fail")
    assert (found.nonfinite, found.failed) == ((0, 0), [])


def test_what_a_preprocess_function_replaces_does_not_count() -> None:
    rows = np.array([NAN, 1, NAN], np.float32)
    assert run(rows, model(preprocess=np.nan_to_num), on_nonfinite="fail").nonfinite == (0, 0)
    assert run(rows, step(lambda rows: rows)).nonfinite == (0, 2)  # a step has no model: its outputs alone count


def test_a_nan_that_a_postprocess_function_hides_counts() -> None:
    rows = np.array([0, 1, 2], np.float32)
    hidden = model(lambda x: np.where(x == 1, NAN, x), postprocess=lambda y: np.nan_to_num(y).astype(np.int64))
    made = model(postprocess=lambda y: np.where(y == 4, INF, y))
    assert run(rows, hidden).nonfinite == (0, 1)
    assert run(rows, made).nonfinite == (0, 1)


def chain(*links: LoadedModel) -> LoadedModel:
    return LoadedModel(links[-1].info, ModelRunner("m", lambda arrays: arrays, BatchSize(4)), chain=links)


def test_of_a_chain_what_models_take_and_give_counts_and_what_steps_hand_on_does_not() -> None:
    rows = np.array([0, 1, 2, 3], np.float32)
    parse = step(lambda rows: np.where(rows == 1, NAN, rows))  # not known
    assert run(rows, chain(parse, model(preprocess=np.nan_to_num))).nonfinite == (0, 0)
    assert run(rows, chain(parse, model())).nonfinite == (1, 1)
    assert run(rows, chain(model(lambda x: np.where(x == 2, INF, x), name="a"), model(np.tanh))).nonfinite == (1, 1)
    assert run(rows, chain(model(), step(lambda rows: np.where(rows > 2, NAN, rows)))).nonfinite == (0, 2)
    left_out = step(lambda rows: [None if row == 0 else row for row in np.where(rows == 3, NAN, rows)])
    left_out = replace(left_out, info=msgspec.structs.replace(left_out.info, drops_rows=True))
    ran = run(rows, chain(left_out, model()), on_error="skip", on_nonfinite="fail")
    assert (ran.dropped, rows_of(ran.failed_rows)) == ([(FIRST, FIRST + 1)], [3])


def test_rows_of_uneven_shape() -> None:
    rows = [np.array([1.0]), np.array([NAN, 1.0]), np.array([INF]), np.array([2.0, 3.0])]
    uneven = model(lambda x: np.nan_to_num(x.reshape(len(x), -1)).min(axis=1))
    uneven.info.inputs[0] = TensorSpec("x", "float32", (None, None))
    assert run(rows, uneven).nonfinite == (2, 0)


def test_rows_that_were_dropped_or_have_failed_do_not_count() -> None:
    rows = np.array([NAN, INF, 1, NAN, 4], np.float32)

    def leave_out(rows: np.ndarray) -> list[Any]:
        return [None if np.isinf(row) else row for row in rows]

    def refuse(outputs: np.ndarray) -> np.ndarray:
        if (outputs == 8).any():
            raise ValueError("an eight")
        return outputs

    ran = run(rows, model(preprocess=leave_out, postprocess=refuse, drops=True), on_error="fill")
    assert (ran.dropped, rows_of(ran.failed_rows), ran.nonfinite) == ([(FIRST + 1, FIRST + 2)], [4], (2, 2))
    lost = run(
        rows,
        model(preprocess=leave_out, postprocess=refuse, drops=True),
        on_error="fill",
        on_nonfinite="fail",
    )
    assert (lost.dropped, rows_of(lost.failed_rows), lost.nonfinite) == ([(FIRST + 1, FIRST + 2)], [0, 3, 4], (0, 0))
    np.testing.assert_array_equal(lost.outputs["m"][[0, 2, 3]], [NAN, 2, NAN])


@pytest.mark.parametrize("on_error", ["skip", "fill"])
def test_with_fail_such_rows_cost_themselves_without_another_call(on_error: OnError) -> None:
    calls = []

    def call(x: np.ndarray) -> np.ndarray:
        calls.append(len(x))
        return np.where(x == 5, INF, np.nan_to_num(x))

    rows = np.array([0, NAN, 2, 3, 4, 5, INF, 7], np.float32)
    ran = run(rows, model(call), model(name="other"), on_error=on_error, on_nonfinite="fail")
    assert calls == [4, 4]
    assert rows_of(ran.failed_rows) == [1, 5, 6]
    assert ran.nonfinite == (0, 0)
    np.testing.assert_array_equal(ran.outputs["m"], [0, NAN, 2, 3, 4, NAN, NAN, 7])
    told = ran.failed_rows[0]
    assert (told.stage, told.type) == ("infer", "NonFiniteError")
    assert told.text == "model m: its input holds a NaN or an infinity (on_nonfinite is 'fail')"
    assert "its output" in ran.failed_rows[1].text


def test_a_chunk_all_of_whose_rows_fail_has_no_outputs() -> None:
    ran = run(np.full(3, NAN, np.float32), model(), on_error="skip", on_nonfinite="fail")
    assert (rows_of(ran.failed_rows), ran.outputs) == ([0, 1, 2], {})


def test_with_raise_the_first_row_is_named_and_one_of_several_models_fails_alone() -> None:
    rows = np.array([0, 1, 2, 3], np.float32)
    bad = model(lambda x: np.where(x >= 2, NAN, x), name="bad")
    alone = run(rows, bad, on_nonfinite="fail")
    assert [(one.start, one.stop, one.stage, one.type) for one in alone.failed] == [
        (FIRST + 2, FIRST + 3, "infer", "NonFiniteError")
    ]
    ran = run(rows, bad, model(name="good"), on_nonfinite="fail")
    assert [(one.start, one.model) for one in ran.failed] == [(FIRST + 2, "bad")]
    assert list(ran.outputs) == ["good"]
    assert ran.nonfinite == (0, 0)


@pytest.mark.parametrize("on_error", ["raise", "skip", "fill"])
@pytest.mark.parametrize(
    ("rows", "dtype", "text"),
    [
        (np.array([1.0, 2.0, 1e39, NAN, -1e300, 4.0, INF]), "float32", "holds 1e+39, which float32 cannot hold"),
        (np.array([1, 2, 2**31, 3, -(2**40), 5, 6]), "int32", "holds 2147483648, which int32 cannot hold"),
        (np.array([1, 2, 300, 3, -1, 5, 6]), "uint8", "holds 300, which uint8 cannot hold"),
    ],
)
def test_a_value_beyond_the_inputs_dtype_is_a_row_that_fails(
    rows: np.ndarray, dtype: str, text: str, on_error: OnError
) -> None:
    ran = run(rows, model(lambda x: x, dtype=dtype), on_error=on_error)
    failed = ran.failed if on_error == "raise" else ran.failed_rows
    assert rows_of(failed) == ([2] if on_error == "raise" else [2, 4])
    assert (failed[0].stage, failed[0].type) == ("infer", "OutOfRangeError")
    assert text in failed[0].text
    if on_error != "raise":
        good = [0, 1, 3, 5, 6]
        np.testing.assert_array_equal(ran.outputs["m"][good], rows[good].astype(dtype))
        assert ran.nonfinite == ((2, 2) if dtype == "float32" else (0, 0))  # those of the data set itself


def test_masks_are_made_only_where_there_is_something() -> None:
    found = NotFinite(3)
    found.look("inputs", [((), np.ones((3, 2)))], None, stage="infer", model="m")
    assert (found.inputs, found.outputs, found.any_of(None)) == (None, None, None)
    found.look("outputs", [(("a",), np.array([1.0, NAN]))], np.array([True, False, True]), stage="infer", model="m")
    assert found.outputs is not None
    assert found.outputs.tolist() == [False, False, True]
    assert found.first_of(2).what == "model m: output 'a'"
    assert found.any_of(np.array([True, True, False])) is None


@pytest.mark.parametrize(
    ("limit", "most", "rows"), [(98.5, 100, (99, 100)), (38.5, 100, (39, 40)), (-1, 100, (0, 100)), (100, 99, (0, 100))]
)
def test_a_model_that_raises_names_the_row_unless_any_row_or_none_by_itself_has_it_raise(
    limit: float, most: int, rows: tuple[int, int]
) -> None:
    calls: list[int] = []

    def raises(values: Any) -> Any:
        calls.append(len(values))
        if (values > limit).any() or len(values) > most:
            raise LookupError(f"{len(values)} rows")
        return values

    info = ModelInfo("m", "d", 128, [], [], 0.0, 0, function="f:f")
    runner = ModelRunner("m", lambda arrays: arrays, BatchSize(128))
    (record,) = run(np.arange(100.0), LoadedModel(info, runner, function=raises)).failed
    assert (record.start - FIRST, record.stop - FIRST, record.stage) == (*rows, "infer")
    assert f"{rows[1] - rows[0]} rows" in record.text
    assert len(calls) <= 1 + 7 + 2
