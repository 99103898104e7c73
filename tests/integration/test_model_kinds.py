"""Each kind of model file through a real worker, by the executor that it chose, gives what its own library gives."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import msgspec
import pytest

from producer import Client
from tests.formats import Case
from tests.forms import LONG
from tests.kinds import KINDS, can_be_made, written
from tests.loaded import check_equal
from tests.manifests import write_manifest
from tests.systems import System, serving
from tests.waiting import wait_until
from worker_config.manifest import ModelEntry

SHORT = [
    "Keras 3, GRU over any number of steps `.keras`",
    "Keras 3, texts and their vocabulary `.keras`",
    "`tf.Module`, bfloat16 folder",
    "TensorFlow 1, a lookup table folder",
    "frozen graph with loops `.pb`",
    "checkpoint of training, `constants` `.meta`",
    "TFLite, int8 `.tflite`",
    "ydf, `imports` folder",
    "tensorflow_text, `imports` `.pb`",
]
PREDICTED = {f"{kind.name} {kind.form}": number for number, kind in enumerate(KINDS) if not kind.refused}
NAMES = list(PREDICTED) if LONG else SHORT
MADE = [PREDICTED[name] for name in NAMES if can_be_made(KINDS[PREDICTED[name]])]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Case]:
    return written(MADE, tmp_path_factory.mktemp("kinds"))


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, cases: dict[int, Case]) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("s")
    manifest = write_manifest(folder, {name_of(number): keys_of(case.entry) for number, case in cases.items()})
    with serving(folder, manifest, children=1, start_seconds=60 * len(cases)) as system:
        yield system


def name_of(number: int) -> str:
    return f"kind{number}"


def keys_of(entry: ModelEntry) -> dict[str, object]:
    """What the manifest says of it; smaller batches, so that there are several, and a tail."""
    keys, usual = msgspec.structs.asdict(entry), ModelEntry()
    return {key: value for key, value in keys.items() if value != getattr(usual, key)} | {"batch_rows": 5}


@pytest.mark.parametrize("kind", NAMES)
def test_a_kind_is_predicted_by_a_worker_as_by_its_own_library(
    kind: str, system: System, cases: dict[int, Case], client: Client
) -> None:
    number = PREDICTED[kind]
    if number not in cases:
        pytest.skip(f"{KINDS[number].needs} is not installed; it is in the extra kinds")
    case = cases[number]
    check_equal(client.predict(name_of(number), case.rows, chunk_rows=9), case.expected)


def test_not_all_are_run_by_their_own_graphs(cases: dict[int, Case], client: Client) -> None:
    executors = {name_of(number): client.describe(name_of(number))[0].executor for number in cases}
    assert set(executors.values()) - {"graph", "plain"}, executors


def test_a_child_that_replaces_another_has_them_too(system: System, cases: dict[int, Case], client: Client) -> None:
    """Its imports above all, which no process has made that it is forked from."""
    (slot,) = system.slots()
    os.kill(slot.pid, signal.SIGKILL)
    wait_until(lambda: [one.pid for one in system.slots() if one.pid != slot.pid], "another child is ready", 60)
    for number, case in cases.items():
        if KINDS[number].needs:
            check_equal(client.predict(name_of(number), case.rows), case.expected)
