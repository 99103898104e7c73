"""This module puts outputs on disk: rows at their place in a temporary file, which gets the final name at the end.

Rows are written with `seek` and `write`, not through a memory map: a full disk is then an error, where a map kills
the process (SIGBUS), and the output's pages do not count as memory of the producer.
"""

from __future__ import annotations

import os
import secrets
import shutil
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from producer.aggregator import Array, Key, Layout, Part, RowSpec, output_name
from worker_config.errors import OutputError

# The name that NumPy gives to an array without one.
_NAMELESS = "arr_0"


class Sink(ABC):
    """One output file in the making; made by `open_sink`, ended by `commit` or `abort`.

    As a context manager it aborts on leaving, unless `commit` came first.
    """

    def __init__(self, path: Path, temporary: Path, stream: IO[bytes], rows: int) -> None:
        self.path = path
        self._rows = rows
        self._layout = Layout(rows)
        self._temporary = temporary
        self._stream = stream
        self._begun = False

    def write(self, part: Part) -> None:
        """Write the rows of a part to their place; parts come in any order, each one once.

        A part that was refused leaves the sink as it was; after an OutputError the file cannot be completed.

        Raises:
            OutputError: the disk refuses, or the file type cannot hold such outputs.
            MessageError: the part does not fit the rows or the first part.
        """
        arrays = self._layout.accept(part)
        with _one_line_errors(self.path):
            if not self._begun:
                for key, spec in self._layout.specs.items():
                    _check_dtype(self.path, key, spec)
                self._begin(self._layout.specs)
                self._begun = True
            for key, array in arrays.items():
                self._write_rows(key, part.start, array)
        self._layout.count(part)

    def commit(self) -> None:
        """Bring everything to the disk, then give the file its final name in one step.

        Raises:
            OutputError: the disk refuses; nothing is left behind.
            CeleriacError: rows were never written; nothing is left behind.
        """
        try:
            self._layout.check_complete()
            if not self._begun:
                raise OutputError(f"{self.path}: nothing to write: no part came, so the outputs are not known")
            with _one_line_errors(self.path):
                self._finish()
                self._stream.flush()
                os.fsync(self._stream.fileno())
                self._stream.close()
                self._temporary.replace(self.path)
                _sync_folder(self.path.parent)
        finally:
            self.abort()

    def abort(self) -> None:
        """Remove every temporary file; harmless when called again, or after `commit`."""
        with suppress(OSError):  # what could not be flushed is not wanted any more
            self._stream.close()
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    @abstractmethod
    def _begin(self, specs: dict[Key, RowSpec]) -> None:
        """Make room for outputs of this layout."""

    @abstractmethod
    def _write_rows(self, key: Key, start: int, array: Array) -> None: ...

    @abstractmethod
    def _finish(self) -> None:
        """Complete the temporary file."""


class NpySink(Sink):
    """One array in an `.npy` file."""

    def _begin(self, specs: dict[Key, RowSpec]) -> None:
        if len(specs) > 1:
            raise OutputError(
                f"{self.path}: one .npy file holds one array, but there are {len(specs)} outputs: "
                f"{', '.join(map(_member_name, specs))}; use .npz"
            )
        (spec,) = specs.values()
        _check_free(self.path, [_bytes_of(spec, self._rows)])
        self._column = _Column(self._stream, spec, self._rows)

    def _write_rows(self, key: Key, start: int, array: Array) -> None:
        self._column.write(start, array)

    def _finish(self) -> None:
        pass


class NpzSink(Sink):
    """Arrays by name in an `.npz` file, uncompressed; each one is a temporary `.npy` file until the end.

    The array of model `m` and output `o` is named "m/o"; an array without a name "arr_0", as NumPy names it.
    """

    def __init__(self, path: Path, temporary: Path, stream: IO[bytes], rows: int) -> None:
        super().__init__(path, temporary, stream, rows)
        self._columns: dict[Key, _Column] = {}
        self._files: list[tuple[Path, IO[bytes]]] = []

    def _begin(self, specs: dict[Key, RowSpec]) -> None:
        names = [_member_name(key) for key in specs]
        if len(set(names)) < len(names):
            raise OutputError(f"{self.path}: two outputs would have the same name in the file: {', '.join(names)}")
        _check_free(self.path, [_bytes_of(spec, self._rows) for spec in specs.values()])
        for key, spec in specs.items():
            file, stream = _new_temporary(self.path)
            self._files.append((file, stream))
            self._columns[key] = _Column(stream, spec, self._rows)

    def _write_rows(self, key: Key, start: int, array: Array) -> None:
        self._columns[key].write(start, array)

    def _finish(self) -> None:
        with zipfile.ZipFile(self._stream, "w", zipfile.ZIP_STORED) as archive:
            for (file, stream), key in zip(self._files, self._columns, strict=True):
                stream.seek(0)
                with archive.open(f"{_member_name(key)}.npy", "w", force_zip64=True) as member:
                    shutil.copyfileobj(stream, member, 2**20)
                stream.close()
                file.unlink()  # now, so that the disk need not hold everything twice

    def abort(self) -> None:
        """Remove every temporary file; harmless when called again, or after `commit`."""
        super().abort()
        for file, stream in self._files:
            with suppress(OSError):
                stream.close()
            with suppress(OSError):
                file.unlink(missing_ok=True)


