"""The choice of an executor: by speed, memory and precision, with a note for people."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

import tasks.preparation.candidates
import tasks.preparation.choice
from tasks.executors.operation_table import RUNTIMES
from tasks.preparation.candidates import candidates
from tasks.preparation.choice import LARGE_BATCH_BYTES, batch_note, choose, choose_without_tensorflow
from tasks.protocol.records import TensorSpec
from tasks.snapshots.record import Snapshot, Trial, Trials
from worker_config.manifest import ModelEntry

ENTRY = ModelEntry(path="m")
LOWER = ModelEntry(path="m", precision=["bfloat16"], calibration="rows.npy", tolerance=0.01)
GRAPH = Trial("graph", True, 0.100)


def chosen(entry: ModelEntry, *others: Trial, graph: Trial = GRAPH, rows: str = "generated", **memory: int) -> Any:
    memory = {"weight_bytes": 4 * 10**8, "children": 4, "available_bytes": 10**10, **memory}
    trial, note = choose(Trials([graph, *others], rows, 64), entry, **memory)
    assert "\n" not in note
    return trial.executor, note


def test_the_fastest_that_agrees() -> None:
    assert chosen(ENTRY, Trial("frozen", True, 0.080), Trial("tflite", True, 0.050)) == ("tflite", "")
    assert chosen(ENTRY, Trial("frozen", True, 0.080), Trial("tflite", False, 0.050)) == ("frozen", "")
    assert chosen(ENTRY, Trial("frozen", True, 0.097)) == ("graph", "")
    assert chosen(ENTRY, Trial("bfloat16", True, 0.010)) == ("graph", "")  # nobody asked for it
    assert chosen(ENTRY, Trial("of another version", True, 0.010)) == ("graph", "")


def test_copies_only_where_memory_allows() -> None:
    copy = Trial("openvino", True, 0.050, 2 * 10**9, copies_weights=True)
    xla = Trial("xla", True, 0.080, 2 * 10**9)
    assert chosen(ENTRY, copy, available_bytes=16 * 10**9)[0] == "openvino"
    executor, note = chosen(ENTRY, copy, xla, available_bytes=15 * 10**9)
    assert executor == "xla"
    assert "openvino would be 2.0 times as fast" in note
    assert "4 copies of 2.0 GB are more than half of the 15.0 GB free" in note
    assert chosen(ENTRY, copy, children=1)[0] == "openvino"


def without_tensorflow(*others: Trial, entry: ModelEntry = ENTRY, **options: Any) -> Any:
    elsewhere = [Trials([GRAPH, *options.pop("elsewhere", ())], "generated")]
    trial, note = choose_without_tensorflow(Trials([GRAPH, *others], "generated"), elsewhere, entry, **options)
    return trial and trial.executor, note


def test_without_tensorflow_the_fastest_that_does_without_and_is_proven() -> None:
    tflite, openvino = Trial("tflite", True, 0.3), Trial("openvino", True, 0.2, 10**9, copies_weights=True)
    frozen, xla = Trial("frozen", True, 0.01), Trial("xla", True, 0.01)
    assert without_tensorflow(frozen, xla, tflite) == ("tflite", "")  # though the own graph is faster
    assert without_tensorflow(tflite, openvino)[0] == "openvino"
    assert without_tensorflow(tflite, msgspec.structs.replace(openvino, batch_seconds=0.29))[0] == "tflite"
    assert without_tensorflow(tflite, openvino, room_bytes=10**9 - 1)[0] == "tflite"
    assert without_tensorflow(openvino, room_bytes=10**9 - 1)[0] == "openvino"
    unproven = msgspec.structs.replace(openvino, unproven=["Erf/float"])
    assert without_tensorflow(tflite, unproven)[0] == "tflite"
    assert without_tensorflow(tflite, Trial("int8", True, 0.1))[0] == "tflite"  # nobody asked for it


def test_without_tensorflow_it_is_told_which_rows_fail_and_why_nothing_runs_a_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for limits in ({"limit": 1000.0}, {"tiny": False}):
        executor, note = without_tensorflow(Trial("tflite", True, 0.3, **limits))
        assert (executor, "rows that are not for tflite fail" in note) == ("tflite", True)
    refused, unproven = Trial("tflite", False, why="differs by 3"), Trial("openvino", True, 0.1, unproven=["A", "B"])
    executor, note = without_tensorflow(refused, unproven)
    assert executor is None
    assert "tflite differs by 3; openvino is unproven for A, B with openvino " in note
    monkeypatch.setattr(tasks.preparation.choice, "installed", lambda package: "")
    executor, note = without_tensorflow(elsewhere=[Trial("openvino", True, 0.1), Trial("tflite", False)])
    assert executor is None
    assert "openvino, by which it could be run, is not installed; pip install 'celeriac[openvino]'" in note
    assert "tflite" not in note
    assert "no other executor" in without_tensorflow()[1]


def test_a_batch_that_takes_much_memory_is_told() -> None:
    weights, of_batch = 4 * 10**8, LARGE_BATCH_BYTES
    note = "a batch of 64 rows takes 537 MB in each child; with a smaller batch_rows it takes less"
    assert batch_note(Trial("graph", True, 0.1, of_batch), weights, 64) == note
    assert batch_note(Trial("graph", True, 0.1, of_batch // 2, peak_bytes=of_batch // 2), weights, 64) == note
    assert batch_note(Trial("openvino", True, 0.1, weights + of_batch, copies_weights=True), weights, 64) == note
    assert batch_note(Trial("openvino", True, 0.1, weights + of_batch - 1, copies_weights=True), weights, 64) == ""
    assert batch_note(Trial("graph", True, 0.1, of_batch), weights, 1) == ""


def test_memory_preferred() -> None:
    entry = ModelEntry(path="m", prefer="memory")
    tflite, xla = Trial("tflite", True, 0.01), Trial("xla", True, 0.08)
    assert chosen(entry, tflite, xla) == ("tflite", "")
    assert chosen(entry, msgspec.structs.replace(tflite, copies_weights=True), xla) == ("xla", "")
    lower = msgspec.structs.replace(LOWER, prefer="memory")
    copy = Trial("openvino_bfloat16", True, 0.001, copies_weights=True)
    assert chosen(lower, copy) == (
        "graph",
        'bfloat16 needs a copy of the weights in each child, and prefer is "memory": float32 is used',
    )


def test_a_lower_precision_that_was_asked_for() -> None:
    frozen = Trial("frozen", True, 0.090)
    assert chosen(LOWER, frozen, Trial("bfloat16", True, 0.05, 1, 0.005)) == ("bfloat16", "")
    why = "deviates by 0.031 of the outputs' spread, 0.01 is allowed"
    assert chosen(LOWER, frozen, Trial("bfloat16", False, why=why)) == ("frozen", f"bfloat16 {why}: float32 is used")
    executor, note = chosen(LOWER, frozen, Trial("bfloat16", True, 0.089))
    assert executor == "frozen"
    assert note == "bfloat16 is not faster by 10% here (89 ms a batch, frozen 90 ms): float32 is used"
    assert chosen(LOWER, Trial("bfloat16", False, why="ValueError: no"))[1].startswith("bfloat16 cannot be used (Value")
    assert "not tried" in chosen(LOWER)[1]


def test_what_a_runtime_lacks_is_told_in_one_line() -> None:
    lacking = Trial("tflite", False, why="it has no operation for BesselI0e, Igamma")
    openvino = Trial("openvino", False, why="it has no operation for Igamma")
    other = Trial("xla", False, why="the output deviates by 2 of its size")
    note = "tflite has no operation for BesselI0e, Igamma; openvino has no operation for Igamma"
    assert chosen(ENTRY, lacking, openvino, other) == ("graph", note)
    lower = Trial("int8", False, why=lacking.why)
    assert chosen(ENTRY, lacking, lower)[1] == "tflite has no operation for BesselI0e, Igamma"


def test_of_several_executors_of_a_precision_the_fastest_that_agrees() -> None:
    one, other = Trial("bfloat16", True, 0.05), Trial("openvino_bfloat16", True, 0.03)
    assert chosen(LOWER, one, other) == ("openvino_bfloat16", "")
    assert chosen(ENTRY, one, other) == ("graph", "")
    wrong = Trial("bfloat16", False, why="deviates by 1")
    assert chosen(LOWER, wrong, other) == ("openvino_bfloat16", "")
    assert chosen(LOWER, wrong, Trial("openvino_bfloat16", True, 0.2))[1].startswith("bfloat16 is not faster by 10%")


def test_the_graph_where_nothing_can_be_compared() -> None:
    graph = Trial("graph", True, 0.1, why="the output is the same for all rows")
    executor, note = chosen(ENTRY, Trial("tflite", True, 0.01), graph=graph, rows="")
    assert executor == "graph"
    assert note == "the model's own graph is used: the output is the same for all rows"
    graph = Trial("graph", False, 0.1, why="the output deviates")
    assert "does not agree with itself" in chosen(ENTRY, Trial("tflite", True, 0.01), graph=graph)[1]


def snapshot(shape: tuple[int | None, ...] = (None, 4), dtype: str = "float32", weight_bytes: int = 9) -> Snapshot:
    inputs, outputs = [TensorSpec("x", dtype, shape)], [TensorSpec("y", "float32", (None, 2))]
    return Snapshot(1, "mapped", "d", "2", ENTRY, inputs, outputs, [], weight_bytes, {})


ALL = ["graph", "xla", "frozen", "tflite", "openvino"]


@pytest.mark.parametrize(
    ("of", "entry", "gpus", "names", "words"),
    [
        (snapshot(), ENTRY, 0, ALL, ""),
        (snapshot(), LOWER, 0, [*ALL, "bfloat16", "openvino_bfloat16"], ""),
        (snapshot(), LOWER, 1, ["graph", "xla", "frozen"], "GPU"),
        (snapshot(dtype="string"), ENTRY, 0, ["graph"], "strings"),
        (snapshot(shape=(None, None)), LOWER, 0, ["graph", "frozen"], "free"),
        (snapshot(weight_bytes=2 * 10**9), LOWER, 0, ["graph", "xla"], "2.0 GB"),
        (snapshot(), ModelEntry(path="m", prefer="memory"), 0, ALL[:-1], "memory is preferred"),
    ],
)
def test_candidates(
    of: Snapshot, entry: ModelEntry, gpus: int, names: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for have in (True, False):
        monkeypatch.setattr(tasks.preparation.candidates, "installed", lambda package, have=have: "1.0" if have else "")
        found, reasons = candidates(of, entry, gpus)
        assert found == [name for name in names if have or name not in RUNTIMES]
        assert not set(found) & set(reasons)
        assert all(words in why for why in reasons.values())
        if have:
            assert bool(reasons) == bool(words)


def test_what_executors_were_held_against_is_told() -> None:
    frozen = Trial("frozen", True, 0.05, rows=128)
    trials = Trials([GRAPH, frozen], "generated")
    memory = {"weight_bytes": 4 * 10**8, "children": 4, "available_bytes": 10**10}
    assert choose(trials, ENTRY, **memory)[1] == ""
    unknown = msgspec.structs.replace(trials, no_truth="it is too large", noise=2e-6)
    assert choose(unknown, ENTRY, **memory)[1] == (
        "executors were held against the own graph, which varies by 2e-06 of its size, and not against float64:"
        " it is too large"
    )
    left = msgspec.structs.replace(trials, left=["LRN"])
    assert choose(left, ENTRY, **memory)[1].endswith("held against float64 but for LRN, which TensorFlow has not")
    assert choose(unknown, ModelEntry(path="m", tolerance=0.01), **memory)[1].endswith("tolerance, 0.01 of the spread")
