"""Does the worker run a model faster than plain Keras does, and what does it lose against its executor in a bare loop?

Two children: MobileNetV2 for 96x96x3 pixels of uint8, trained on handwritten digits, in float32 and where bfloat16 is
allowed; a transformer of two layers and a network of 1024-4096-4096-10, of random weights, for which bfloat16 is
allowed. The rivals are as many processes with as many threads, and the rows at hand in memory: one runs the Keras model
as a `tf.function` in a loop, in the batches that the manifest says; the other the executor that the worker has chosen,
in its calls.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.executors_models import digits
from benchmarks.harness import Arm, WrongOutputError, compare
from benchmarks.report import Finding, at_least, report_comparison
from benchmarks.stage import CHILDREN, Rivals, ask, folder
from producer import Client, local
from tasks.protocol.records import ModelInfo
from tasks.transport.connection import connect
from tasks.transport.worker_registry import read_slots

# Of a lower precision: in units of the outputs' spread over the rows; the share of rows of the same class.
TOLERANCE, AGREEMENT = 0.1, 0.97
_BFLOAT16 = 'precision = ["bfloat16"]\n'


@dataclass(frozen=True)
class Model:
    """A model in the manifest.

    Attributes:
        file: its name, without ".keras".
        shape: of a row; of three axes it is a picture, else normal numbers.
        rows: of a run, and of a quick one.
        aim: against Keras.
        allows: lines of the manifest on lower precisions.
    """

    file: str
    shape: tuple[int, ...]
    batch_rows: int
    rows: tuple[int, int]
    aim: float
    allows: str = ""


MODELS = {
    "mobilenet": Model("digits", (96, 96, 3), 64, (4_096, 256), 1.75),
    "mobilenet_bfloat16": Model("digits", (96, 96, 3), 64, (8_192, 256), 3.0, f"{_BFLOAT16}agreement = {AGREEMENT}\n"),
    "transformer": Model("transformer", (64, 128), 64, (16_384, 512), 2.2, f"{_BFLOAT16}tolerance = {TOLERANCE}\n"),
    "mlp": Model("mlp", (1024,), 256, (32_768, 2_048), 1.85, f"{_BFLOAT16}tolerance = {TOLERANCE}\n"),
}
OVERHEAD_AIM = 0.96


def question(quick: bool) -> bool:
    """Compare all models; return whether the machine was quiet each time."""
    # Rivals inherit it; workers are told by their setting.
    os.environ["CELERIAC_INTRA_OP_THREADS"] = "1"
    with folder() as place:
        manifest = _write(place)
        with local(models=manifest, workers=CHILDREN) as client:
            quiet = [_compare(client, place, name, quick) for name in MODELS]
    return all(quiet)


def _compare(client: Client, place: Path, name: str, quick: bool) -> bool:
    model = MODELS[name]
    info = _info(client, name)
    rows = _rows(name, model.rows[quick])
    outputs = {arm: place / f"{name}-{arm}.npy" for arm in ("keras", "executor")}
    np.save(place / f"{name}-rows.npy", rows)
    for path in outputs.values():
        np.save(path, np.zeros((len(rows), info.outputs[0].shape[1] or 0), np.float32))
    keras = Rivals(run_keras)
    executor = Rivals(run_executor)
    by_keras, by_executor = (
        _rival(rivals, place, name, outputs[arm], len(rows))
        for rivals, arm in ((keras, "keras"), (executor, "executor"))
    )
    expected, is_rounded = by_keras().copy(), "bfloat16" in info.executor
    check = partial(_check, expected=expected, allowed=TOLERANCE if is_rounded else 1e-2)
    if is_rounded and "agreement" in model.allows:
        check = partial(_check_classes, expected=expected)
    comparison = compare(
        Arm(f"Celeriac ({info.executor})", partial(client.predict, name, rows), check),
        [
            Arm("Keras function", by_keras, check),
            Arm("bare executor", by_executor, check),
        ],
    )
    return report_comparison(
        f"executors: {name}",
        comparison,
        len(rows),
        {"children": CHILDREN, "batch": f"{info.call_rows} of {info.batch_rows}", "executor": info.executor},
        [
            at_least("rate / plain Keras function", comparison.speed_against("Keras function"), model.aim),
            at_least("rate / the same executor bare", comparison.speed_against("bare executor"), OVERHEAD_AIM),
            Finding("by processor seconds / Keras", str(comparison.thrift_against("Keras function"))),
            Finding("by processor seconds / bare", str(comparison.thrift_against("bare executor"))),
            Finding("executor's deviation", f"{info.error:.1e} of the spread", note=info.note),
        ],
        quick=quick,
    )


def _rival(rivals: Rivals, place: Path, name: str, output: Path, rows: int) -> Callable[[], npt.NDArray[np.float32]]:
    """Each process takes its share of the rows; the output stands in a file in memory."""
    ends = np.linspace(0, rows, CHILDREN + 1).astype(int)
    orders = [(str(place), name, str(output), int(start), int(stop)) for start, stop in pairwise(ends)]

    def run() -> npt.NDArray[np.float32]:
        rivals.begin(*orders)
        rivals.finish()
        done: npt.NDArray[np.float32] = np.load(output, mmap_mode="r")
        return done

    run()  # loads rows and model
    return run


# The call, rows of one, all rows, and where outputs stand.
_ready: dict[str, tuple[Callable[[Any], Any], int, npt.NDArray[Any], npt.NDArray[Any]]] = {}


def run_keras(place: str, name: str, output: str, start: int, stop: int) -> None:
    """A rival: the Keras model as a function of TensorFlow's."""
    if name not in _ready:
        tf = _tensorflow()
        model = __import__("keras").models.load_model(Path(place) / f"{MODELS[name].file}.keras", compile=False)
        function = tf.function(lambda batch: model(batch, training=False), autograph=False)
        arrays = _arrays(place, name, output, start, stop)
        _ready[name] = (lambda batch: function(tf.constant(batch)).numpy(), MODELS[name].batch_rows, *arrays)
    _loop(name)


