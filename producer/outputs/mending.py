"""An output of which failed rows are mended: one file, or a folder of files, written anew beside it until it is whole.

rows that were predicted again --mend--> new files --commit--> the output, and what tells of it
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from producer.outputs.sidecar_files import failures_path
from producer.sinks import Sink, open_sink
from producer.sinks.final_files import manifest_path, write_manifest
from producer.sinks.mending.mended_files import MendedFiles
from producer.sinks.mending.patch_rows import Repredicted, mended_parts, patched_parts
from producer.sinks.mending.read_back import READABLE, OutputReader
from producer.sinks.output_place import place_of
from tasks.outputs.temp_paths import one_line_errors
from tasks.protocol.messages import FailureRecord
from worker_config.errors import OutputError


class Mending(Protocol):
    """One output; `failures` are the records of rows that have failed again."""

    @property
    def failures(self) -> Sequence[FailureRecord]:
        """As far as rows were mended."""

    @property
    def committed(self) -> bool:
        """Whether the output is the new one."""

    def mend(self, mended: Repredicted, output_name: str, kept: Collection[str]) -> None:
        """Put new rows in the place of failed ones; raises OutputError where they do not fit.

        `output_name` is what a single output without a name is called, `kept` are columns of the data set beside it.
        """

    def commit(self, tell: Callable[[Path], None]) -> None:
        """Give the output its new rows; `tell` writes, beside a path, the files that say what became of them."""


@contextmanager
def mending_of(path: Path, rows: int, before: int, mark: str, *, left_out: bool) -> Iterator[Mending]:
    """Begin with a finished output of so many `rows` of a data set, of which it has so many `before`.

    Args:
        mark: what marks rows that failed, where fillers stand in their place.
        left_out: whether the output lacks them.

    Raises:
        OutputError: it cannot be mended.
    """
    if path.is_dir() and path.suffix.lower() != ".zarr":
        if not manifest_path(path).exists():
            raise OutputError(f"{path}: is a folder that no worker has written; predict all rows again with --force")
        with one_line_errors(path):
            folder = _Folder(path, rows, mark, left_out=left_out)
            try:
                yield folder
            finally:
                folder.files.abort()
        return
    with open_sink(path, rows, force=True, mask=bool(mark), mends=before) as sink:
        yield _File(sink, rows, mark, left_out=left_out)


class _File:
    def __init__(self, sink: Sink, rows: int, mark: str, *, left_out: bool) -> None:
        self._sink, self._rows, self._mark, self._left_out = sink, (0, rows), mark, left_out

    @property
    def failures(self) -> Sequence[FailureRecord]:
        return self._sink.failures

    @property
    def committed(self) -> bool:
        return self._sink.committed

    def mend(self, mended: Repredicted, output_name: str, kept: Collection[str]) -> None:
        sink, path = self._sink, self._sink.path
        sink.output_name, sink.kept = output_name, kept
        if path.suffix.lower() in READABLE:
            with OutputReader(path, self._mark) as old:
                for part in patched_parts(path, old, mended, self._rows, self._left_out):
                    sink.write(part)
        else:
            for part in mended_parts(mended, self._rows):
                sink.write(part)

    def commit(self, tell: Callable[[Path], None]) -> None:
        path = self._sink.path
        is_of_workers = manifest_path(path).exists()
        self._sink.commit()
        if is_of_workers:
            write_manifest(place_of(path), [], self._rows[1] - self._sink.left_out, complete=True)
        tell(path)


class _Folder:
    committed = False

    def __init__(self, path: Path, rows: int, mark: str, *, left_out: bool) -> None:
        self.files = MendedFiles(path, rows, mark)
        self._left_out = left_out

    @property
    def failures(self) -> Sequence[FailureRecord]:
        return self.files.failures

    def mend(self, mended: Repredicted, output_name: str, kept: Collection[str]) -> None:
        self.files.output_name = output_name
        self.files.mend(mended, left_out=self._left_out)

    def commit(self, tell: Callable[[Path], None]) -> None:
        """What tells of the new rows comes with them, whatever ends this process."""
        tell(self.files.beside)
        if not self.failures:
            failures_path(self.files.beside).touch()
        self.files.commit()
        self.committed = True
