"""Executors on real models: each agrees with the plain model or is refused, and mapped weights are shared."""

from __future__ import annotations

import gc
import math
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tasks.child.load_model import load_model
from tasks.executors import EXECUTORS, Executor, openvino_ir, tflite
from tasks.executors.operation_table import RUNTIMES
from tasks.models.batches import in_batches
from tasks.models.finite import EXACT
from tasks.models.memory import give_back
from tasks.models.program import Program, plain_call
from tasks.preparation import benchmark, call_sizes
from tasks.preparation.benchmark import private_bytes, try_executor
from tasks.preparation.candidates import candidates
from tasks.preparation.reference import GateRows, gate_rows
from tasks.preparation.serving_spec import ServingSpec
from tasks.protocol.records import TensorSpec
from tasks.snapshots.installed import installed
from tasks.snapshots.record import Snapshot, Trial
from tests.forms import LONG
from tests.models import keras_may_warn
from tests.snapshots import keras_program, write_snapshot
from worker_config.errors import ModelLoadError
from worker_config.manifest import ModelEntry

BATCH = 16
KINDS = ["conv", "mlp", "lstm", "pair", "pixels", "flag", "words", "many"]
# What TFLite cannot do with a loop over a list of tensors, it must say.
MAY_FAIL = {("pair", "xla"), ("pair", "openvino"), ("lstm", "tflite")}


# Without those that are not installed.
HERE = [name for name in EXECUTORS if name not in RUNTIMES or installed(RUNTIMES[name])]
FLOAT32 = [name for name in HERE if EXECUTORS[name].precision == "float32"]


@dataclass
class Case:
    folder: Path
    program: Program
    snapshot: Snapshot
    reporter: GateRows

    def run(self, name: str, snapshot: Snapshot | None = None) -> Trial:
        return try_executor(name, self.folder, snapshot or self.snapshot, BATCH, 1, self.reporter)


@pytest.fixture(autouse=True)
def warnings_of_keras() -> Iterator[None]:
    with keras_may_warn():
        yield


@pytest.fixture(scope="module", autouse=True)
def frozen_heap() -> Iterator[None]:
    """A trial collects garbage, in a process of its own of a small heap."""
    import tensorflow  # noqa: F401

    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    import keras

    keras.utils.set_random_seed(3)
    cases = {}
    with keras_may_warn():
        for name in KINDS:
            folder = tmp_path_factory.mktemp(name)
            made = globals()[f"_{name}"]()
            program = made if isinstance(made, Program) else keras_program(folder / "model.keras", made)
            entry = ModelEntry(path="m", batch_rows=BATCH)
            snapshot = write_snapshot(folder, program, entry)
            cases[name] = Case(folder, program, snapshot, _reporter(program, entry, folder))
    return cases


def loaded(folder: Path, snapshot: Snapshot, name: str, batch_rows: int = BATCH, rows: Sequence[Any] = ()) -> Any:
    """A call of an executor that was built for `BATCH` rows, and by these."""
    executor = EXECUTORS[name]
    if executor.build:
        executor.build(folder, snapshot, BATCH, list(rows))
    return executor.load(folder, snapshot, batch_rows, 1)


def _reporter(program: Program, entry: ModelEntry, folder: Path) -> GateRows:
    if program.inputs[0].dtype == "string":
        rows: list[Any] = [np.array([b"a" * number for number in range(40)], object)]
        return GateRows("words", rows, in_batches(plain_call(program), rows, BATCH))
    return gate_rows(plain_call(program), program.inputs, entry, BATCH)


def _conv() -> Any:
    import keras
    from keras import layers

    pixels = keras.Input((24, 24, 3))
    hidden = layers.Conv2D(16, 3, padding="same", use_bias=False)(pixels)
    hidden = layers.ReLU()(layers.BatchNormalization(name="norm")(hidden))
    hidden = layers.GlobalAveragePooling2D()(layers.DepthwiseConv2D(3)(hidden))
    model = keras.Model(pixels, layers.Dense(10, activation="softmax")(hidden))
    random = np.random.default_rng(7)
    model.get_layer("norm").set_weights([random.uniform(0.5, 2, 16) for _ in range(4)])
    return model


def _mlp() -> Any:
    import keras
    from keras import layers

    return keras.Sequential([keras.Input((64,)), layers.Dense(256, activation="relu"), layers.Dense(10)])


