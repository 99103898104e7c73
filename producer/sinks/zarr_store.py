"""The Zarr store that grows while workers write it: stores of whole blocks of rows, one after the other, become one.

the first one --> OUT.zarr, by one rename
the next one --y/c/0 to y/c/31, each by a rename--> OUT.zarr/y/c/32 to 63; then OUT.zarr/y/zarr.json, with more rows

A reader finds by an array's metadata how many rows it has. These grow when all Zarr chunks of the rows are there, none
of which changes any more: so each array is at any time the beginning of what it will be.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from producer.sinks.final_files import FinalFiles, MergedFile
from producer.sinks.output_place import OutputPlace
from tasks.outputs.row_spec import output_name
from tasks.outputs.temp_paths import OutputTarget, not_continued, sync_folder
from tasks.outputs.zarr import METADATA, check_replaceable, replace_store
from worker_config.errors import OutputError
from worker_config.files import sync_file

_METADATA = METADATA[0]


class _Node(NamedTuple):
    """An array, or a group, of a store: where it is in it, and what its metadata say."""

    way: Path
    metadata: dict[str, Any]

    def __str__(self) -> str:
        return output_name(self.way.parts)

    @property
    def is_array(self) -> bool:
        """Not a group, which has others in it."""
        return bool(self.metadata.get("node_type") == "array")

    @property
    def rows(self) -> int:
        return int(self.metadata["shape"][0])

    @property
    def chunk_rows(self) -> int:
        return int(self.metadata["chunk_grid"]["configuration"]["chunk_shape"][0])

    def with_rows(self, rows: int) -> dict[str, Any]:
        """Its metadata, were it of so many rows."""
        return self.metadata | {"shape": [rows, *self.metadata["shape"][1:]]}

    def bytes_of(self, store: Path, start: int, stop: int) -> int:
        """Of the files of these rows, which are whole chunks; a chunk of zeros has none."""
        inner = Path(*("0" for _ in self.metadata["shape"][1:]))
        total = 0
        for number in range(start // self.chunk_rows, -(-stop // self.chunk_rows)):
            with suppress(FileNotFoundError):
                total += (store / self.way / "c" / str(number) / inner).lstat().st_size
        return total


class ZarrStore(FinalFiles):
    """A store that a merged store begins, and others continue.

    One that replaces another is made beside it.
    """

    placed: int

    def __init__(self, target: OutputTarget, place: OutputPlace) -> None:
        super().__init__(target.path, place)
        self._target = target

    def check_replaceable(self) -> None:
        """Nothing but a Zarr store is ever removed."""
        check_replaceable(self.path)

    def title(self, number: int) -> str:
        """Its rows have no file of their own."""
        return f"a Zarr chunk of merged file {number}"

    def has(self, number: int, files: Sequence[MergedFile], named: Mapping[str, int]) -> bool:
        """Whether all its chunks are there, as large as they were, and the arrays have its rows."""
        start = sum(file.rows for file in files[:number])
        root = self._beside if self._beside.exists() else self.path  # which one beside may have become already
        arrays = self._arrays(root)
        return self._has_chunks(files[number], root, start, arrays) and all(
            array.rows >= start + files[number].rows for array in arrays
        )

    def waits(self, file: MergedFile, written: Mapping[str, int]) -> bool:
        """Its chunks are looked at as they are moved."""
        return file.name in written

    def put(self, files: Sequence[MergedFile], token: str) -> None:
        """Move their chunks, and let the arrays grow, with one merged store after the other."""
        start = sum(file.rows for file in files[: self.placed])
        for number in range(self.placed, len(files)):
            file, merged = files[number], Path(self._place.folder(token)) / files[number].name
            if number:
                self._append(file, merged, start)
            else:
                if not self._has_chunks(file, merged, 0, self._arrays(merged)):
                    raise self._gone(number)
                merged.rename(self._root)
                sync_folder(self._root.parent)
            self.placed = number + 1
            start += file.rows

    def publish(self, files: Sequence[MergedFile], token: str) -> None:
        """One that replaces another takes its name when it is whole."""
        self.put(files, token)
        if self._beside.exists():
            replace_store(self._beside, self._target)
            sync_folder(self.path.parent)

    def take_back(self) -> None:
        """All of it, but for the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(exist_ok=True)

    def _append(self, file: MergedFile, merged: Path, start: int) -> None:
        root, stop = self._root, start + file.rows
        arrays = [array for array in self._arrays(root) if array.rows < stop]  # another run may have begun with it
        for array in arrays:
            self._move(array, merged, start)
        if not self._has_chunks(file, root, start, self._arrays(root)):
            raise self._gone(self.placed)
        for array in arrays:
            new = merged / array.way / f"{_METADATA}.new"
            new.write_text(json.dumps(array.with_rows(stop), indent=2))
            sync_file(new)
            new.rename(root / array.way / _METADATA)
            sync_folder(root / array.way)
        shutil.rmtree(merged)

    def _move(self, array: _Node, merged: Path, start: int) -> None:
        if start % array.chunk_rows:
            raise not_continued(self.path, f"the data set has more rows than the {start} that it had before")
        new = self._read(merged, array.way)
        if new.with_rows(0) != array.with_rows(0):
            raise OutputError(
                f"{self.path}: workers write the metadata of {array} in different ways; "
                "let all have the same version of zarr, and begin again with --force"
            )
        chunks = self._root / array.way / "c"
        chunks.mkdir(exist_ok=True)
        first = start // array.chunk_rows
        for number in range(-(-new.rows // array.chunk_rows)):
            with suppress(FileNotFoundError):  # zeros alone have no file
                (merged / array.way / "c" / str(number)).rename(chunks / str(first + number))
        sync_folder(chunks)

    def _has_chunks(self, file: MergedFile, store: Path, start: int, arrays: list[_Node]) -> bool:
        return sum(array.bytes_of(store, start, start + file.rows) for array in arrays) == file.bytes

    def _arrays(self, store: Path, way: Path = Path()) -> list[_Node]:
        node = self._read(store, way)
        if node.is_array:
            return [node]
        folders = sorted(entry.name for entry in os.scandir(store / way) if entry.is_dir(follow_symlinks=False))
        return [array for name in folders for array in self._arrays(store, way / name)]

    def _read(self, store: Path, way: Path) -> _Node:
        path = store / way / _METADATA
        try:
            node = _Node(way, json.loads(path.read_bytes()))
            if node.is_array and not (node.rows >= 0 and node.chunk_rows > 0):
                raise ValueError("no array has such a shape")
            return node
        except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise not_continued(self.path, f"{path} is gone, or damaged") from error

    def _gone(self, number: int) -> OutputError:
        return not_continued(self.path, f"{self.title(number)} is gone, or another file")

    @property
    def _beside(self) -> Path:
        """Where a store is made that replaces another."""
        return self._target.temporary() / "store"

    @property
    def _root(self) -> Path:
        return self._beside if self.replaces else self.path
