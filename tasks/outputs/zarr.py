"""Rows --> a Zarr store (format 3), a folder: one array, or a group that holds an array per output.

The output `o` of model `m` is the array "o" in the group "m"; an output without a name is the store itself, or, where
rows that failed are marked, the array "output" beside the mask. Only the first axis is cut, into Zarr chunks of 2 to
4 MiB. Rows are written in place: each file of the store is replaced as a whole, so a writer that is killed leaves the
old or the new one, and never half of either.

Rows of a Zarr chunk are a power of two, and no more than those of a block, of which each array has 16 MiB at most, with
all others: so stores of whole blocks follow each other without a Zarr chunk that is in two of them.
"""

from __future__ import annotations

import math
import shutil
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from tasks.outputs.row_spec import RowSpec, output_name
from tasks.outputs.temp_paths import OutputTarget, not_continued, sync_folder
from tasks.outputs.writer import Arrays, Specs, Writer, title
from tasks.protocol.codec import Array, Key
from worker_config.errors import OutputError
from worker_config.files import sync_file
from worker_config.foreign_errors import import_optional

ZARR_CHUNK_BYTES = 4 * 2**20
ZARR_BLOCK_BYTES = 16 * 2**20

# A string is kept as a pointer in memory; this is a guess at what it takes in the file.
_STRING_BYTES = 64

# Of a store, of format 3 or 2.
METADATA = ("zarr.json", ".zarray", ".zgroup")


def has_metadata(folder: Path) -> bool:
    """Whether a folder says of itself that it is a Zarr store, of format 3 or 2."""
    return any((folder / name).exists() for name in METADATA)


def replace_store(store: Path, target: OutputTarget) -> None:
    """Give a store its final name; what has that name is kept under a temporary one until then."""
    path, old = target.path, target.temporary("old")
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    try:
        store.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _power_of_two(most: int) -> int:
    return 1 << max(0, most.bit_length() - 1)


def _row_bytes(spec: RowSpec) -> int:
    value_bytes = _STRING_BYTES if spec.dtype.kind in "UO" else spec.dtype.itemsize
    return max(1, math.prod(spec.shape) * value_bytes)


def check_replaceable(path: Path) -> None:
    """Raise OutputError unless what has the name of a store is one, or an empty folder."""
    if not path.is_dir() or (any(path.iterdir()) and not has_metadata(path)):
        raise not_a_store(path)


def not_a_store(path: object) -> OutputError:
    """What has the name of a store is something else."""
    return OutputError(f"{path}: exists and is no Zarr store; choose another name")