def _lstm() -> Any:
    import keras
    from keras import layers

    return keras.Sequential([keras.Input((12, 8)), layers.Bidirectional(layers.LSTM(16)), layers.Dense(3)])


def _pair() -> Any:
    """Indices below 10: rows of larger ones are an error, and the next candidate is taken."""
    import keras
    from keras import layers

    left, right = keras.Input((4,), name="left"), keras.Input((3,), name="right", dtype="int32")
    embedded = layers.Flatten()(layers.Embedding(10, 2)(right))
    both = layers.Concatenate()([layers.Dense(5)(left), embedded])
    return keras.Model([left, right], [layers.Dense(6)(both), layers.Dense(1)(embedded)])


def _pixels() -> Any:
    import keras
    from keras import layers

    pixels = keras.Input((8, 8, 1), dtype="uint8")
    hidden = layers.Conv2D(4, 3, activation="relu")(layers.Rescaling(1 / 255)(pixels))
    return keras.Model(pixels, layers.Dense(3)(layers.Flatten()(hidden)))


def _flag() -> Program:
    """A bool, an index, and an input that nothing reads."""
    import tensorflow as tf

    matrix = tf.Variable(tf.random.stateless_normal([6, 4], [1, 2]))

    def run(tensors: Any) -> list[Any]:
        scores = tf.matmul(tensors[0], matrix)
        return [scores > 0, tf.argmax(scores, axis=1), scores]

    inputs = [TensorSpec("x", "float32", (None, 6)), TensorSpec("unread", "float32", (None, 2))]
    outputs = [
        TensorSpec("positive", "bool", (None, 4)),
        TensorSpec("best", "int64", (None,)),
        TensorSpec("scores", "float32", (None, 4)),
    ]
    return Program(inputs, outputs, run=run, variables=[matrix])


def _words() -> Program:
    import tensorflow as tf

    def run(tensors: Any) -> list[Any]:
        return [tf.strings.length(tensors[0])]

    return Program([TensorSpec("w", "string", (None,))], [TensorSpec("length", "int32", (None,))], run=run)


def _many() -> Program:
    """More than ten outputs: their names are not in their order."""
    import tensorflow as tf

    scale = tf.Variable(2.0)

    def run(tensors: Any) -> list[Any]:
        return [scale * tensors[0] + float(number) for number in range(12)]

    inputs = [TensorSpec("x", "float32", (None, 3))]
    return Program(inputs, [TensorSpec(f"y{n}", "float32", (None, 3)) for n in range(12)], run=run, variables=[scale])


@pytest.mark.parametrize("kind", KINDS)
def test_every_candidate_agrees_with_the_plain_model(cases: dict[str, Case], kind: str) -> None:
    case = cases[kind]
    assert not case.reporter.why
    names, reasons = candidates(case.snapshot, case.snapshot.entry, 0)
    assert (names == ["graph"]) == (kind == "words")
    assert all(re.search("strings|does not give what the model gives", why) for why in reasons.values())
    for name in names:
        found = case.run(name)
        if (kind, name) in MAY_FAIL and not found.agrees:
            assert re.match(
                r"ConverterError: .+|it does not give what the model gives for .+|.* it takes a row", found.why
            )
            continue
        assert (found.agrees, found.why) == (True, ""), name
        assert found.batch_seconds > 0


