"""The note beside an unfinished output of what it is and which of its rows are safe.

`.<name>.journal` has one record per line, `crc32 json`, and only ever grows. The first record says what is being done;
each later one that a run of rows is on the disk: it is written after they are.

    1c291ca3 {"format": 4, "kind": ".npy", "rows": 400, "source": {...}, "models": {"digits": "9f3c..."}, ...}
    5e0f0b71 {"start": 0, "stop": 64, "mark": 0, "outputs": [[["digits", "scores"], "<f4", [10]]]}
    a2d3b8c4 {"start": 64, "stop": 128, "mark": 0, "failed": [{"start": 70, "stop": 71, ...}], "left_out": 1}
    90c1d2e7 {"start": 128, "stop": 128, "mark": 0, "dropped": {"letters": {...}}, "left_out": 1}

`failed` has the records of rows that failed since the record before, `left_out` counts those so far that the output
lacks; `nonfinite` counts the predicted rows so far whose inputs, and whose outputs, are not finite. `dropped` says that
a model has failed alone, and with which record: a run that continues is without it. `notes` has what workers have left.
Of a detached job the first of them names it, before any row is safe.
`accepted` says which changes of data set or models the user has accepted, and `head` what the first record would say
since then, or since rows may fail that would have ended the run; `by` is a random name of whoever begins or goes on.
What a writer that was killed left at the end is recognised by its checksum, and dropped. Only one process writes at a
time (`journal_files.py`). Without a second record there is nothing to continue, whatever was being done.
"""

from __future__ import annotations

import json
import secrets
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeAlias

import ml_dtypes
import msgspec
import numpy as np

from producer.sinks.changes import check_same, lets_rows_fail
from producer.sinks.journal_files import JournalFile, StagedJournalFile, open_journal_file, read_journal
from tasks.outputs.row_spec import RowSpec
from tasks.outputs.temp_paths import not_continued
from tasks.protocol.codec import Key
from tasks.protocol.messages import Count, FailureRecord, OnError, to_plain
from worker_config.decodable import decodable
from worker_config.errors import MessageError, OutputError
from worker_config.foreign_errors import UNDECODABLE, one_line

FORMAT = 4

JsonValue: TypeAlias = "str | int | float | bool | list[JsonValue] | dict[str, JsonValue] | None"
_Record: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class JournalHead:
    """What must be the same for an output to be continued.

    Attributes:
        source: what tells the data set from others: path, size, fingerprint, options that change the output.
        models: the digest of each model.
        on_error: what becomes of rows that fail.
        chunk_rows: as they were asked for, "default" where they were not; None where they do not matter.
        keep: columns of the data set that stand beside the outputs.
        sources: the digest of each function, module and file that is in those of `models`, to say what has changed.
        can_resume: whether `source` tells the data set from others; else nothing is left to be continued.
    """

    source: Mapping[str, JsonValue]
    models: Mapping[str, str] = field(default_factory=dict)
    on_error: OnError = "raise"
    chunk_rows: int | Literal["default"] | None = None
    keep: Sequence[str] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    can_resume: bool = True

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> JournalHead:
        """What `as_dict` has given, as a job's record has it; raises MessageError where it is of another release."""
        try:
            return cls(**values)
        except TypeError as error:
            raise MessageError(f"what the job says of its output is not understood: {one_line(error)}") from None

    def as_dict(self) -> dict[str, JsonValue]:
        """The same as plain values."""
        values: dict[str, JsonValue] = {
            "source": dict(self.source),
            "models": dict(self.models),
            "on_error": self.on_error,
            "keep": list(self.keep),
            "sources": dict(self.sources),
        }
        return values if self.chunk_rows is None else {**values, "chunk_rows": self.chunk_rows}


class _Run(msgspec.Struct, omit_defaults=True):
    """A run of rows `[start, stop)` that became safe; see the module's text."""

    start: Count
    stop: Count
    mark: Count
    outputs: list[tuple[Key, str, tuple[Count, ...]]] = []
    dropped: dict[str, FailureRecord] = {}
    failed: list[FailureRecord] = []
    left_out: Count = 0
    nonfinite: Annotated[list[Count], msgspec.Meta(max_length=2)] = []
    accepted: list[str] = []
    head: dict[str, Any] = {}
    notes: list[dict[str, Any]] = []
    by: str = ""