def run_executor(place: str, name: str, output: str, start: int, stop: int) -> None:
    """A rival: what the worker has chosen, found in the same cache."""
    if name not in _ready:
        _tensorflow()
        from tasks.executors import EXECUTORS
        from tasks.models.model_version import entry_digest
        from tasks.preparation.context import PreparationContext
        from tasks.preparation.prepare import prepare
        from worker_config.manifest import read_manifest
        from worker_config.settings import Settings

        entry = read_manifest(Path(place) / "models.toml")[name]
        context = PreparationContext.of(Settings.from_env(), 1, CHILDREN, print)
        served = prepare(name, entry, entry_digest(entry), context)
        if served.snapshot is None:
            raise RuntimeError(served.note)
        call = EXECUTORS[served.executor].load(Path(served.folder), served.snapshot, served.call_rows, 1)
        arrays = _arrays(place, name, output, start, stop)
        _ready[name] = (lambda batch: call([batch])[0], served.call_rows, *arrays)
    _loop(name)


def _loop(name: str) -> None:
    call, call_rows, rows, outputs = _ready[name]
    for at in range(0, len(rows), call_rows):
        outputs[at : at + call_rows] = call(rows[at : at + call_rows])


def _arrays(place: str, name: str, output: str, start: int, stop: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """In memory of its own, and where the whole output stands."""
    return np.load(Path(place) / f"{name}-rows.npy")[start:stop], np.load(output, mmap_mode="r+")[start:stop]


def _tensorflow() -> Any:
    from tasks.models.devices import limit_threads

    limit_threads(1)
    return __import__("tensorflow")


def _check(output: Any, expected: npt.NDArray[np.float32], allowed: float) -> None:
    """In units of how much outputs differ from row to row."""
    if output.shape != expected.shape:
        raise WrongOutputError(f"{output.shape} came out, not {expected.shape}")
    error = float(np.abs(output - expected).max() / expected.std(axis=0).max())
    if not error <= allowed:
        raise WrongOutputError(f"an output deviates by {error:.3g} of the outputs' spread, {allowed} is allowed")


def _check_classes(output: Any, expected: npt.NDArray[np.float32]) -> None:
    """By the share of rows whose largest output is the same."""
    if output.shape != expected.shape:
        raise WrongOutputError(f"{output.shape} came out, not {expected.shape}")
    share = float((output.argmax(axis=1) == expected.argmax(axis=1)).mean())
    if share < AGREEMENT:
        raise WrongOutputError(f"{share:.3f} of the rows have the same class, {AGREEMENT} are asked for")


def _rows(name: str, count: int) -> npt.NDArray[Any]:
    shape = MODELS[name].shape
    random = np.random.default_rng(count)
    return digits(count, random)[0] if len(shape) == 3 else random.standard_normal((count, *shape), np.float32)


def _info(client: Client, name: str) -> ModelInfo:
    with connect(client.broker_url) as redis:
        return next(info for slot in read_slots(redis) for info in slot.models if info.name == name)


def _write(place: Path) -> Path:
    """The models and their manifest, made by a process of its own."""
    from benchmarks.models import run_apart

    run_apart("benchmarks.executors_models", str(place), "trained")
    for name in MODELS:
        np.save(place / f"{name}-calibration.npy", _rows(name, 512))
    tables = [
        f'[models.{name}]\npath = "{model.file}.keras"\nbatch_rows = {model.batch_rows}\n'
        f'calibration = "{name}-calibration.npy"\n{model.allows}'
        for name, model in MODELS.items()
    ]
    (place / "models.toml").write_text("\n".join(tables))
    return place / "models.toml"


if __name__ == "__main__":
    ask(question, __doc__)