@pytest.mark.parametrize("kind", ["conv", "pair", "flag"])
def test_any_number_of_rows(cases: dict[str, Case], kind: str) -> None:
    case = cases[kind]
    for name in FLOAT32:
        if (kind, name) in MAY_FAIL:
            continue
        call = loaded(case.folder, case.snapshot, name)
        for rows in (BATCH, 3, 1, 20, BATCH):
            outputs = call([array[:rows] for array in case.reporter.rows])
            for wanted, output in zip(case.reporter.reference, outputs, strict=True):
                np.testing.assert_allclose(output, wanted[:rows], rtol=1e-4, atol=1e-5)
        first = call([array[:BATCH] for array in case.reporter.rows])
        kept = [array.copy() for array in first]
        call([array[BATCH:] for array in case.reporter.rows])  # must not change what it gave before
        assert all(np.array_equal(a, b) for a, b in zip(first, kept, strict=True))
        strided = call([np.repeat(array, 2, axis=0)[::2][:BATCH] for array in case.reporter.rows])
        assert all(np.array_equal(a, b) for a, b in zip(strided, kept, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_is_the_plain_model_to_the_bit(cases: dict[str, Case], kind: str) -> None:
    case = cases[kind]
    call = EXECUTORS["graph"].load(case.folder, case.snapshot, BATCH, 1)
    outputs = in_batches(call, case.reporter.rows, BATCH)
    assert all(np.array_equal(a, b) for a, b in zip(outputs, case.reporter.reference, strict=True))


@pytest.mark.parametrize("name", [name for name in HERE if name not in FLOAT32])
def test_lower_precision_passes_a_tolerance_or_says_what_it_is_off_by(cases: dict[str, Case], name: str) -> None:
    case = cases["mlp"]

    def tried(**asked: float) -> Trial:
        entry = msgspec.structs.replace(case.snapshot.entry, **asked)
        return case.run(name, msgspec.structs.replace(case.snapshot, entry=entry))

    refused = tried(tolerance=1e-5)
    if re.search("not compute|nothing in the model", refused.why):
        pytest.skip("this processor has no bfloat16")
    assert not refused.agrees
    assert re.match(r"deviates by [\d.e-]+ of the outputs' spread on 32 rows, 1e-05 is allowed", refused.why)
    passed = tried(tolerance=0.5, agreement=0.5)
    assert passed.agrees
    assert 1e-5 < passed.error < 0.5
    assert passed.agreement is not None


def test_lower_precision_does_not_reach_other_models(cases: dict[str, Case]) -> None:
    cases["mlp"].run("bfloat16")
    found = cases["conv"].run("frozen")
    assert found.error < 1e-4


def test_a_wrong_executor_is_refused_in_one_line(cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch) -> None:
    case = cases["mlp"]

    def gives(value: Any) -> Any:
        def load(folder: Path, snapshot: Snapshot, batch_rows: int, threads: int) -> Any:
            if isinstance(value, Exception):
                raise value
            return lambda arrays: [np.full((len(arrays[0]), 10), value, np.float32)]

        return Executor(mapped="", precision="float32", build=None, load=load)

    for value, words in ((np.nan, "not finite"), (0.5, "deviates"), (RuntimeError("a\nb"), "RuntimeError: a")):
        monkeypatch.setitem(EXECUTORS, "wrong", gives(value))
        found = case.run("wrong")
        assert not found.agrees
        assert words in found.why
        assert "\n" not in found.why


def test_an_executor_that_compiles_for_too_long_is_dropped(
    cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "FIRST_CALL_SECONDS", 0.0)
    assert "first call takes" in cases["mlp"].run("xla").why
    assert cases["mlp"].run("graph").agrees


def test_an_untrained_model_proves_nothing(tmp_path: Path) -> None:
    import keras

    model = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None)
    program = keras_program(tmp_path / "model.keras", model)
    found = gate_rows(plain_call(program), program.inputs, ModelEntry(path="m"), 4)
    assert not found.reference
    assert re.search("same for all rows|no more than rounding", found.why)


@pytest.mark.parametrize(("kind", "names"), [("conv", ""), ("pair", ""), ("mlp", "xla int8")])
def test_smaller_batches_pass_the_gate(
    cases: dict[str, Case], kind: str, names: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_sizes, "WORTH_IT", math.inf)
    # TFLite would fill a batch instead, were it not to take fewer rows; flattening is in one of the models.
    monkeypatch.setattr(tflite, "in_batches", lambda call, arrays, rows: pytest.fail(f"{len(arrays[0])} rows"))
    case = cases[kind]
    snapshot = msgspec.structs.replace(case.snapshot, entry=msgspec.structs.replace(case.snapshot.entry, tolerance=0.5))
    for name in (*(name for name in FLOAT32 if name != "xla"), *names.split()):
        if (kind, name) in MAY_FAIL:
            continue
        found = case.run(name, snapshot)
        assert (found.why, list(found.small_batches)) == ("", [8, 1]), name
        assert all(seconds > 0 for seconds in found.small_batches.values())


def test_a_smaller_batch_that_is_wrong_or_not_worth_it_is_not_taken(
    cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    case, graph = cases["mlp"], EXECUTORS["graph"]

    def doubling_of(least: float) -> Any:
        """An executor that is wrong with one row, where it has as large a number."""

        def load(*given: Any) -> Any:
            call = graph.load(*given)

            def other(arrays: Any) -> Any:
                is_wrong = len(arrays[0]) == 1 and np.abs(arrays[0]).max() >= least
                return [output * 2 if is_wrong else output for output in call(arrays)]

            other.keep = call  # type: ignore[attr-defined]
            return other

        return Executor(mapped="", precision="float32", build=None, load=load)

    monkeypatch.setattr(call_sizes, "WORTH_IT", math.inf)
    for least in (0.0, 1e5):
        monkeypatch.setitem(EXECUTORS, "wrong", doubling_of(least))
        found = case.run("wrong")
        assert found.agrees
        assert found.limit is None or found.limit > 1e5
        assert list(found.small_batches) == [8]
    monkeypatch.setattr(call_sizes, "WORTH_IT", 0.0)
    assert case.run("graph").small_batches == {}
    fixed = [msgspec.structs.replace(spec, shape=(BATCH, *spec.shape[1:])) for spec in case.snapshot.inputs]
    monkeypatch.setattr(call_sizes, "WORTH_IT", math.inf)
    assert case.run("graph", msgspec.structs.replace(case.snapshot, inputs=fixed)).small_batches == {}


def test_smaller_batches_are_found_where_no_rows_tell_executors_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras
    from keras import layers

    monkeypatch.setattr(call_sizes, "WORTH_IT", math.inf)
    model = keras.Sequential([keras.Input((64,)), layers.Dense(10, kernel_initializer="zeros")])
    program = keras_program(tmp_path / "model.keras", model)
    entry = ModelEntry(path="m", batch_rows=BATCH)
    snapshot = write_snapshot(tmp_path, program, entry)
    rows = gate_rows(plain_call(program), program.inputs, entry, BATCH)
    assert "is the same for all rows" in rows.why

    found = benchmark.time_own_graph(tmp_path, snapshot, BATCH, 1, rows.rows)
    assert (found.agrees, list(found.small_batches), found.why) == (True, [8, 1], "")
    assert found.processor_seconds > 0

    call = EXECUTORS["graph"].load(tmp_path, snapshot, BATCH, 1)
    sizes = Executor(mapped="", precision="float32", build=None, load=lambda *_: partial(_with_size, call))
    monkeypatch.setitem(EXECUTORS, "graph", sizes)
    assert benchmark.time_own_graph(tmp_path, snapshot, BATCH, 1, rows.rows).small_batches == {}


def _with_size(call: Any, arrays: Any) -> Any:
    """A graph whose rows depend on how many there are."""
    return [output + len(arrays[0]) for output in call(arrays)]


@pytest.mark.parametrize("name", ["graph", "frozen", "tflite"])
def test_smaller_batches_take_neither_a_copy_of_the_weights_nor_more_and_more(tmp_path: Path, name: str) -> None:
    import tensorflow as tf

    size = 2048
    matrix = tf.Variable(tf.random.stateless_normal([size, size], [1, 2]))  # 16 MB
    program = Program(
        [TensorSpec("x", "float32", (None, size))],
        [TensorSpec("y", "float32", (None, size))],
        run=lambda tensors: [tf.matmul(tensors[0], matrix)],
        variables=[matrix],
    )
    call = loaded(tmp_path, write_snapshot(tmp_path, program, ModelEntry(path="m")), name)
    rows = np.random.default_rng(1).standard_normal((BATCH, size), np.float32)

    call([rows])
    assert _grown(call, rows, [1, 8, BATCH]) < 8 * 2**20
    assert _grown(call, rows, np.random.default_rng(2).choice([1, 8, BATCH], 1_000)) < 2 * 2**20


def _grown(call: Any, rows: Any, counts: Any) -> int:
    """By how many bytes this process has more of its own after calls with so many rows."""
    return _grown_by(lambda: [call([rows[:count]]) for count in counts])


def _grown_by(run: Callable[[], object]) -> int:
    give_back()
    before = private_bytes()
    run()
    give_back()
    return private_bytes() - before


@pytest.mark.parametrize("name", HERE)
def test_batches_of_random_sizes_trace_and_compile_nothing_keep_nothing_and_are_right(
    cases: dict[str, Case], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand in the long form, by a model as a child has loaded it; in smaller batches where those may be taken."""
    from tensorflow.python.eager import context

    case = cases["mlp"]
    rows = np.random.default_rng(1).standard_normal((2 * BATCH, *case.reporter.rows[0].shape[1:]), np.float32)
    [reference] = in_batches(plain_call(case.program), [rows], BATCH)
    try:
        loaded(case.folder, case.snapshot, name, rows=[rows])
        # As trials could have found it, so that smaller batches are taken.
        trial = Trial(name, True, processor_seconds=1.0, small_batches={8: 0.5, 1: 0.1}, integers=EXACT)
        folder, entry = str(case.folder), case.snapshot.entry
        model = load_model(ServingSpec("m", "d", entry, folder, case.snapshot, name, trial, BATCH))
    except (ValueError, ModelLoadError) as error:
        if "does not compute in" not in str(error) and "in bfloat16" not in str(error):
            raise
        pytest.skip(str(error))
    built = _counted_builds(monkeypatch)
    tolerance = 1e-4 if EXECUTORS[name].precision == "float32" else 0.2 * reference.std()

    def run(counts: Any) -> None:
        for number, count in enumerate(counts):
            outputs = model.predict(rows[:count], small_batches=bool(number % 2))
            assert np.abs(outputs - reference[:count]).max() <= tolerance

    run([*range(1, 2 * BATCH + 1), 1, 1])
    functions, before = len(context.context().list_function_names()), sum(built.values())
    counts = np.random.default_rng(2).integers(1, 2 * BATCH + 1, 1_000 if LONG else 200)
    assert _grown_by(lambda: run(counts)) < 2 * 2**20
    assert len(context.context().list_function_names()) == functions
    assert sum(built.values()) == before, built


def _counted_builds(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often other runtimes than TensorFlow have compiled or opened a model from now on."""
    built: Counter[str] = Counter()

    def counted(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any) -> Any:
            built[name] += 1
            return original(*arguments)

        return counting

    for owner, name in ((openvino_ir.Compiled, "_compile"), (tflite, "_compiled"), (tflite, "_interpreter")):
        monkeypatch.setattr(owner, name, counted(name, getattr(owner, name)))
    return built


def test_a_batch_that_was_halved_is_run_by_what_was_built_for_the_whole_one(cases: dict[str, Case]) -> None:
    case = cases["conv"]
    for name in HERE:
        if EXECUTORS[name].precision != "float32":
            continue
        call = loaded(case.folder, case.snapshot, name, BATCH // 2)
        outputs = in_batches(call, case.reporter.rows, BATCH // 2)
        np.testing.assert_allclose(outputs[0], case.reporter.reference[0], rtol=1e-4, atol=1e-5)


def test_what_compiled_models_of_litert_would_leave_unwritten_is_run_by_its_interpreter(tmp_path: Path) -> None:
    """An output that is there twice, one that is an input, and one of int64."""
    import tensorflow as tf

    inputs = [TensorSpec("x", "float32", (None, 3))]
    outputs = [TensorSpec(f"y{n}", "float32", (None, 3)) for n in range(3)]

    def twice(tensors: Any) -> list[Any]:
        doubled = tensors[0] * 2.0
        return [doubled, doubled, tensors[0]]

    of_int64 = Program(inputs, [TensorSpec("y", "int64", (None,))], run=lambda given: [tf.argmax(given[0], axis=1)])
    rows = np.random.default_rng(3).standard_normal((BATCH, 3), np.float32)
    for folder, program, wanted in (
        (tmp_path / "twice", Program(inputs, outputs, run=twice), [2 * rows, 2 * rows, rows]),
        (tmp_path / "int64", of_int64, [rows.argmax(axis=1)]),
    ):
        snapshot = write_snapshot(folder, program, ModelEntry(path="m"))
        for name in FLOAT32:
            if name == "openvino" and len(wanted) > 1:
                with pytest.raises(ValueError, match="that is none of the model's"):
                    loaded(folder, snapshot, name)
                continue
            call = loaded(folder, snapshot, name)
            for count in (BATCH, 5):
                got = call([rows[:count]])
                assert all(np.array_equal(a, b[:count]) for a, b in zip(got, wanted, strict=True)), name
        assert not list(folder.rglob("*.packed"))


def test_children_need_no_tensorflow_for_other_runtimes(cases: dict[str, Case]) -> None:
    case = cases["mlp"]
    (case.folder / "snapshot").write_bytes(msgspec.msgpack.encode(case.snapshot))
    rows = np.random.default_rng(1).standard_normal(case.reporter.rows[0].shape, np.float32)
    np.save(case.folder / "rows.npy", rows)
    names = [name for name in HERE if name in RUNTIMES and name != "openvino_bfloat16"]  # which not all processors have
    for name in names:
        loaded(case.folder, case.snapshot, name, rows=[rows])
    command = [sys.executable, "-c", _WITHOUT, str(case.folder), *names]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (said.returncode, said.stderr) == (0, "")
    [wanted] = in_batches(plain_call(case.program), [rows], BATCH)
    for name in names:
        got = np.load(case.folder / f"{name}.npy")
        tolerance = 1e-4 if EXECUTORS[name].precision == "float32" else 0.2 * wanted.std()
        assert np.abs(got - wanted).max() <= tolerance


_WITHOUT = """
import os, sys, pathlib, msgspec, numpy
from tasks.executors import EXECUTORS
from tasks.models.batches import in_batches
from tasks.snapshots.record import Snapshot
folder = pathlib.Path(sys.argv[1])
snapshot = msgspec.msgpack.decode((folder / "snapshot").read_bytes(), type=Snapshot)
rows = numpy.load(folder / "rows.npy")
for name in sys.argv[2:]:
    outputs = in_batches(EXECUTORS[name].load(folder, snapshot, 16, 1), [rows], 16)
    numpy.save(folder / f"{name}.npy", outputs[0])
assert not {"tensorflow", "openvino_telemetry", "nncf"} & set(sys.modules)
os._exit(0)  # as children end, without LiteRT's farewell
"""


@pytest.mark.parametrize("name", ["graph", "tflite"])
def test_processes_share_the_weights(tmp_path: Path, name: str) -> None:
    import tensorflow as tf

    matrix = tf.Variable(tf.random.stateless_normal([4096, 4096], [1, 2]))  # 64 MB
    program = Program(
        [TensorSpec("x", "float32", (None, 4096))],
        [TensorSpec("y", "float32", (None, 4096))],
        run=lambda tensors: [tf.matmul(tensors[0], matrix)],
        variables=[matrix],
    )
    snapshot = write_snapshot(tmp_path, program, ModelEntry(path="m"))
    (tmp_path / "snapshot").write_bytes(msgspec.msgpack.encode(snapshot))
    loaded(tmp_path, snapshot, name)
    holders = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holders.stdout
        told = [tuple(map(int, holders.stdout.readline().split())) for _ in range(2)]
        for pid, own in told:
            assert own < 48 * 2**20  # activations included
            rss, pss = _mapped_kilobytes(pid, tmp_path / EXECUTORS[name].mapped)
            assert rss >= 2**16
            assert pss <= 0.6 * rss
        assert len(dict(told)) == 2
    finally:
        holders.communicate(timeout=30)


# Two processes, forked as a worker's children are: before TensorFlow runs an operation.
_HOLD = """
import gc, os, sys, pathlib, msgspec, numpy, tensorflow
from tasks.executors import EXECUTORS
from tasks.preparation.benchmark import private_bytes
from tasks.snapshots.record import Snapshot
folder = pathlib.Path(sys.argv[1])
snapshot = msgspec.msgpack.decode((folder / "snapshot").read_bytes(), type=Snapshot)
gc.freeze()
child = os.fork()
before = private_bytes()
call = EXECUTORS[sys.argv[2]].load(folder, snapshot, 8, 1)
call([numpy.ones((8, 4096), "float32")])
os.write(1, f"{os.getpid()} {private_bytes() - before}\\n".encode())  # in one piece, as the other one writes too
sys.stdin.read()
if child:
    os.waitpid(child, 0)
"""


def _mapped_kilobytes(pid: int, path: Path) -> tuple[int, int]:
    """Rss and Pss of the mappings of one file."""
    sizes = {"Rss": 0, "Pss": 0}
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(path))
        elif inside and (key := line.partition(":")[0]) in sizes:
            sizes[key] += int(line.split()[1])
    return sizes["Rss"], sizes["Pss"]


@pytest.mark.parametrize("name", ["graph", "frozen", "tflite"])
def test_a_trial_with_fewer_rows_in_a_call(cases: dict[str, Case], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_sizes, "WORTH_IT", math.inf)
    monkeypatch.setattr(benchmark, "least_call_rows", lambda call, batch, *, to_the_bit: 4)
    case = cases["conv"]

    def trial(call_rows: int) -> Trial:
        return try_executor(name, case.folder, case.snapshot, BATCH, 1, case.reporter, call_rows)

    assert trial(0) == Trial(name, False, call_rows=4), "nothing else is known of it yet"
    found = trial(4)
    assert (found.why, found.call_rows, list(found.small_batches)) == ("", 4, [1])
    whole = trial(BATCH)
    assert (whole.why, whole.call_rows) == ("", BATCH)
