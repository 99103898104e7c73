"""Rows of an output that is a folder of files are mended: files that lack them are made anew, each in one step.

files of OUT, rows --mend--> .OUT.mended.part/ --commit: a rename--> .OUT.mended/ --complete: a rename each--> OUT

From the first rename on all of it takes place: should the process die, whoever opens the output next completes it. A
reader finds each file whole, as it was or as it is; the manifest says meanwhile that the output is not complete.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np

from producer.rows.assemble import Layout
from producer.rows.part import Part
from producer.sinks.filled_rows import write_mask
from producer.sinks.final_files import MergedFile, check_files, files_in, read_manifest, write_manifest
from producer.sinks.mending.patch_rows import Repredicted, mended_parts, patched_parts, rows_before
from producer.sinks.mending.read_back import READABLE, OutputReader
from producer.sinks.output_place import place_of
from tasks.outputs.failed_mask import mask_path
from tasks.outputs.formats import WRITERS
from tasks.outputs.temp_paths import OutputTarget, sync_folder
from tasks.outputs.writer import Arrays, Writer
from tasks.protocol.messages import FailureRecord
from worker_config.errors import OutputError
from worker_config.files import write_whole


class MendedFiles:
    """The new files of an output, whose rows another process may not mend meanwhile.

    Args:
        path: the output.
        rows: of the data set.
        mask: what marks rows that failed, if they are marked.

    Attributes:
        output_name: what a single output without a name is called in the files.
        failures: the records of rows that have failed again.

    Raises:
        OutputError: it is not complete, or its files are not those that it had.
    """

    path: Path
    output_name: str

    def __init__(self, path: Path, rows: int, mask: str = "") -> None:
        self.path, self.output_name = path, ""
        self.failures: list[FailureRecord] = []
        self._rows = rows
        has_place = path.suffix.lower() != ".npy"
        self._mask, self._mask_beside = (mask, "") if has_place else ("", mask)
        self._folder = _unfinished(path)
        self._files = read_manifest(path)
        check_files(path, self._files)
        # Rows that are left out at the end are in none of the files.
        self._files[-1] = msgspec.structs.replace(self._files[-1], stop=rows)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()

    def mend(self, mended: Repredicted, *, left_out: bool) -> None:
        """Make the files anew that have rows which had failed, or lack them where these are `left_out`.

        Raises:
            OutputError: the disk refuses, or new rows do not fit those that are there.
        """
        for number, file in enumerate(self._files):
            lost = mended.failed_between(file.start, file.stop)
            before = rows_before(file.stop - file.start, lost, left_out)
            if before != file.rows:
                raise OutputError(f"{self.path / file.name} has {file.rows} rows, not {before}; use --force")
            if len(lost):
                rows = self._make(file, before, mended, left_out)
                size = (self._folder / file.name).stat().st_size
                self._files[number] = msgspec.structs.replace(file, rows=rows, bytes=size)

    @property
    def beside(self) -> Path:
        """The name beside which files are put that are to come beside the output; an empty one makes that one go."""
        return self._folder / self.path.name

    def commit(self) -> None:
        """All of it takes place from now on."""
        if self._mask_beside:
            runs = [(record.start, record.stop) for record in self.failures]
            write_mask(mask_path(self.beside), self._rows, runs)
        write_manifest(place_of(self.beside), self._files, sum(file.rows for file in self._files), complete=True)
        sync_folder(self._folder)
        self._folder.rename(_finished(self.path))
        sync_folder(self.path.parent)
        complete(self.path)

    def abort(self) -> None:
        """The output stays as it was; harmless after `commit`."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _make(self, file: MergedFile, before: int, mended: Repredicted, left_out: bool) -> int:
        """One file; gives its rows."""
        old, new = self.path / file.name, self._folder / file.name
        try:
            new.hardlink_to(old)
        except OSError:  # of a file system without such links
            shutil.copyfile(old, new)
        writer = WRITERS[self.path.suffix.lower()](OutputTarget(new, None, "mended"))
        rows = (file.start, file.stop)
        try:
            if self.path.suffix.lower() in READABLE:
                with OutputReader(old, self._mask) as reader:
                    parts = patched_parts(old, reader, mended, rows, left_out)
                    return self._write(writer, parts, file.start, reader)
            writer.mends = before
            new_rows = self._write(writer, mended_parts(mended, rows), file.start)
            return before + new_rows if left_out else before
        finally:
            writer.close()
            writer.remove()

    def _write(self, writer: Writer, parts: Iterable[Part], first_row: int, old: OutputReader | None = None) -> int:
        layout, place, is_begun = Layout(None, first_row), 0, False
        for part in parts:
            arrays = {writer.named(key, self.output_name): array for key, array in layout.accept(part).items()}
            if not is_begun:
                specs = {writer.named(key, self.output_name): spec for key, spec in layout.specs.items()}
                if self._mask:
                    writer.add_mask(specs)
            if writer.mask:
                arrays[writer.mask] = part.failed_mask
            if not is_begun:
                is_begun = True
                writer.create()
                writer.begin(writer.with_mask(specs), _typed(writer, arrays, old))
            writer.write(place, arrays, part.numbers())
            place += part.rows
            self.failures += part.failed
        writer.finish(place)
        writer.publish()
        return place


def complete(path: Path) -> None:
    """Complete what was committed of an output, if a process could not; OutputError where that is another one now."""
    folder = _finished(path)
    if not folder.is_dir() or not path.is_dir():
        return
    files = read_manifest(folder / path.name)
    check_files(path, files, instead=folder)
    write_manifest(place_of(path), files, sum(file.rows for file in files), complete=False)
    for made in files_in(folder):
        made.replace(path / made.name)
    sync_folder(path)
    for beside in sorted(folder.iterdir()):  # the manifest last; these stay until all are in their place
        to = path.with_name(beside.name)
        if beside.stat().st_size:
            write_whole(to, beside.read_bytes())
        else:
            to.unlink(missing_ok=True)
    forget(path)


def forget(path: Path) -> None:
    """Leave nothing of what was committed of an output."""
    with suppress(FileNotFoundError):
        _finished(path).rename(_unfinished(path))  # so that half of it is nothing
    shutil.rmtree(_unfinished(path), ignore_errors=True)


def _typed(writer: Writer, arrays: Arrays, old: OutputReader | None) -> Arrays:
    """Rows that show whether texts are strings or bytes, as they are in the other files."""
    if old is None:
        return arrays
    first = {}
    for key, array in arrays.items():
        first[key] = np.zeros((1, *array.shape[1:]), array.dtype)
        if array.dtype.hasobject:
            first[key][...] = b"" if writer.name(key) in old.holds_bytes else ""
    return first


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name}.mended.part")


def _finished(path: Path) -> Path:
    return path.with_name(f".{path.name}.mended")