class Journal:
    """The journal of one output, open and locked; made by `open_journal`.

    Attributes:
        done_rows: rows [0, done_rows) are safe.
        mark: what the writer said when they became so.
        specs: the outputs, those of dropped models too; empty while no row is safe.
        dropped: the models that are left out.
        failures: the records of rows that failed.
        left_out: how many of the safe rows the output lacks, since they failed.
        nonfinite: of the safe rows, how many are not finite in inputs and in outputs.
        dropped_rows: rows that a former run has brought to the disk, and that are not continued.
        is_begun: whether there is something to continue: rows, or a detached job that writes parts.
        accepted: changes of data set or models with which the user has said to go on.
        notes: what a writer of many files has of them.
    """

    done_rows: int
    mark: int
    specs: dict[Key, RowSpec]
    dropped: dict[str, FailureRecord]
    failures: list[FailureRecord]
    left_out: int
    nonfinite: tuple[int, int]
    accepted: list[str]
    notes: list[dict[str, Any]]
    is_begun: bool

    def __init__(self, file: JournalFile, records: list[_Record], dropped_rows: int = 0) -> None:
        self._file = file
        self.dropped_rows = dropped_rows
        runs = [msgspec.convert(record, decodable(_Run)) for record in records]
        last = runs[-1] if runs else _Run(0, 0, 0)
        self.done_rows, self.mark = last.stop, last.mark
        known = next((run.outputs for run in runs if run.outputs), [])
        self.specs = {key: RowSpec(np.dtype(getattr(ml_dtypes, name, name)), shape) for key, name, shape in known}
        self.dropped = {name: failure for run in runs for name, failure in run.dropped.items()}
        self.failures = [failure for run in runs for failure in run.failed]
        self.left_out = last.left_out
        inputs, outputs = last.nonfinite or (0, 0)
        self.nonfinite = inputs, outputs
        self.accepted = [change for run in runs for change in run.accepted]
        # What was left before the user has accepted changes is of another data set, or of other models.
        self.notes = [note for run in runs for note in (*run.notes, *([{"job": ""}] if run.accepted else ()))]
        self.is_begun = bool(self.specs or self.notes)

    def commit(
        self,
        stop: int,
        mark: int,
        specs: dict[Key, RowSpec],
        dropped: Mapping[str, FailureRecord] = MappingProxyType({}),
        failures: Sequence[FailureRecord] = (),
        left_out: int = 0,
        nonfinite: tuple[int, int] = (0, 0),
        notes: Sequence[dict[str, Any]] = (),
    ) -> None:
        """Note that the rows up to `stop` are on the disk, and which models are left out.

        `failures` are those since the last call, `left_out` are all rows so far that the output lacks, `nonfinite`
        those that are not finite in inputs and in outputs.
        """
        outputs = [(key, _dtype_name(spec.dtype), spec.shape) for key, spec in specs.items()]
        new = {name: failure for name, failure in dropped.items() if name not in self.dropped}
        run = _Run(self.done_rows, stop, mark, [] if self.specs else outputs, new, list(failures), left_out)
        run.nonfinite, run.notes = list(nonfinite) if any(nonfinite) else [], list(notes)
        record, interrupt = to_plain(run), None
        try:
            self._append(record)
        except KeyboardInterrupt as error:  # nothing has failed: what is on the disk need not be predicted again
            interrupt = error
            self._append(record)
        self.done_rows, self.mark, self.specs, self.dropped = stop, mark, dict(specs), dict(dropped)
        self.is_begun = True
        self.failures += failures
        self.left_out, self.nonfinite = left_out, nonfinite
        if interrupt:
            raise interrupt

    def go_on(self, changes: Sequence[str], head: _Record) -> None:
        """Note that somebody goes on, and which changes are accepted; `head` is what is done since, if it differs."""
        changes = [f"{change}; {self.done_rows} rows are from before" for change in changes]
        run = _Run(self.done_rows, self.done_rows, self.mark, left_out=self.left_out, nonfinite=list(self.nonfinite))
        self._append(to_plain(msgspec.structs.replace(run, accepted=changes, head=head, by=_by())))
        self.accepted += changes

    def begin(self, head: _Record) -> None:
        """Forget everything, and note what is being done."""
        self._file.cut(0)
        self._append({**head, "by": _by()})

    @property
    def staging(self) -> Path | None:
        """The folder of this machine in which an output of objects is made, if it is."""
        return self._file.staging if isinstance(self._file, StagedJournalFile) else None

    def close(self) -> None:
        """Leave the journal for the next run."""
        self._file.close()

    def remove(self) -> None:
        """Nothing is left to continue."""
        self._file.remove()

    def _append(self, record: _Record) -> None:
        self._file.append(_line(record))