_SINKS: dict[str, type[Sink]] = {".npy": NpySink, ".npz": NpzSink}


class _Column:
    """An array on disk, as an `.npy` file of full size from the start."""

    def __init__(self, stream: IO[bytes], spec: RowSpec, rows: int) -> None:
        self._stream = stream
        header: dict[str, Any] = {
            "descr": np.lib.format.dtype_to_descr(spec.dtype),
            "fortran_order": False,
            "shape": (rows, *spec.shape),
        }
        np.lib.format.write_array_header_1_0(stream, header)
        self._offset = stream.tell()
        self._row_bytes = _bytes_of(spec, 1)
        stream.truncate(self._offset + rows * self._row_bytes)

    def write(self, start: int, array: Array) -> None:
        self._stream.seek(self._offset + start * self._row_bytes)
        self._stream.write(np.ascontiguousarray(array).data)


def open_sink(path: str | Path, rows: int, force: bool) -> Sink:
    """Begin an output file; everything that can be known before the work is checked here, by making the temporary file.

    Args:
        path: where the output goes; `.npy` for one array, `.npz` for several. A link is followed.
        rows: rows of the whole output.
        force: replace an existing file.

    Raises:
        OutputError: the file cannot be written; the text names it, the cause, and what to do.
    """
    path = Path(os.path.realpath(path))
    make = _SINKS.get(path.suffix.lower())
    if make is None:
        raise OutputError(
            f"{path}: files of type {path.suffix or '(none)'!r} cannot be written; use {' or '.join(_SINKS)}"
        )
    with _one_line_errors(path):
        if path.is_dir():
            raise OutputError(f"{path}: is a folder; name a file in it")
        if not path.parent.is_dir():
            raise OutputError(f"{path}: there is no folder {path.parent}; make it first")
        if path.exists():
            if not path.is_file():
                raise OutputError(f"{path}: exists and is not a regular file; choose another name")
            if not force:
                raise OutputError(f"{path}: exists; use --force to replace it")
        temporary, stream = _new_temporary(path)
    return make(path, temporary, stream, rows)


def _new_temporary(path: Path) -> tuple[Path, IO[bytes]]:
    """Create a file beside the output, so that it can take its name; with the usual mode, not a private one."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    return temporary, temporary.open("xb+")


def _check_dtype(path: Path, key: Key, spec: RowSpec) -> None:
    if spec.dtype.hasobject:
        raise OutputError(
            f"{path}: {output_name(key)} is strings, which NumPy files hold only as pickle; "
            "make it numbers with a postprocess function, or take it in Python"
        )
    if spec.dtype.isbuiltin == 2:  # registered by another library: NumPy reads such files back as raw bytes
        raise OutputError(
            f"{path}: {output_name(key)} is {spec.dtype}, which NumPy files cannot hold; "
            "make it float32 with a postprocess function, or take it in Python"
        )


def _check_free(path: Path, sizes: Iterable[int]) -> None:
    sizes = list(sizes)
    # An .npz needs room for one array twice, while it is copied into the zip file.
    needed = sum(sizes) + (max(sizes) if path.suffix.lower() == ".npz" else 0)
    disk = shutil.disk_usage(path.parent)
    if disk.total and needed > disk.free:  # a file system that does not know its size says 0
        raise OutputError(
            f"{path}: needs {needed / 2**20:.0f} MiB, the disk has {disk.free / 2**20:.0f} MiB free; make room"
        )


def _bytes_of(spec: RowSpec, rows: int) -> int:
    values = rows
    for length in spec.shape:
        values *= length
    return values * spec.dtype.itemsize


def _member_name(key: Key) -> str:
    return "/".join(key) or _NAMELESS


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut."""
    with suppress(OSError):  # not every file system can; the rows are safe without
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        cause = error.strerror or str(error)
        raise OutputError(f"{path}: cannot be written: {cause}; check the folder, the disk and its limits") from error
