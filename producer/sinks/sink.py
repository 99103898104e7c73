"""Parts --checked--> Writer --once it is safe--> Journal."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np

from producer.rows.assemble import Layout
from producer.rows.part import Part, flatten
from producer.rows.widen import widened_part
from producer.sinks.final_files import manifest_path
from producer.sinks.folder import FolderWriter
from producer.sinks.journal import Journal, JournalHead
from producer.sinks.output_place import when_there_is_room
from tasks.outputs.failed_mask import Fill
from tasks.outputs.row_spec import output_name
from tasks.outputs.temp_paths import one_line_errors, sync_folder
from tasks.outputs.writer import ROW, Writer
from tasks.protocol.dtypes import json_filler
from tasks.protocol.messages import FailureRecord
from worker_config.errors import MessageError, OutputError

logger: logging.Logger = logging.getLogger(__name__)

# Of the time, at most, that bringing rows to the disk may take, as long as it is done often enough.
SYNC_SHARE = 0.02
# Where the disk is fast, a journal would grow with every part.
LEAST_SYNC_SECONDS = 0.1


class Sink:
    """One output in the making; made by `open_sink`, ended by `commit`, `abort` or `discard`.

    As a context manager it aborts on leaving, unless `commit` came first.

    Attributes:
        path: the final name.
        done_rows: rows that a former run has written; the first part to come starts there.
        dropped_rows: rows that a former run has written, and that were dropped to begin afresh.
        committed: whether the output has its final name.
        dropped: models that failed alone, in this run or a former one, and are not in the output.
        failures: the records of rows without a prediction, in this run or a former one.
        accepted: changes of data set or models between runs that wrote this output, which the user has accepted.
        nonfinite: of the rows predicted so far, how many are not finite in inputs and in outputs.
        kept: names of columns of the data set that stand beside the outputs; set before `write`.
        output_name: what a single output without a name is called in the file, if anybody knows; set before `write`.
        folder: of an output whose files workers write.
        can_resume: whether another run may continue what a journal knows.
        may_replace: whether it takes the place of what has its name by then; of an object only where one was there.
    """

    path: Path
    done_rows: int
    dropped_rows: int
    accepted: list[str]
    committed: bool
    folder: FolderWriter | None
    may_replace: bool
    nonfinite: tuple[int, int]

    def __init__(self, writer: Writer, journal: Journal | None, sync_seconds: float, *, mask: bool = False) -> None:
        self.path = writer.target.path
        self.done_rows = journal.done_rows if journal else 0
        self.dropped_rows = journal.dropped_rows if journal else 0
        self.accepted = list(journal.accepted) if journal else []
        self.committed = False
        self.output_name = ""
        self.kept: Collection[str] = ()
        self.can_resume = True
        self.dropped: dict[str, FailureRecord] = dict(journal.dropped) if journal else {}
        self._writer, self.may_replace = writer, writer.target.replaces
        self.folder = writer if isinstance(writer, FolderWriter) else None
        self._is_masked = mask
        self._journal = journal
        self._sync_seconds = sync_seconds
        self._synced_at = time.monotonic()
        self._sync_again_seconds = sync_seconds
        self._layout = Layout(writer.target.rows, self.done_rows, self.dropped)
        self._layout.specs = dict(journal.specs) if journal else {}
        self._layout.skipped = journal.left_out if journal else 0
        self.failures: list[FailureRecord] = list(journal.failures) if journal else []
        self._noted = len(self.failures)
        self.nonfinite = journal.nonfinite if journal else (0, 0)
        self._is_in_order = True
        self._told_widened = False
        self._begun = bool(self._layout.specs)
        self._unsynced = False
        self._failed = False
        self._ended = False

    @property
    def safe_rows(self) -> int | None:
        """Rows that another run need not do again; None where there is nothing to continue; final after `abort`."""
        return self._journal.done_rows if self._journal and self._journal.is_begun else None

    @property
    def left_out(self) -> int:
        """Rows so far that failed, or were dropped on purpose, and are not in the output."""
        return self._layout.skipped

    @property
    def failed_rows(self) -> int:
        """Rows so far that have no prediction."""
        return sum(record.stop - record.start for record in self.failures)

    @property
    def fill(self) -> Fill | None:
        """How rows that failed are marked, and what stands in their place; None where they are not, or not yet."""
        if not self._writer.mask:
            return None
        kept = {(name,) for name in self.kept}
        specs = {key: spec for key, spec in self._layout.kept_specs().items() if key not in kept}
        values = {self._writer.name(key): json_filler(spec.dtype) for key, spec in specs.items()}
        return Fill(self._writer.mask_name, values)

    @property
    def can_drop(self) -> bool:
        """Whether models can be dropped; where a row's outputs stand together, what is written stays."""
        return self._writer.can_drop

    def adopt(self, head: JournalHead | None) -> None:
        """Take over what workers have left of a former run, and its journal does not know; without `head`, nothing."""
        if self.folder and self._journal and self._journal.is_begun:
            self.folder.note_taken()  # before anything goes that an answer of a detached job names
            self._unsynced = True
            self._sync()
            parts = self.folder.adopt(head, self.done_rows)
            # A part may have other outputs than the rows before.
            with one_line_errors(self._writer.target.described), closing(parts), suppress(MessageError):
                for part in parts:
                    self.write(part)
            self.done_rows = self._layout.placed

    def note_job(self, job: str) -> None:
        """Let the journal say that a detached job writes the parts: from now on there is something to continue."""
        if self.folder:
            self.folder.note_job(job)
            self._unsynced = True
            self._sync()

    def drop(self, model: str, record: FailureRecord) -> None:
        """Leave a model out, with the rows of it that are written and those to come; harmless when repeated."""
        if model in self.dropped:
            return
        if not self.can_drop:
            raise OutputError(f"{self.path}: model {model} cannot be taken out of rows that are written; use .npz")
        self._writer.drop(model)
        self.dropped[model] = record
        # From now on a run that continues does so without the model; before the first row there is nothing to continue.
        self._unsynced = self._begun
        self._synced_at = -math.inf  # with the next part: a model must not come back

    def write(self, part: Part) -> None:
        """Write the rows of a part; parts come in order, each one once.

        Where the number of rows is known and there is no journal, .npy, .npz and .zarr take parts in any order, as
        long as none of them lacks rows. Those after rows that are left out move up.
        A part that was refused leaves the sink as it was; after an OutputError the output cannot be completed.

        Raises:
            OutputError: the disk refuses, or the format cannot hold such outputs.
            MessageError: the part does not fit the rows or the first part, or is not the next one.
        """
        self._check_usable()
        self._check_turn(part)
        part = self._named(part)
        if self._writer.widens:
            part = self._widened(part)
        arrays = self._layout.accept(part)
        try:
            with one_line_errors(self._writer.target.described):
                if self.folder:
                    self.folder.output_name = self.output_name
                begins = not self._begun and bool(self._layout.specs)
                if begins and self._is_masked:
                    self._writer.add_mask(self._layout.specs)
                if self._writer.mask:
                    arrays[self._writer.mask] = part.failed_mask
                if begins:
                    specs = self._writer.with_mask(self._layout.specs)
                    self._writer.check_names(specs)
                    self._writer.begin(specs, arrays)
                    self._begun = True
                if self.folder:
                    self.folder.add(part)
                else:
                    self._writer.write(part.start - self.left_out, arrays, part.numbers())
                self._is_in_order &= part.start == self._layout.placed
                self._layout.count(part)
                self.failures += part.failed
                self.nonfinite = (self.nonfinite[0] + part.nonfinite[0], self.nonfinite[1] + part.nonfinite[1])
                self._unsynced = self._begun
                if time.monotonic() - self._synced_at >= self._sync_again_seconds:
                    self._sync()
        except BaseException:  # whatever it was, a part of the rows may be missing
            self._failed = True
            raise

    def commit(self, tell: Callable[[], None] = lambda: None) -> None:
        """Bring everything to the disk, then give the output its final name in one step.

        `tell` writes what stands beside it, before there is nothing left to be continued.

        Raises:
            OutputError: the disk refuses, or refused before.
            CeleriacError: rows were never written.
        """
        try:
            self._layout.check_complete()
            self._check_usable()
            if not self._begun:
                raise OutputError(f"{self.path}: nothing to write: no part came, so the outputs are not known")
            with one_line_errors(self._writer.target.described):
                self._sync()
                self._writer.finish(self._layout.placed - self.left_out)
                if self.folder:
                    self._sync()  # files that were merged since
                elif isinstance(self.path, Path) and self.path.is_dir():
                    manifest_path(self.path).unlink(missing_ok=True)  # of a store that workers wrote, and this replaces
                self._writer.publish()
                self.committed = True
                if not self.folder and isinstance(self.path, Path):
                    sync_folder(self.path.parent)
            tell()
            self.discard()
        finally:
            self.abort()

    def abort(self) -> None:
        """End without an output; harmless when called again, or after `commit`.

        What a journal knows stays, to be continued with `resume`; without a journal, or with no row in it, nothing
        is left behind.
        """
        if self._ended:
            return
        if self._journal is not None:
            with suppress(OSError, OutputError):
                self._sync(waits=False)
        if self.committed or self._journal is None or not self._journal.is_begun or not self.can_resume:
            self.discard()
            return
        self._ended = True
        self._writer.close()
        self._journal.close()

    def discard(self) -> None:
        """End without an output, and leave nothing to be continued; harmless after any other end."""
        if self._ended:
            return
        self._ended = True
        self._writer.close()
        self._writer.remove()
        if self._journal is not None:
            with suppress(OSError, OutputError):
                self._journal.remove()
            self._journal = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def _sync(self, *, waits: bool = True) -> None:
        """First the rows, then the note that they are safe; not tried again, as a second fsync may succeed wrongly.

        The rows that workers write are on the disk, and only the note of them waits for room.
        """
        started = time.monotonic()
        self._unsynced |= self._begun and self.folder is not None and self.folder.has_news()
        if self._journal is not None and self._unsynced:
            self._unsynced = False
            mark, failures = self._writer.sync(), self.failures[self._noted :]
            note = partial(
                self._journal.commit,
                self._layout.placed,
                mark,
                self._layout.specs,
                self.dropped,
                failures,
                self._layout.skipped,
                self.nonfinite,
                self.folder.pop_notes() if self.folder else (),
            )
            if self.folder and waits:
                when_there_is_room(self.path, note)
            else:
                note()
            if self.folder:
                self.folder.settle()
            self._noted = len(self.failures)
        self._synced_at = time.monotonic()
        rest = max(LEAST_SYNC_SECONDS, (self._synced_at - started) / SYNC_SHARE)
        self._sync_again_seconds = min(self._sync_seconds, rest)

    def _widened(self, part: Part) -> Part:
        """The part in dtypes that the format holds; the first one is told of."""
        wide = widened_part(part)
        if wide is not part and not self._told_widened:
            self._told_widened = True
            after = flatten(wide)
            for key, array in flatten(part).items():
                if array.dtype != after[key].dtype:
                    logger.warning(
                        "%s: %s is %s, which %s files cannot hold: it is written as %s, with the same values",
                        self.path.name,
                        output_name(key),
                        array.dtype,
                        self.path.suffix,
                        after[key].dtype,
                    )
        return wide

    def _named(self, part: Part) -> Part:
        """The part with the name of its output, where that is alone and the format has names for such."""
        if self._writer.holds_one or self.output_name in ("", ROW) or not isinstance(part.outputs, np.ndarray):
            return part
        return replace(part, outputs={self.output_name: part.outputs})

    def _check_usable(self) -> None:
        if self._failed or self._ended:
            ending = "it has ended already" if self._ended else "rows could not be written before"
            raise OutputError(f"{self.path}: cannot be completed: {ending}; open it again")

    def _check_turn(self, part: Part) -> None:
        free = self._writer.any_order and self._layout.rows is not None and self._journal is None
        if (part.skipped or self.left_out) and free:
            free = False
            if not self._is_in_order:
                raise MessageError(f"{self.path}: chunk {part.index} lacks rows, so all parts must come in order")
        if not free and part.start != self._layout.placed:
            raise MessageError(
                f"{self.path}: chunk {part.index} starts at row {part.start}, the next one is row {self._layout.placed}"
            )
