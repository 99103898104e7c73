"""Does the worker run a model faster than plain Keras does, and what does it lose against its executor in a bare loop?

Two models, two children: MobileNetV2 for 96x96x3 pixels of uint8, in float32; a network of 1024-4096-4096-10 for which
bfloat16 is allowed. The rivals are as many processes with as many threads, and the rows at hand in memory: one runs the
Keras model as a `tf.function` in a loop, the other the executor that the worker has chosen. Both call with the same
batches as the worker. Weights are random, those of batch normalisation too, so that outputs differ from row to row.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.harness import Arm, WrongOutputError, compare
from benchmarks.report import Finding, at_least, report_comparison
from benchmarks.stage import CHILDREN, Rivals, ask, folder
from producer.client import Client
from producer.embedded.local import local
from tasks.protocol.records import ModelInfo
from tasks.transport.connection import connect
from tasks.transport.worker_registry import read_slots

# name: (shape of a row, dtype, batch_rows, rows, rows when quick, aim against Keras)
MODELS: dict[str, tuple[tuple[int, ...], str, int, int, int, float]] = {
    "mobilenet": ((96, 96, 3), "uint8", 64, 4_096, 256, 1.6),
    "mlp": ((1024,), "float32", 256, 32_768, 2_048, 2.0),
}
OVERHEAD_AIM = 0.95
# Of a lower precision, in units of the outputs' spread over the rows.
TOLERANCE = 0.1


def question(quick: bool) -> bool:
    """Compare both models; return whether the machine was quiet each time."""
    # Rivals inherit it; workers are told by their setting.
    os.environ["CELERIAC_INTRA_OP_THREADS"] = "1"
    with folder() as place:
        manifest = _write(place)
        with local(models=manifest, workers=CHILDREN) as client:
            quiet = [_compare(client, place, name, quick) for name in MODELS]
    return all(quiet)


def _compare(client: Client, place: Path, name: str, quick: bool) -> bool:
    _, _, batch_rows, many, few, aim = MODELS[name]
    info = _info(client, name)
    rows = _rows(name, few if quick else many)
    outputs = {arm: place / f"{name}-{arm}.npy" for arm in ("keras", "executor")}
    np.save(place / f"{name}-rows.npy", rows)
    for path in outputs.values():
        np.save(path, np.zeros((len(rows), info.outputs[0].shape[1] or 0), np.float32))
    keras = Rivals(run_keras)
    executor = Rivals(run_executor)
    expected = _rival(keras, place, name, batch_rows, outputs["keras"], len(rows))()
    allowed = TOLERANCE if info.executor in ("bfloat16", "int8") else 1e-2
    check = partial(_check, expected=expected.copy(), allowed=allowed)
    comparison = compare(
        Arm(f"Celeriac ({info.executor})", partial(client.predict, name, rows), check),
        [
            Arm("Keras function", _rival(keras, place, name, batch_rows, outputs["keras"], len(rows)), check),
            Arm("bare executor", _rival(executor, place, name, batch_rows, outputs["executor"], len(rows)), check),
        ],
    )
    return report_comparison(
        f"executors: {name}",
        comparison,
        len(rows),
        {"children": CHILDREN, "batch rows": batch_rows, "executor": info.executor},
        [
            at_least("rate / plain Keras function", comparison.speed_against("Keras function"), aim),
            at_least("rate / the same executor bare", comparison.speed_against("bare executor"), OVERHEAD_AIM),
            Finding("executor's deviation", f"{info.error:.1e} of the spread", note=info.note),
        ],
        quick=quick,
    )


def _rival(
    rivals: Rivals, place: Path, name: str, batch_rows: int, output: Path, rows: int
) -> Callable[[], npt.NDArray[np.float32]]:
    """Each process takes its share of the rows; the output stands in a file in memory."""
    ends = np.linspace(0, rows, CHILDREN + 1).astype(int)
    orders = [(str(place), name, batch_rows, str(output), int(start), int(stop)) for start, stop in pairwise(ends)]

    def run() -> npt.NDArray[np.float32]:
        rivals.begin(*orders)
        rivals.finish()
        done: npt.NDArray[np.float32] = np.load(output, mmap_mode="r")
        return done

    run()  # loads rows and model
    return run


_ready: dict[str, tuple[Callable[[Any], Any], npt.NDArray[Any], npt.NDArray[Any]]] = {}


def run_keras(place: str, name: str, batch_rows: int, output: str, start: int, stop: int) -> None:
    """A rival: the Keras model as a function of TensorFlow's."""
    if name not in _ready:
        tf = _tensorflow()
        model = __import__("keras").models.load_model(Path(place) / f"{name}.keras", compile=False)
        function = tf.function(lambda batch: model(batch, training=False), autograph=False)
        _ready[name] = (lambda batch: function(tf.constant(batch)).numpy(), *_arrays(place, name, output, start, stop))
    _loop(name, batch_rows)


def run_executor(place: str, name: str, batch_rows: int, output: str, start: int, stop: int) -> None:
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
        call = EXECUTORS[served.executor].load(Path(served.folder), served.snapshot, batch_rows, 1)
        _ready[name] = (lambda batch: call([batch])[0], *_arrays(place, name, output, start, stop))
    _loop(name, batch_rows)


def _loop(name: str, batch_rows: int) -> None:
    call, rows, outputs = _ready[name]
    for at in range(0, len(rows), batch_rows):
        outputs[at : at + batch_rows] = call(rows[at : at + batch_rows])


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


def _rows(name: str, count: int) -> npt.NDArray[Any]:
    shape, dtype, *_ = MODELS[name]
    random = np.random.default_rng(count)
    if dtype == "uint8":
        # Blots of 16 pixels: to a network of convolutions all white noise looks alike.
        blots = random.integers(0, 256, (count, shape[0] // 16, shape[1] // 16, shape[2]), np.uint8)
        return blots.repeat(16, axis=1).repeat(16, axis=2)
    return random.standard_normal((count, *shape), np.float32)


def _info(client: Client, name: str) -> ModelInfo:
    with connect(client.broker_url) as redis:
        return next(info for slot in read_slots(redis) for info in slot.models if info.name == name)


def _write(place: Path) -> Path:
    """The models and their manifest, made by a process of its own."""
    from benchmarks.models import run_apart

    run_apart("benchmarks.executors_models", str(place))
    for name in MODELS:
        np.save(place / f"{name}-calibration.npy", _rows(name, 512))
    tables = [
        f'[models.{name}]\npath = "{name}.keras"\nbatch_rows = {batch_rows}\ncalibration = "{name}-calibration.npy"\n'
        for name, (_, _, batch_rows, *_) in MODELS.items()
    ]
    tables[-1] += f'precision = ["bfloat16"]\ntolerance = {TOLERANCE}\n'
    (place / "models.toml").write_text("\n".join(tables))
    return place / "models.toml"


if __name__ == "__main__":
    ask(question, __doc__)
