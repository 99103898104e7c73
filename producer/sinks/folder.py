"""An output that is a folder of files, written by workers: what counts of what they have left, and under which name.

parts, as chunks are answered --orders of about `PART_BYTES`--> a worker merges them --journal--> part-00000.parquet ...

    OUT.parquet/                part-00000.parquet and so on: whole files, the first rows of the output, nothing else
    OUT.zarr/                   a Zarr store, of which each array is the first rows of the output
    .OUT.parquet.part/TOKEN/    what workers write: parts of chunks, merged files that have no name yet
    OUT.parquet.manifest.json   which files count, and whether that is all

The working folder is beside the output and not in it: some readers take whatever they find below a folder. Its token
tells a worker that has another folder at that place.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Generator, Set
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import msgspec

from producer.rows.part import Part, StoredPart
from producer.sinks.filled_rows import FilledRows, write_mask
from producer.sinks.final_files import MANIFEST, FinalFiles, MergedFile, NumberedFiles, write_manifest
from producer.sinks.journal import JournalHead
from producer.sinks.left_parts import adoptable
from producer.sinks.mending.mended_files import complete, forget
from producer.sinks.output_place import OutputPlace, place_of, when_there_is_room
from producer.sinks.pending_parts import FileRows, PendingParts
from producer.sinks.zarr_store import ZarrStore
from tasks.outputs.failed_mask import mask_path
from tasks.outputs.formats import WRITERS
from tasks.outputs.parts import MergeOrder
from tasks.outputs.temp_paths import OutputTarget, not_continued
from tasks.outputs.writer import Arrays, Specs, Writer
from tasks.protocol.codec import Key
from tasks.protocol.messages import MergeReply, PartsReply
from worker_config.decodable import decodable
from worker_config.errors import OutputError
from worker_config.object_urls import is_url

# Of one file, about, where nobody says otherwise.
PART_MIB = 128


class Merges(Protocol):
    """The job that merges, begun when the first order is given."""

    def add(self, order: MergeOrder) -> None:
        """One more file is to be made."""

    def end(self) -> None:
        """No more files."""

    def is_ready(self) -> bool:
        """Whether `take` would not wait."""

    def take(self) -> StoredPart:
        """The next file, in the order of the orders."""

    def close(self) -> None:
        """Nobody wants the rest."""


class FolderWriter(Writer):
    """The files of one output; it writes none itself.

    Attributes:
        begin_merges: begins the job that merges; set before the first order is due.
        part_bytes: of one file, about.
        output_name: what a single output without a name is called in the files.
        files: those that are merged, in their order.
        token: the name of the working folder.
        place: where both are.
        keeps_parts: whether that stays where the output is begun anew, as workers write to it already.
    """

    keeps_parts: bool
    suffix: str
    token: str

    def __init__(self, target: OutputTarget, token: str = "") -> None:
        super().__init__(target)
        self.keeps_parts = bool(token)
        self.suffix = target.path.suffix.lower()
        self.begin_merges: Callable[[MergeReply], Merges] | None = None
        self.part_bytes = PART_MIB * 2**20
        self.output_name = ""
        self.files: list[MergedFile] = []
        self.place: OutputPlace = place_of(target.path)
        self._form = WRITERS[self.suffix](target)
        self.holds_one: bool = self._form.holds_one
        self._final = _final_files(target, self.place)
        self._block_rows = 1
        self.token = token
        self._parts = PendingParts()
        self._filled = FilledRows()
        self._ordered: deque[FileRows] = deque()
        self._spent: list[str] = []  # merged, which the journal may not know
        self._removable: list[str] = []
        self._notes: list[dict[str, Any]] = []
        self._merges: Merges | None = None
        self._sizes = [1, 1]  # of parts that were merged, and of their files
        self._job = ""
        self._left: Set[str] = frozenset()
        self._noted: Set[str] = frozenset()
        self._is_published = False

    @property
    def folder(self) -> str:
        """Where workers write."""
        return self.place.folder(self.token)

    @property
    def reply(self) -> PartsReply:
        """What chunks are told of it."""
        return PartsReply(self.folder)

    @property
    def needs_workers(self) -> bool:
        """Whether parts wait to be merged."""
        return bool(self._parts.rows or not self.files)

    def add_mask(self, specs: Specs) -> None:
        """As files of the format have it, or, where these have no place for it, as a file beside them.

        Raises:
            OutputError: that would be behind a URL.
        """
        if self._marks_beside and is_url(self.target.path):
            raise OutputError(f"{self.target.path}/: has no place for marks of rows that failed; use .parquet/")
        super().add_mask(specs)
        self._form.mask = self.mask

    @property
    def mask_name(self) -> str:
        """As of one file."""
        return self._form.mask_name

    def name(self, key: Key) -> str:
        """As the files have it."""
        return self._form.name(self._form.named(key, self.output_name))

    def is_there(self) -> bool:
        """Whether there are files of an output, or others, under its name."""
        return bool(self.place.named())

    def check_replaceable(self) -> None:
        """Nothing but such an output is ever removed."""
        self._final.check_replaceable()

    def create(self) -> None:
        """Make the folders."""
        if isinstance(self.target.path, Path):
            with suppress(OutputError):
                complete(self.target.path)
            forget(self.target.path)
        self._final.create()
        self.token = self.token or secrets.token_hex(8)
        self.place.create(self.token)
        self.keeps_parts = False
        self._notes = [{"token": self.token, "replaces": self._final.replaces}]

    def begin(self, specs: Specs, first: Arrays) -> None:
        """Only by how many rows files are cut: the format itself is asked by whoever writes the first one."""
        self._block_rows = self._form.whole_rows(specs, self.target.rows)
        self._notes.append({"block_rows": self._block_rows})

    def load(self, notes: list[dict[str, Any]]) -> None:
        """What the journal has of a former run: before `reopen`."""
        for note in notes:
            self.token, self._job = note.get("token", self.token), note.get("job", self._job)
            self._final.replaces = note.get("replaces", self._final.replaces)
            self._block_rows = note.get("block_rows", self._block_rows)
            self.files += msgspec.convert(note.get("files", []), decodable(list[MergedFile]))
        self._noted = {one["name"] for note in notes for one in note.get("parts", []) if one["name"]}
        self._parts.load(notes, self.files[-1].stop if self.files else 0, sum(file.rows for file in self.files))
        self._filled.load(notes)

    def reopen(self, specs: Specs, rows: int, mark: int) -> None:
        """Look for the files that the journal knows, and remove all others."""
        self._filled.rows = rows
        written = self.place.written(self.token)
        self.place.create(self.token)
        self._final.reopen(self.files, self.token, written)
        parts = self._parts.files()
        for name, size in parts.items():
            if written.get(name) != size:
                raise not_continued(self.target.path, f"{self.folder}/{name} is gone, or cut short")
        self._left = written.keys() - parts.keys() - {file.name for file in self.files[self._final.placed :]}

    def note_job(self, job: str) -> None:
        """The job whose parts come from now on."""
        self._notes.append({"job": job})

    def note_taken(self) -> None:
        """Parts are looked for in the folder: of those that a detached job's answers name, some may be gone."""
        self._notes.append({"taken": True})

    def adopt(self, head: JournalHead | None, first_row: int) -> Generator[Part, None, None]:
        """The parts from this row on that a former run did not note, if they prove what they are; others go, or all."""
        taken = set[str]()
        try:
            for part in adoptable(self.folder, self._left, self._job, head, first_row) if head else ():
                yield part
                taken |= {part.stored.ref.name} if part.stored and part.stored.ref else set()
        finally:
            self.place.remove_written(self.token, self._left - taken)

    def has(self, part: Part) -> bool:
        """Whether a former run has noted the file of this part; one without a file is as good as another."""
        return part.stored is None or part.stored.ref is None or part.stored.ref.name in self._noted

    def add(self, part: Part) -> None:
        """Note the file that has the rows of a part; parts come in order."""
        self._parts.add(part, lambda: self.folder)
        self._notes += self._filled.add(part)
        is_due = self._parts.bytes * self._sizes[1] >= self.part_bytes * self._sizes[0]
        if is_due and self._parts.is_decided and self.begin_merges:
            self._order()

    def write(self, start: int, arrays: Arrays, numbers: Any) -> None:
        """Workers do it."""
        raise NotImplementedError

    def sync(self) -> int:
        """Workers have brought parts and merged files to the disk; take note of the latter."""
        while self._merges and self._ordered and self._merges.is_ready():
            self._take_file(self._merges)
        return 0

    def has_news(self) -> bool:
        """Whether there is what the journal does not know."""
        self.sync()
        return bool(self._notes or self._parts.notes)

    def pop_notes(self) -> list[dict[str, Any]]:
        """What the journal is to know, before `settle`."""
        notes = [*self._notes, *self._parts.notes]
        self._notes, self._parts.notes = [], []
        return notes

    def settle(self) -> None:
        """The journal knows it: merged files get their names, unless they replace an output at the end."""
        self._removable += self._spent
        self._spent = []
        if not self._final.replaces and self._final.placed < len(self.files):
            when_there_is_room(self.target.path, lambda: self._final.put(self.files, self.token))
            self._write_manifest(complete=False)

    def finish(self, rows: int) -> None:
        """Wait until all parts are merged."""
        if self._parts and self.needs_workers:
            self._order(at_end=True)
        while self._merges and self._ordered:
            self._take_file(self._merges)

    def publish(self) -> None:
        """All files get their names."""
        if self._merges:
            self._give(self._merges, FileRows([], 0, 0))
            self._merges.end()
        if self._final.replaces:
            self._write_manifest(complete=False)
        if self.mask and self._marks_beside:
            write_mask(made := Path(self.folder) / "mask", self._filled.rows, self._filled.runs)
            made.replace(mask_path(self.target.path))
        when_there_is_room(self.target.path, lambda: self._final.publish(self.files, self.token))
        self._write_manifest(complete=True)
        self._is_published = True

    def close(self) -> None:
        """End what is being merged."""
        if self._merges:
            self._merges.close()
            self._merges = None

    def remove(self) -> None:
        """Remove the working folder, and what was published of an output that will not be."""
        if not self.keeps_parts:
            self.place.remove_working(self.token)
        if not self._is_published and not self._final.replaces:
            if self._final.placed:
                self._final.take_back()
                self.place.remove_beside(MANIFEST)
            self.place.unmake()

    @property
    def _marks_beside(self) -> bool:
        """Whether files have no place for marks of rows that failed."""
        return self.suffix == ".npy"

    def _order(self, *, at_end: bool = False) -> None:
        """Have what waits merged, as far as it is whole blocks."""
        taken = self._parts.take(self._block_rows, at_end=at_end)
        if taken is None:
            return
        if self._merges is None:
            if self.begin_merges is None:
                raise OutputError(f"{self.target.path}: nobody merges its parts")
            self._merges = self.begin_merges(MergeReply(self.folder, self.suffix))
        self._ordered.append(taken)
        self._give(self._merges, taken)

    def _give(self, merges: Merges, taken: FileRows) -> None:
        """Give an order; whoever carries it out removes files too, as freeing their memory has its cost."""
        spent, self._removable = self._removable, []
        merges.add(
            MergeOrder(
                str(self.target.path),
                taken.parts,
                taken.rows,
                self._parts.outputs,
                taken.first_row,
                self._block_rows,
                self.output_name,
                bool(self.mask) and not self._marks_beside,
                spent,
                self._parts.kept,
            )
        )

    def _take_file(self, merges: Merges) -> None:
        try:
            stored = merges.take()
        except BaseException:
            self._ordered.clear()  # no more will come
            raise
        ref, taken = stored.ref, self._ordered.popleft()
        if ref is None or ref.rows != taken.rows:
            raise OutputError(f"{self.target.path}: a file that was merged has not the {taken.rows} rows of its parts")
        file = MergedFile(ref.name, taken.parts[0].start, taken.stop, taken.rows, ref.bytes)
        self.files.append(file)
        self._sizes[0] += sum(part.bytes for part in taken.parts)
        self._sizes[1] += ref.bytes
        self._spent += [part.name for part in taken.merged if part.name]
        self._notes.append({"files": [msgspec.to_builtins(file)]})

    def _write_manifest(self, *, complete: bool) -> None:
        rows, told = sum(file.rows for file in self.files[: self._final.placed]), self._final.told(self.files)
        when_there_is_room(self.target.path, lambda: write_manifest(self.place, told, rows, complete=complete))


def _final_files(target: OutputTarget, place: OutputPlace) -> FinalFiles:
    if target.path.suffix.lower() == ".zarr":
        return ZarrStore(target, place)
    return NumberedFiles(target.path, place)
