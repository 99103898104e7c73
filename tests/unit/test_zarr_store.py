"""A Zarr store that grows by merged ones: killed at any moment, a reader sees the beginning of the output."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from producer.sinks.final_files import MergedFile
from producer.sinks.output_place import place_of
from producer.sinks.zarr_store import ZarrStore
from tasks.outputs import zarr as zarr_module
from tasks.outputs.row_spec import RowSpec
from tasks.outputs.temp_paths import OutputTarget
from tasks.outputs.zarr import ZarrWriter
from tests.output_sets import files_of
from tests.sink_outputs import read_zarr
from worker_config.errors import OutputError

BLOCK_ROWS, ROWS = 16, 39
OUTPUTS = {
    ("y",): np.linspace(0, 1, ROWS * 3, dtype=np.float32).reshape(ROWS, 3),
    ("m", "text"): np.array([f"row {row}" for row in range(ROWS)], object),
    ("m", "late"): np.arange(ROWS) // 20,  # no file has the zeros of the first block
}
OLD = np.arange(5)


class Killed(BaseException):
    """The process ends here."""


def write(path: Path, start: int, stop: int) -> int:
    """Write some of the rows as a store; the bytes of its chunks."""
    writer = ZarrWriter(OutputTarget(path, stop - start, "t"))
    writer.block_rows = BLOCK_ROWS
    arrays = {key: rows[start:stop] for key, rows in OUTPUTS.items()}
    writer.create()
    writer.begin({key: RowSpec(rows.dtype, rows.shape[1:]) for key, rows in OUTPUTS.items()}, arrays)
    writer.write(0, arrays, np.arange(start, stop))
    writer.finish(stop - start)
    writer.publish()
    return writer.published_bytes()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[MergedFile]]:
    """A folder of merged stores, as workers leave them, and all rows as one, `whole.zarr`."""
    folder, files = tmp_path_factory.mktemp("made"), []
    (folder / "merged").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zarr_module, "ZARR_CHUNK_BYTES", 256)
        write(folder / "whole.zarr", 0, ROWS)
        for number, start in enumerate(range(0, ROWS, BLOCK_ROWS)):
            stop, name = min(start + BLOCK_ROWS, ROWS), f"{number}-{number:016x}.zarr"
            size = write(folder / "merged" / name, start, stop)
            files.append(MergedFile(name, start, stop, stop - start, size))
    return folder, files


class Place:
    """One output in the making, in a folder of its own."""

    def __init__(self, folder: Path, made: tuple[Path, list[MergedFile]], *, over_old: bool = False) -> None:
        self.path, self.files = folder / "out.zarr", made[1]
        self.working = folder / ".out.zarr.part" / "token"
        shutil.copytree(made[0] / "merged", self.working)
        self.seen: set[int] = set()
        if over_old:
            zarr.create_array(str(self.path), data=OLD)

        self.over_old = over_old

    def open(self) -> ZarrStore:
        return ZarrStore(OutputTarget(self.path, ROWS, ""), place_of(self.path))

    def run(self) -> None:
        store = self.open()
        store.create()
        assert store.replaces == self.over_old
        place_of(self.path).create("token")
        if not store.replaces:
            for count in range(1, len(self.files)):
                store.put(self.files[:count], "token")
        store.publish(self.files, "token")

    def go_on(self) -> None:
        store, place = self.open(), place_of(self.path)
        store.replaces = self.over_old  # which the journal knows
        written = place.written("token")
        place.create("token")
        store.reopen(self.files, "token", written)
        store.publish(self.files, "token")

    def look(self) -> None:
        """What a reader sees is the beginning of the output, or the whole old one."""
        if not (self.path / "zarr.json").exists():
            return
        found = read_zarr(self.path)
        if found.keys() == {"output"}:
            np.testing.assert_array_equal(found["output"], OLD)
            return
        assert found.keys() == {"/".join(key) for key in OUTPUTS}
        for key, rows in OUTPUTS.items():
            part = found["/".join(key)]
            self.seen.add(len(part))
            np.testing.assert_array_equal(part, rows[: len(part)])


@contextmanager
def killed_at(moment: int, changed: Any = os, names: Sequence[str] = ("rename", "unlink", "rmdir")) -> Iterator[None]:
    """End at the change, a call of one of these functions of a module, that is so many later than the first."""
    changes, lock = 0, threading.Lock()

    def step(call: Callable[..., Any]) -> Callable[..., Any]:
        def change(*args: Any, **more: Any) -> Any:
            nonlocal changes
            if args[0] == []:  # of no objects
                return None
            with lock:
                changes += 1
                if changes > moment:
                    raise Killed
            return call(*args, **more)

        return change

    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(changed, name, step(getattr(changed, name)))
        yield


@pytest.mark.parametrize("over_old", [False, True], ids=["new", "in the place of another"])
def test_whenever_it_is_killed_it_goes_on_and_nobody_sees_it(
    tmp_path: Path, made: tuple[Path, list[MergedFile]], over_old: bool
) -> None:
    whole, seen = files_of(made[0] / "whole.zarr"), set[int]()
    for moment in range(10_000):
        place = Place(tmp_path / str(moment), made, over_old=over_old)
        try:
            with killed_at(moment):
                place.run()
            break
        except Killed:
            place.look()
            place.go_on()
            seen |= place.seen
            assert files_of(place.path) == whole
            shutil.rmtree(tmp_path / str(moment))
    assert moment > 30, "every change of a name was a moment"
    assert files_of(place.path) == whole
    assert seen == ({ROWS} if over_old else {16, 32, ROWS})


def test_chunks_that_are_lost_are_told_and_are_no_zeros(tmp_path: Path, made: tuple[Path, list[MergedFile]]) -> None:
    for number, name in enumerate(["merged", "placed", "first"]):
        place = Place(tmp_path / str(number), made)
        store = place.open()
        store.create()
        if name == "placed":
            store.put(place.files[:2], "token")
            (place.path / "y" / "c" / "1" / "0").unlink()
            with pytest.raises(OutputError, match="a Zarr chunk of merged file 1 is gone, or another file; start over"):
                place.go_on()
            continue
        lost = place.working / place.files[2 if name == "merged" else 0].name / "y" / "c" / "0"
        shutil.rmtree(lost)
        with pytest.raises(OutputError, match=r"a Zarr chunk of merged file \d is gone, or another file"):
            store.publish(place.files, "token")
        place.look()


def test_metadata_that_is_lost_or_damaged_is_told(tmp_path: Path, made: tuple[Path, list[MergedFile]]) -> None:
    no_array = b'{"node_type": "array"}'
    empty = b'{"node_type": "array", "shape": [3], "chunk_grid": {"configuration": {"chunk_shape": [0]}}}'
    for number, data in enumerate([b"", b"{", None, b"[]", no_array, empty]):
        place = Place(tmp_path / str(number), made)
        store = place.open()
        store.create()
        store.put(place.files[:2], "token")
        node = place.path / "m" / "zarr.json"
        node.write_bytes(data) if data is not None else node.unlink()
        with pytest.raises(OutputError, match=r"m/zarr\.json is gone, or damaged; start over"):
            place.go_on()


def test_workers_that_write_other_metadata_are_told(tmp_path: Path, made: tuple[Path, list[MergedFile]]) -> None:
    place = Place(tmp_path, made)
    node = place.working / place.files[1].name / "y" / "zarr.json"
    node.write_text(node.read_text().replace('"level": 0', '"level": 7'))
    store = place.open()
    store.create()
    with pytest.raises(OutputError, match="write the metadata of output 'y' in different ways; let all"):
        store.publish(place.files, "token")
    place.look()
    assert place.seen == {BLOCK_ROWS}


def test_rows_after_the_last_ones_are_refused(tmp_path: Path, made: tuple[Path, list[MergedFile]]) -> None:
    place = Place(tmp_path, made)
    store = place.open()
    store.create()
    store.publish([place.files[-1]], "token")
    with pytest.raises(OutputError, match="more rows than the 7 that it had before"):
        store.publish([place.files[-1], place.files[0]], "token")