def journal_path(path: Path) -> Path:
    """Name the journal of an output."""
    return path.with_name(f".{path.name}.journal")


def open_journal(
    path: Path,
    rows: int | None,
    head: JournalHead,
    *,
    resume: bool,
    force: bool = False,
    accept_changes: bool = False,
    kind: str = "",
) -> Journal:
    """Open and lock the journal of an output; with `resume` it tells what a former run did, if there was one.

    Without it the rows of a former run are dropped, if `force` says so. With `accept_changes` it is continued with
    another data set of as many rows, or other models, which the journal notes. `kind` is the form of the output, where
    its name does not say it.

    Raises:
        OutputError: another process writes the output, or the journal is damaged, or of another piece of work; or there
            are rows of a former run, and nobody said what is to become of them.
    """
    now: _Record = {"format": FORMAT, "kind": kind or path.suffix.lower(), "rows": rows, **head.as_dict()}
    file = open_journal_file(path, journal_path(path), is_staged=not kind)
    with ExitStack() as undo:
        undo.callback(file.close)
        data = file.read()
        records, length = _read(path, data) if resume else ([], 0)
        if len(records) > 1:
            with whole_journal(path):
                then = records[0] | {name: value for one in records[1:] for name, value in one.get("head", {}).items()}
                changes = check_same(path, then, now, accept_changes=accept_changes)
                journal = Journal(file, records[1:])
            file.cut(length)
            has_new_head = bool(changes) or lets_rows_fail(then, now)
            if has_new_head or not file.is_locked:
                journal.go_on(changes, now if has_new_head else {})
        else:
            saved = _safe_rows(path, data)
            if (job := _job_in(path, data)) and not (saved or resume or force):
                raise OutputError(
                    f"{path}: job {job}, which was left with the broker, writes it: `celeriac fetch {job}` puts its "
                    "files in place; begin again with --force"
                )
            if saved and not (resume or force):
                raise OutputError(
                    f"{path}: {saved} rows that an earlier run has saved beside it would be lost; continue it with "
                    "--resume, or begin again with --force"
                )
            undo.callback(file.remove)
            journal = Journal(file, [], dropped_rows=saved)
            journal.begin(now)
        undo.pop_all()
    return journal


def job_in_journal(path: Path) -> str:
    """The detached job, or another one, that writes an output by its journal; empty where others go on without it."""
    return _job_in(path, read_journal(path, journal_path(path)))


@contextmanager
def whole_journal(path: Path) -> Iterator[None]:
    """What a journal says may have right checksums, and make no sense: then the output cannot be continued."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, MemoryError, *UNDECODABLE) as error:
        raise not_continued(path, f"{journal_path(path)} is damaged ({one_line(error)})") from error


def _line(record: _Record) -> bytes:
    text = json.dumps(record).encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


def _read(path: Path, data: bytes) -> tuple[list[_Record], int]:
    """Give the records and where the last one ends; whatever follows it was never complete."""
    lines = data.split(b"\n")[:-1]
    records = [_record(line) for line in lines]
    known: list[_Record] = []
    for record in records:
        if record is None or (known and record.get("start") != known[-1].get("stop", 0)):
            break
        known.append(record)
    if any(records[len(known) :]):
        raise not_continued(path, f"line {len(known) + 1} of {journal_path(path)} is damaged")
    return known, sum(len(line) + 1 for line in lines[: len(known)])


def _safe_rows(path: Path, data: bytes) -> int:
    try:
        records, _ = _read(path, data)
        return int(records[-1].get("stop", 0)) if records else 0
    except (OutputError, TypeError, ValueError):  # nobody could have continued it
        return 0


def _job_in(path: Path, data: bytes) -> str:
    try:
        notes = [note for record in _read(path, data)[0] for note in record.get("notes", [])]
        last: _Record = next((note for note in reversed(notes) if "job" in note or "taken" in note), {})
        return str(last.get("job", ""))
    except (OutputError, TypeError, AttributeError):  # nobody could have continued it
        return ""


def _record(line: bytes) -> _Record | None:
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _by() -> str:
    """Tells two that write the same otherwise."""
    return secrets.token_hex(8)


def _dtype_name(dtype: np.dtype[Any]) -> str:
    return dtype.name if dtype.isbuiltin == 2 else dtype.str
