"""An output behind a URL that workers write, under a storm of kills: children, workers, the producer, Redis, the store.

What is read of the store at the end is what one process makes of the rows, in order, in objects that are numbered
without a gap; and whoever looks meanwhile finds the beginning of it, of whole objects.
"""

from __future__ import annotations

import io
import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tasks.storage import objects
from tests.acceptance.commands import Celeriac, Running
from tests.chaos.arena import WORKERS, Arena
from tests.chaos.schedule import LARGE
from tests.chaos.test_split_writes import kill_child, kill_redis, kill_worker
from tests.forms import LONG
from tests.object_stores import ObjectStore
from tests.waiting import wait_until
from worker_config.errors import ExitCode, ObjectError
from worker_config.object_urls import ObjectUrl, object_url

SEEDS = range(20 if LONG else 2)
CHUNKS = 200 if LONG else 100
INJURIES = 8 if LONG else 5
PACE_SECONDS = 0.05
ROWS = CHUNKS * LARGE
ROOT = "s3://rows/chaos"


@pytest.fixture(scope="module", autouse=True)
def store(object_store: ObjectStore) -> Iterator[ObjectStore]:
    with object_store.used_here():
        objects.put(object_url("s3://rows/there"), b"so that there is a bucket")
        yield object_store


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory, models: Path, store: ObjectStore) -> Iterator[Arena]:
    """Workers that may write to the store, and nowhere else."""
    environ = {**store.environment(), "CELERIAC_OUTPUT_ROOTS": ROOT}
    arena = Arena(tmp_path_factory.mktemp("o"), models / "digits.keras", environ=environ)
    arena.start()
    yield arena
    arena.stop()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_storm_of_kills_leaves_no_trace_in_the_output(arena: Arena, store: ObjectStore, seed: int) -> None:
    arena.bring_up(WORKERS)
    arena.set_pace(PACE_SECONDS)
    draw = random.Random(seed)  # noqa: S311
    expected = arena.expected[:ROWS]
    celeriac = Celeriac(arena.new_folder())
    np.save(celeriac.folder / "rows.npy", arena.rows[:ROWS])
    output = object_url(f"{ROOT}/{seed}/out.parquet")
    # Each of the five at least once, if there are so many.
    kinds: list[Callable[[Arena, random.Random], None] | None] = [kill_child, kill_worker, kill_redis, None]
    kinds.append(lambda *_: store.restart())
    injuries = draw.sample([*kinds, *draw.choices(kinds, k=INJURIES - 5)], INJURIES)
    moments = sorted(draw.sample(range(CHUNKS // 20, CHUNKS * 8 // 10), INJURIES))

    def start(*more: str) -> Running:
        words = ["rows.npy", "-o", f"{output}/", "--part-mib", 1, "--chunk-rows", LARGE, "--broker", arena.system.url]
        return celeriac.start("predict", "digits", *words, "--quiet", "--json", *more, fresh=True)

    with _looking(output, expected) as looks:
        running = start()
        for moment, injure in zip(moments, injuries, strict=True):

            def its_moment(running: Running = running, rows: int = moment * LARGE) -> bool:
                running.check_running()
                return _safe_rows(output) >= rows

            wait_until(its_moment, f"chunk {moment} is safe")
            if injure:
                injure(arena, draw)
            else:
                running.process.kill()
                running.process.wait()
                running = start("--resume")
        ended = running.end()
        assert ended.code == ExitCode.OK, ended
        wait_until(looks, "somebody has looked")
    ledger = ended.json["ledger"]
    assert (ledger["rows"], ledger["predicted"], ledger["written"]) == (ROWS,) * 3
    _check(output, expected)
    arena.bring_up(WORKERS)


def _check(output: ObjectUrl, expected: np.ndarray) -> None:
    """The whole output is there, and beside it only what tells of it."""
    assert _rows_of(output, expected) == len(expected)
    folder = str(output).removesuffix(output.name)
    names = [str(url).removeprefix(folder) for url, _ in objects.list_objects(object_url(folder))]
    beside = [name for name in names if not name.startswith(f"{output.name}/")]
    assert beside == [f"{output.name}.ledger.json", f"{output.name}.manifest.json"]
    url = object_url(f"{output}.manifest.json")
    manifest = json.loads(_bytes_of(url, objects.stat(url)))
    assert manifest["complete"]
    assert [f"{output.name}/{file['name']}" for file in manifest["files"]] == sorted(set(names) - set(beside))
    assert len(manifest["files"]) > 2


def _rows_of(output: ObjectUrl, expected: np.ndarray) -> int:
    """How many rows there are, which must be the first ones."""
    found = sorted(objects.list_objects(output))
    assert [url.name for url, _ in found] == [f"part-{number:05d}.parquet" for number in range(len(found))]
    count = 0
    for url, stamp in found:
        table = pq.read_table(io.BytesIO(_bytes_of(url, stamp)))
        np.testing.assert_array_equal(table["row"].to_numpy(), np.arange(count, count + len(table)))
        values = table.column(1).combine_chunks().flatten().to_numpy().reshape(len(table), -1)
        np.testing.assert_array_equal(values, expected[count : count + len(table)])
        count += len(table)
    return count


def _safe_rows(output: ObjectUrl) -> int:
    """What the journal says; where it changes meanwhile, what it said before is not less."""
    with suppress(ObjectError):
        found = sorted(objects.list_objects(output.with_name(f".{output.name}.journal")))
        lines = [line for one, stamp in found[-1:] for line in _bytes_of(one, stamp).splitlines()]
        return int(json.loads(lines[-1].partition(b" ")[2]).get("stop", 0)) if lines else 0
    return 0


def _bytes_of(url: ObjectUrl, stamp: objects.ObjectStamp) -> bytes:
    return bytes(objects.read_range(url, stamp, 0, stamp.size))


@contextmanager
def _looking(output: ObjectUrl, expected: np.ndarray) -> Iterator[Callable[[], bool]]:
    """Read what there is, again and again, until the end of the block; whether that has been something."""
    over, found = threading.Event(), list[str]()
    seen = 0

    def look() -> None:
        nonlocal seen
        try:
            while not over.wait(0.1):
                count = _rows_of(output, expected)
                assert count >= seen, "what was there stays"
                seen = count
        except BaseException as error:
            found.append(repr(error))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield lambda: bool(seen or found)
    finally:
        over.set()
        thread.join()
    assert found == []
