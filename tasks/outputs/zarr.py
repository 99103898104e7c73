"""Rows --> a Zarr store (format 3), a folder: one array, or a group that holds an array per output.

The output `o` of model `m` is the array "o" in the group "m"; an output without a name is the store itself, or, where
rows that failed are marked, the array "output" beside the mask. Only the first axis is cut, into Zarr chunks of about
4 MiB. Rows are written in place: each file of the store is replaced as a whole, so a writer that is killed leaves the
old or the new one, and never half of either.
"""

from __future__ import annotations

import math
import shutil
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

from tasks.outputs.row_spec import RowSpec, output_name
from tasks.outputs.temp_paths import OutputTarget, not_continued, sync_folder
from tasks.outputs.writer import Arrays, Specs, Writer, title
from tasks.protocol.codec import Array, Key
from worker_config.errors import OutputError
from worker_config.files import sync_file
from worker_config.foreign_errors import import_optional

ZARR_CHUNK_BYTES = 4 * 2**20

# A string is kept as a pointer in memory; this is a guess at what it takes in the file.
_STRING_BYTES = 64

# Of a store, of format 3 or 2.
METADATA = ("zarr.json", ".zarray", ".zgroup")


def has_metadata(folder: Path) -> bool:
    """Whether a folder says of itself that it is a Zarr store, of format 3 or 2."""
    return any((folder / name).exists() for name in METADATA)


class ZarrWriter(Writer):
    """Arrays in a folder; they grow with the rows where the number of rows is not known."""

    any_order = True
    can_drop = True
    holds_one = True

    def __init__(self, target: OutputTarget) -> None:
        super().__init__(target)
        self._zarr = import_optional("zarr", "zarr", str(target.path))
        self._arrays: dict[Key, Any] = {}
        self._unsynced: set[tuple[Key, int]] = set()

    def check_replaceable(self) -> None:
        """Nothing but a Zarr store is ever removed."""
        path = self.target.path
        if not path.is_dir() or not has_metadata(path):
            raise OutputError(f"{path}: exists and is no Zarr store; choose another name")

    def create(self) -> None:
        """Make the folder."""
        self.temporary.mkdir()

    def begin(self, specs: Specs, first: Arrays) -> None:
        """Make the arrays."""
        for key in specs:
            self._check_name(key, specs)
        for key, spec in specs.items():
            value_bytes = _STRING_BYTES if spec.dtype.kind == "O" else spec.dtype.itemsize
            chunk_rows = max(1, ZARR_CHUNK_BYTES // max(1, math.prod(spec.shape) * value_bytes))
            if self.target.rows is not None:
                chunk_rows = min(chunk_rows, max(1, self.target.rows))
            self._arrays[key] = self._zarr.create_array(
                str(self.temporary),
                name=self._path(key) or None,
                shape=(self.target.rows or 0, *spec.shape),
                chunks=(chunk_rows, *(max(1, length) for length in spec.shape)),
                dtype=self._dtype(key, spec, first),
                zarr_format=3,
            )
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
            self._arrays[key] = array

    def write(self, start: int, arrays: Arrays, numbers: Array) -> None:
        """Write rows to their place."""
        for key, rows in arrays.items():
            if rows.dtype.kind == "O" and not all(isinstance(value, str) for value in rows.flat):
                raise OutputError(  # NumPy would write how Python shows the value
                    f"{self.target.path}: {output_name(key)} of {title(numbers)} is not all strings; "
                    "use .jsonl, or change it with a postprocess function"
                )
            array, stop = self._arrays[key], start + len(rows)
            if self.target.rows is None:
                array.resize((stop, *array.shape[1:]))
            if rows.size:
                array[start:stop] = rows.astype(object) if rows.dtype.kind == "U" else rows
            chunk_rows = array.chunks[0]
            self._unsynced.update((key, number) for number in range(start // chunk_rows, -(-stop // chunk_rows)))

    def sync(self) -> int:
        """Bring the files that changed, and their folders, to the disk."""
        for key, number in self._unsynced:
            array = self._arrays[key]
            root = self.temporary / self._path(key)
            file = root / array.metadata.encode_chunk_key((number, *(0 for _ in array.shape[1:])))
            with suppress(FileNotFoundError):  # rows of zeros alone have no file
                sync_file(file)
            for folder in takewhile(root.parent.__ne__, file.parents):
                sync_folder(folder)
            sync_file(root / "zarr.json")
        self._unsynced.clear()
        return 0

    def finish(self, rows: int) -> None:
        """Bring everything to the disk."""
        self._unsynced = {(key, number) for key, number in self._unsynced if not self.is_dropped(key)}
        for model in self.dropped:
            shutil.rmtree(self.temporary / model, ignore_errors=True)
        for key, array in self._arrays.items():
            if not self.is_dropped(key) and array.shape[0] > rows:
                array.resize((rows, *array.shape[1:]))
        self.sync()
        self._sync_metadata()

    def publish(self) -> None:
        """Take the place of an older store, which is kept under a temporary name until then."""
        path, old = self.target.path, self.target.temporary("old")
        if path.exists():
            self.check_replaceable()
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
        try:
            self.temporary.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)

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
