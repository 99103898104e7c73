"""Versions of one small model, and reloads of them by a worker that runs."""

from __future__ import annotations

import os
import signal
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tests.models import keras_may_warn
from tests.systems import System, Worker
from tests.waiting import wait_until


@cache
def version(number: int) -> bytes:
    """A model that multiplies by the number of its version; the same bytes each time, so that its snapshot is found."""
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.full((4, 1), number, np.float32)])
    with TemporaryDirectory() as folder, keras_may_warn():
        model.save(path := Path(folder) / "times.keras")
        return path.read_bytes()


def write_version(path: Path, number: int) -> None:
    path.with_name("new.keras").write_bytes(version(number))
    path.with_name("new.keras").replace(path)


def digest_of(system: System) -> str:
    (digest,) = {info.digest for slot in system.slots() for info in slot.models}
    return digest


def reload(system: System, worker: Worker, by_signal: bool = False) -> None:
    before, said = digest_of(system), len(worker.output())
    if by_signal:
        os.kill(worker.pid, signal.SIGHUP)
    else:
        done = system.celery("control", "reload_models")
        assert done.returncode == 0, done.stderr
        assert "models are being reloaded" in done.stdout

    def is_told() -> bool:
        assert "models are not reloaded" not in worker.output()[said:], worker.output()[said:]
        return digest_of(system) != before

    wait_until(is_told, "the slots tell of another version")
