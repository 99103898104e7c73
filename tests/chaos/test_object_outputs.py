"""An output behind a URL that workers write, under a storm of kills: children, workers, the producer, Redis, the store.

In the wider storms the store is slow, refuses, is silent and takes what it does not confirm besides.
What is read of the store at the end is what one process makes of the rows, in order, in objects that are numbered
without a gap; and whoever looks meanwhile finds the beginning of it, of whole objects.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tasks.storage import objects
from tests.chaos.arena import Arena
from tests.chaos.storm import (
    ROWS,
    SPLIT_WORDS,
    Kill,
    check_cut,
    check_readers,
    check_rows,
    command,
    ride_out,
    split_tables,
    write_split,
)
from tests.fault_proxy import FaultProxy, proxy_before
from tests.forms import seeds
from tests.object_stores import ObjectStore
from tests.output_sets import safe_rows
from worker_config.errors import ObjectError
from worker_config.object_urls import ObjectUrl, object_url

ROOT = "s3://rows/chaos"
DATA = "s3://rows/chaos-data"
# Seeds that have failed once, each with what it found; they stay.
FAILED_ONCE = {
    19: "the part of an answer that Redis took and did not confirm was deleted, by its child or as a duplicate's",
}


@pytest.fixture(scope="module", autouse=True)
def store(object_store: ObjectStore) -> Iterator[ObjectStore]:
    with object_store.used_here():
        objects.put(object_url("s3://rows/there"), b"so that there is a bucket")
        yield object_store


@pytest.fixture(scope="module")
def proxy(store: ObjectStore) -> Iterator[FaultProxy]:
    """What stands between the store and all others but the tests."""
    with proxy_before(store.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def arena(
    tmp_path_factory: pytest.TempPathFactory, models: Path, store: ObjectStore, proxy: FaultProxy
) -> Iterator[Arena]:
    """Workers that may read and write some of the store, and nothing else."""
    environ = {**store.environment(endpoint=proxy.endpoint), "CELERIAC_OUTPUT_ROOTS": ROOT, "CELERIAC_DATA_ROOTS": DATA}
    arena = Arena(tmp_path_factory.mktemp("o"), models / "digits.keras", environ=environ)
    arena.start()
    yield arena
    arena.stop()


@pytest.mark.parametrize("seed", seeds(short=[0, *FAILED_ONCE], long=40, failed_once=FAILED_ONCE))
def test_a_storm_of_kills_leaves_no_trace_in_the_output(
    arena: Arena, store: ObjectStore, tmp_path: Path, seed: int
) -> None:
    _ride_out(arena, tmp_path, seed, [lambda *_: store.restart()])


@pytest.mark.parametrize("seed", seeds(short=[], long=10))
def test_a_storm_of_kills_and_faults_of_the_store(
    arena: Arena, store: ObjectStore, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    def slow(_: Arena, draw: random.Random) -> None:
        proxy.delay_seconds = draw.uniform(0.05, 0.3)

    def refuses(_: Arena, draw: random.Random) -> None:
        proxy.delay_seconds = 0.0
        proxy.refused[draw.choice(["PUT", "POST", "GET"])] = (draw.randint(1, 5), draw.choice([429, 500, 503]))

    def silent(_: Arena, draw: random.Random) -> None:
        proxy.unanswered = draw.randint(1, 2)

    def unconfirmed(_: Arena, draw: random.Random) -> None:
        proxy.unconfirmed = draw.randint(1, 5)

    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)  # of the command; this process has its connections
    try:
        _ride_out(arena, tmp_path, seed, [lambda *_: store.restart(), slow, refuses, silent, unconfirmed], "faults")
    finally:
        proxy.delay_seconds = 0.0


def _ride_out(arena: Arena, tmp_path: Path, seed: int, more_kills: Sequence[Kill], under: str = "kills") -> None:
    expected = arena.expected[:ROWS]
    celeriac = command(arena)
    output = object_url(f"{ROOT}/{under}/{seed}/out.parquet")
    rows = str(celeriac.folder / "rows.npy")
    if is_split := bool(seed % 2):
        rows = f"{DATA}/{under}/{seed}/"
        for number, table in enumerate(split_tables(arena)):
            objects.put(object_url(f"{rows}{number}.parquet"), write_split(table, tmp_path / "x.parquet"))
        check_cut(arena, rows)
    else:
        np.save(rows, arena.rows[:ROWS])
    words = [rows, "-o", f"{output}/", *(SPLIT_WORDS if is_split else ())]

    def look() -> int:
        return check_rows([pq.read_table(io.BytesIO(data)) for data in _objects(output).values()], expected)

    ride_out(arena, seed, celeriac, words, lambda: _safe_rows(output), look, more_kills)
    _check_nothing_beside(output)
    fetched = tmp_path / "out.parquet"
    fetched.mkdir()
    for name, data in _objects(output).items():
        (fetched / name).write_bytes(data)
    check_readers(fetched, expected)


def _objects(output: ObjectUrl) -> dict[str, bytes]:
    """The files that there are, by their names."""
    found = sorted(objects.list_objects(output))
    assert [url.name for url, _ in found] == [f"part-{number:05d}.parquet" for number in range(len(found))]
    return {url.name: _bytes_of(url, stamp) for url, stamp in found}


def _check_nothing_beside(output: ObjectUrl) -> None:
    """The manifest says what there is, and beside it is only what tells of it."""
    folder = str(output).removesuffix(output.name)
    names = [str(url).removeprefix(folder) for url, _ in objects.list_objects(object_url(folder))]
    beside = [name for name in names if not name.startswith(f"{output.name}/")]
    assert beside == [f"{output.name}.ledger.json", f"{output.name}.manifest.json"]
    url = object_url(f"{output}.manifest.json")
    manifest = json.loads(_bytes_of(url, objects.stat(url)))
    assert manifest["complete"]
    assert [f"{output.name}/{file['name']}" for file in manifest["files"]] == sorted(set(names) - set(beside))


def _safe_rows(output: ObjectUrl) -> int:
    """What the journal says; where it changes meanwhile, what it said before is not less."""
    with suppress(ObjectError):
        found = sorted(objects.list_objects(output.with_name(f".{output.name}.journal")))
        return safe_rows(b"".join(_bytes_of(*one) for one in found[-1:]))
    return 0


def _bytes_of(url: ObjectUrl, stamp: objects.ObjectStamp) -> bytes:
    return bytes(objects.read_range(url, stamp, 0, stamp.size))
