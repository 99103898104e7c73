"""Models that are not loaded at the start: on first use, in jobs of one and of several, and gone again at the limit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from producer import Client
from tests.manifests import write_manifest
from tests.models import in_one_process
from tests.systems import System
from tests.waiting import wait_until

CLOSE = {"rtol": 1e-5, "atol": 1e-6}
NAMES = ("first", "second", "third")


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(1).random((120, 64), np.float32)


def lazy_manifest(folder: Path, models: Path, limit: str = "") -> Path:
    path = models / "digits.keras"
    lazy = {name: {"path": path, "preload": False} for name in NAMES}
    return write_manifest(folder, {**lazy, "eager": path}, **({"memory_limit": limit} if limit else {}))


def test_a_model_that_is_not_preloaded_is_known_at_once_and_loaded_by_its_first_chunk(
    system: System, models: Path, pixels: np.ndarray
) -> None:
    system.start_ready_worker(lazy_manifest(system.folder, models), 2)

    (slot, _) = system.slots()
    infos = {info.name: info for info in slot.models}
    assert set(infos) == {*NAMES, "eager"}
    assert infos["first"].load_seconds == 0 < infos["eager"].load_seconds
    assert infos["first"].inputs == infos["eager"].inputs
    expected = in_one_process(models / "digits.keras", pixels)
    with Client(system.url) as client:
        np.testing.assert_allclose(client.predict("first", pixels, chunk_rows=7), expected, **CLOSE)
        both = client.predict(["second", "eager"], pixels, chunk_rows=7)
        np.testing.assert_allclose(both["second"], expected, **CLOSE)


def test_children_above_the_memory_limit_are_replaced_between_chunks_and_no_chunk_is_lost(
    system: System, models: Path, pixels: np.ndarray
) -> None:
    system.start_ready_worker(lazy_manifest(system.folder, models, "1 MiB"), 2)
    before = {slot.pid for slot in system.slots()}
    expected = in_one_process(models / "digits.keras", pixels)
    with Client(system.url) as client:
        # No child has so little: each one is replaced as soon as it holds a model that a fresh one would not.
        jobs = [client.submit(name, pixels, chunk_rows=30) for name in NAMES]
        together = client.submit(list(NAMES), pixels, chunk_rows=30)
        for job in jobs:
            np.testing.assert_allclose(job.result(), expected, **CLOSE)
        for outputs in together.result().values():
            np.testing.assert_allclose(outputs, expected, **CLOSE)
        after = wait_until(
            lambda: len(pids := {slot.pid for slot in system.slots()}) == 2 and pids, "two children are up"
        )
        assert not before & after
        settled = client.predict("eager", pixels, chunk_rows=30)
        np.testing.assert_allclose(settled, expected, **CLOSE)


def test_a_child_within_the_limit_stays(system: System, models: Path, pixels: np.ndarray) -> None:
    system.start_ready_worker(lazy_manifest(system.folder, models, "64 GiB"), 1)
    before = [slot.pid for slot in system.slots()]
    with Client(system.url) as client:
        for name in NAMES:
            client.predict(name, pixels, chunk_rows=30)
    assert [slot.pid for slot in system.slots()] == before
