"""Would OpenVINO's cache of compiled models spare a child time or memory?

MobileNetV2 and an MLP of 84 MB in a batch of 64, compiled as children compile them, in fresh processes by turns: from
the converted model, or out of a cache folder that an earlier process has filled. Counted are processor seconds until
the first call has ended, without imports, and the memory that the process has then of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.harness import MIN_BLOCKS, bootstrap, ratios
from benchmarks.models import run_apart
from benchmarks.report import Finding, control, report
from benchmarks.stage import ask, folder
from worker_config.files import sync_file

SHAPES = {"mobilenet": (64, 96, 96, 3), "mlp": (64, 1024)}
ARMS = ("plain", "cache", "again")


def question(quick: bool) -> bool:
    """Load both models; return whether the plain loads were alike."""
    with folder(in_memory=False) as place:
        run_apart("benchmarks.executors_models", str(place))
        quiet = [_measure(place, name, quick) for name in SHAPES]
    return all(quiet)


def _measure(place: Path, name: str, quick: bool) -> bool:
    run_apart("benchmarks.openvino_cache", "convert", str(place), name)
    _load(place, name, "cache")  # fills it
    found: dict[str, list[tuple[float, int]]] = {arm: [] for arm in ARMS}
    for block in range(2 if quick else MIN_BLOCKS):
        for arm in ARMS if block % 2 else ARMS[::-1]:
            found[arm].append(_load(place, name, arm))
    seconds = {arm: [one for one, _ in loads] for arm, loads in found.items()}
    own = {arm: median(size for _, size in loads) / 1e6 for arm, loads in found.items()}
    twice = bootstrap(ratios(seconds["plain"], seconds["again"]))
    report(
        f"openvino cache: {name}",
        {"batch rows": SHAPES[name][0]},
        [
            Finding("processor seconds to the first output", f"{median(seconds['plain']):.3f} s"),
            Finding("the same out of the cache / without", str(bootstrap(ratios(seconds["cache"], seconds["plain"])))),
            Finding("own memory", f"{own['plain']:.0f} MB"),
            Finding("the same out of the cache", f"{own['cache']:.0f} MB"),
            control("control: without it twice", twice),
        ],
        void=abs(twice.median - 1) > 0.1,
        quick=quick,
        measured={"seconds": seconds, "own_megabytes": own},
    )
    return abs(twice.median - 1) <= 0.1


def _load(place: Path, name: str, arm: str) -> tuple[float, int]:
    command = [sys.executable, "-m", "benchmarks.openvino_cache", "load", str(place), name, arm]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    seconds, own = json.loads(said)
    return seconds, own


def convert(place: Path, name: str) -> None:
    """Write the model as OpenVINO reads it."""
    import keras
    import openvino

    saved = place / name
    keras.models.load_model(place / f"{name}.keras", compile=False).export(saved, verbose=False)
    path = place / f"{name}.xml"
    openvino.save_model(openvino.Core().read_model(saved), path, compress_to_fp16=False)
    sync_file(path.with_suffix(".bin"))


def load(place: Path, name: str, arm: str) -> tuple[float, int]:
    """Compile, and call once: processor seconds, and bytes of memory."""
    import openvino

    from tasks.models.memory import give_back
    from tasks.preparation.benchmark import private_bytes

    before, started = private_bytes(), time.process_time()
    core = openvino.Core()
    if arm == "cache":
        core.set_property({"CACHE_DIR": str(place / f"{name}-cache"), "CACHE_MODE": "OPTIMIZE_SPEED"})
    model = core.read_model(place / f"{name}.xml")
    model.reshape(list(SHAPES[name]))
    config = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1}
    request = core.compile_model(model, "CPU", config).create_infer_request()
    request.infer([np.ones(SHAPES[name], model.inputs[0].get_element_type().to_dtype())])
    seconds = time.process_time() - started
    del model
    for blob in place.glob(f"{name}-cache/*"):
        sync_file(blob)  # pages that are not there yet count as a process's own
    give_back()
    return seconds, private_bytes() - before


if __name__ == "__main__":
    if sys.argv[1:2] == ["convert"]:
        convert(Path(sys.argv[2]), sys.argv[3])
    elif sys.argv[1:2] == ["load"]:
        print(json.dumps(load(Path(sys.argv[2]), *sys.argv[3:])))
    else:
        ask(question, __doc__)
