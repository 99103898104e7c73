"""`celeriac demo`: the main job, end to end, on the handwritten digits that scikit-learn carries.

1,797 images of 8x8 --train on half--> digits.keras --embedded system--> predictions.npy --> accuracy on the rest
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np

from producer.cli.options import broker_option, metrics_port_option
from producer.cli.reporting import reporting_failure
from producer.client import Client
from producer.embedded import local
from producer.outputs.predict_to_sink import predict_to_sink
from producer.outputs.run_options import RunOptions
from producer.sinks import open_sink
from producer.sources import open_file
from tasks.protocol.codec import Array
from worker_config.environment import check_no_shadow, settle_models
from worker_config.errors import CeleriacError, ConfigError, OutputError

MODEL = "digits"


@click.command()
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("celeriac-demo"),
    show_default=True,
    help="The folder for model, rows and predictions.",
)
@click.option(
    "--workers", type=click.IntRange(1), default=2, show_default=True, help="Children of the embedded worker."
)
@broker_option
@metrics_port_option
@click.option("--train-only", is_flag=True, help="Make model and manifest, predict nothing.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def demo(folder: Path, workers: int, broker_url: str | None, train_only: bool, quiet: bool) -> None:
    """Train a small network on handwritten digits and predict them all, embedded or with a broker's workers."""
    _check_installed(["sklearn"] if broker_url and _is_trained(folder) else ["sklearn", "tensorflow"])
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    images = images.astype(np.float32)
    _say("data", f"{len(images):,} handwritten digits of 8x8 pixels, from scikit-learn")
    if not (broker_url and _is_trained(folder)):
        _train(folder, images, digits)
    if train_only:
        return
    started = time.monotonic()
    with Client(broker_url) if broker_url else local(folder / "models.toml", workers) as client:
        where = "workers on the given Redis" if broker_url else f"private Redis, prefork worker, {workers} children"
        _say("system", f"{where}; ready after {time.monotonic() - started:.1f} s")
        sink = open_sink(folder / "predictions.npy", len(images), force=True)
        with reporting_failure(as_json=False):
            rows = open_file(folder / "digits.npy")
            summary = predict_to_sink(client, [MODEL], rows, sink, run=RunOptions(quiet=quiet))
    scores = np.load(folder / "predictions.npy")
    right = scores.argmax(axis=1) == digits
    _say("accuracy", f"{right[1::2].mean():.3f} on the {len(right[1::2])} rows that were not trained on")
    _say("speed", f"{summary.rows_per_second:,.0f} rows per second ({summary.seconds:.2f} s, {len(images)} rows)")
    _say("ledger", ", ".join(f"{name} {count}" for name, count in summary.ledger.items()))
    _say("output", f"{summary.output}, {scores.shape} {scores.dtype}")
    _say("next", f"celeriac predict {MODEL} {folder}/digits.npy -o scores.npy --models {folder}/models.toml")


def _check_installed(modules: list[str]) -> None:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"the demo needs {' and '.join(missing)}: pip install 'celeriac[demo]'")


def _is_trained(folder: Path) -> bool:
    return (folder / "digits.keras").exists()


def _train(folder: Path, images: Array, digits: Array) -> None:
    """In a process of its own: this one stays without TensorFlow."""
    started = time.monotonic()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "digits.npy", images)
        np.save(folder / "digits_true.npy", digits)
        (folder / "models.toml").write_text(f'[models.{MODEL}]\npath = "digits.keras"\n')
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror}; name another folder with -o") from None
    check_no_shadow(Path.cwd())  # where `-m` looks first
    command = [sys.executable, "-m", "producer.cli.demo_model", str(folder)]
    environ = dict(os.environ)
    settle_models(environ)  # as where it will run
    trained = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    if trained.returncode:
        last = trained.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise CeleriacError(f"the demo's training ended with exit code {trained.returncode}: {last[0]}")
    _say("model", f"a small Keras network, trained on every second row in {time.monotonic() - started:.1f} s")


def _say(what: str, text: str) -> None:
    print(f"{what:<9} {text}", flush=True)