class _Column:
    """One array; rows that follow each other wait until they are a whole Zarr chunk, as each write encodes one anew.

    Attributes:
        array: of the store; it grows with the rows, where it has not all of them.
        unsynced: numbers of the Zarr chunks that may not be on the disk.
    """

    def __init__(self, array: Any, spec: RowSpec) -> None:
        self.array = array
        self.unsynced: set[int] = set()
        self._chunk_rows: int = array.chunks[0]
        self._dtype = np.dtype(object) if spec.dtype.kind == "U" else spec.dtype
        self._waiting: Array | None = None
        self._start = self._count = 0

    def write(self, start: int, rows: Array) -> None:
        """Take rows from `start` on; nothing of `rows` is held."""
        if start != self._start + self._count:
            self.flush()
            self._start = start
        while len(rows):
            place = self._start + self._count
            here = self._chunk_rows - place % self._chunk_rows
            if not self._count and len(rows) >= here:
                here += (len(rows) - here) // self._chunk_rows * self._chunk_rows
                self._put(place, rows[:here])
                self._start += here
            else:
                if self._waiting is None:
                    self._waiting = np.empty((self._chunk_rows, *rows.shape[1:]), self._dtype)
                taken = rows[:here]
                self._waiting[self._count : self._count + len(taken)] = taken
                self._count += len(taken)
                if len(taken) == here:
                    self.flush()
            rows = rows[here:]

    def flush(self) -> None:
        """Write those that wait."""
        if self._count and self._waiting is not None:
            self._put(self._start, self._waiting[: self._count])
        self._start, self._count = self._start + self._count, 0

    def _put(self, start: int, rows: Array) -> None:
        stop = start + len(rows)
        if stop > self.array.shape[0]:
            self.array.resize((stop, *self.array.shape[1:]))
        if rows.size:
            self.array[start:stop] = rows.astype(self._dtype, copy=False)
        self.unsynced.update(range(start // self._chunk_rows, -(-stop // self._chunk_rows)))


class ZarrWriter(Writer):
    """Arrays in a folder; they grow with the rows where the number of rows is not known."""

    any_order = True
    can_drop = True
    holds_one = True

    def __init__(self, target: OutputTarget) -> None:
        super().__init__(target)
        self._zarr = import_optional("zarr", "zarr", str(target.path))
        self._columns: dict[Key, _Column] = {}

    def check_replaceable(self) -> None:
        """Nothing but a Zarr store is ever removed."""
        check_replaceable(self.target.path)

    def whole_rows(self, specs: Specs, rows: int | None) -> int:
        """Rows of a block."""
        block = _power_of_two(ZARR_BLOCK_BYTES // max(1, sum(map(_row_bytes, specs.values()))))
        return block if rows is None else min(block, max(1, rows))

    def create(self) -> None:
        """Make the folder."""
        self.temporary.mkdir()

    def begin(self, specs: Specs, first: Arrays) -> None:
        """Make the arrays."""
        for key in specs:
            self._check_name(key, specs)
        block_rows = self.block_rows or self.whole_rows(specs, self.target.rows)
        for key, spec in specs.items():
            chunk_rows = min(_power_of_two(ZARR_CHUNK_BYTES // _row_bytes(spec)), block_rows)
            array = self._zarr.create_array(
                str(self.temporary),
                name=self._path(key) or None,
                shape=(self.target.rows or 0, *spec.shape),
                chunks=(chunk_rows, *(max(1, length) for length in spec.shape)),
                dtype=self._dtype(key, spec, first),
                zarr_format=3,
            )
            self._columns[key] = _Column(array, spec)
        self._sync_metadata()

    def reopen(self, specs: Specs, rows: int, mark: int) -> None:
        """Continue the arrays of a former run."""
        for left_over in self.temporary.rglob("*.partial"):  # of a file that was being replaced
            left_over.unlink()
        for key, spec in specs.items():
            if self.is_dropped(key):
                continue
            try:
                array = self._zarr.open_array(str(self.temporary), path=self._path(key), mode="r+")
            except (KeyError, ValueError, TypeError) as error:
                raise not_continued(self.target.path, f"{output_name(key)} is no array ({error})") from error
            if array.shape[1:] != spec.shape or array.shape[0] < rows:
                raise not_continued(
                    self.target.path, f"{output_name(key)} has the shape {array.shape}, its journal says {rows} rows"
                )
            if self.target.rows is None:
                array.resize((rows, *spec.shape))
            self._columns[key] = _Column(array, spec)

    def write(self, start: int, arrays: Arrays, numbers: Array) -> None:
        """Write rows to their place."""
        for key, rows in arrays.items():
            if rows.dtype.kind == "O" and not all(isinstance(value, str) for value in rows.flat):
                raise OutputError(  # NumPy would write how Python shows the value
                    f"{self.target.path}: {output_name(key)} of {title(numbers)} is not all strings; "
                    "use .jsonl, or change it with a postprocess function"
                )
        for key, rows in arrays.items():
            self._columns[key].write(start, rows)

    def sync(self) -> int:
        """Bring the files that changed, and their folders, to the disk."""
        for key, column in self._columns.items():
            column.flush()
            root = self.temporary / self._path(key)
            for number in column.unsynced:
                file = root / column.array.metadata.encode_chunk_key((number, *(0 for _ in column.array.shape[1:])))
                with suppress(FileNotFoundError):  # rows of zeros alone have no file
                    sync_file(file)
                for folder in takewhile(root.parent.__ne__, file.parents):
                    sync_folder(folder)
            if column.unsynced:
                sync_file(root / "zarr.json")
            column.unsynced.clear()
        return 0

    def finish(self, rows: int) -> None:
        """Bring everything to the disk."""
        self._columns = {key: column for key, column in self._columns.items() if not self.is_dropped(key)}
        for model in self.dropped:
            shutil.rmtree(self.temporary / model, ignore_errors=True)
        self.sync()
        for column in self._columns.values():
            if column.array.shape[0] > rows:
                column.array.resize((rows, *column.array.shape[1:]))
        self._sync_metadata()

    def publish(self) -> None:
        """Take the place of an older store."""
        if self.target.path.exists():
            self.check_replaceable()
        replace_store(self.temporary, self.target)

    def published_bytes(self) -> int:
        """Of the files of all Zarr chunks."""
        files = (path for path in self.target.path.rglob("*") if path.name not in METADATA and not path.is_dir())
        return sum(file.lstat().st_size for file in files)

    def close(self) -> None:
        """No file is held open."""

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.temporary, ignore_errors=True)

    def _path(self, key: Key) -> str:
        """Of an array in the store; empty for the store itself, in which there can be no other."""
        return "/".join(key) or (self.nameless if self.mask else "")

    def _sync_metadata(self) -> None:
        for path in self.temporary.rglob("zarr.json"):
            sync_file(path)
            sync_folder(path.parent)

    def _check_name(self, key: Key, specs: Specs) -> None:
        """An array cannot lie in another one, and some names are Zarr's own."""
        names = "/".join(key).split("/") if key else []
        inside = any(other != key and "/".join(key).startswith("/".join(other) + "/") for other in specs)
        if inside or any(p in ("", "zarr.json") or not p.strip(".") or p.startswith("__") for p in names):
            raise OutputError(
                f"{self.target.path}: {output_name(key)} cannot be the name of a Zarr array beside the others; "
                "use .npz or .jsonl"
            )

    def _dtype(self, key: Key, spec: RowSpec, first: Arrays) -> Any:
        if spec.dtype.kind in "UO" and not any(isinstance(value, bytes) for value in first[key].flat):
            return "string"
        if spec.dtype.kind in "biufc" and spec.dtype.itemsize <= 16:
            return spec.dtype
        what = spec.dtype if spec.dtype.kind in "biufcV" else "bytes"
        raise OutputError(
            f"{self.target.path}: {output_name(key)} is {what}, which Zarr has no lasting form for; "
            "use .jsonl, or change it with a postprocess function"
        )
