"""An output begins, or continues: whatever can be known before the work is checked here."""

from __future__ import annotations

import os
import secrets
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import cast

from producer.sinks.filled_rows import write_mask
from producer.sinks.folder import FolderWriter
from producer.sinks.journal import Journal, JournalHead, journal_path, open_journal, whole_journal
from producer.sinks.journal_files import is_journal
from producer.sinks.object_target import ObjectTarget
from producer.sinks.sink import Sink
from tasks.outputs.formats import IN_PARTS, WRITERS
from tasks.outputs.npy import ColumnsWriter
from tasks.outputs.temp_paths import OutputTarget, check_parent, not_continued, one_line_errors
from tasks.outputs.writer import Writer
from tasks.transport import run_folder
from worker_config.errors import OutputError
from worker_config.object_urls import WEB, is_url, object_url

# The endings of a name that say what is written.
FORMATS = tuple(WRITERS)


def open_sink(
    path: str | Path,
    rows: int | None,
    force: bool,
    *,
    journal: JournalHead | None = None,
    resume: bool = False,
    accept_changes: bool = False,
    sync_seconds: float = 1.0,
    mask: bool = False,
    mends: int | None = None,
    in_parts: bool = False,
    token: str = "",
    job: str = "",
) -> Sink:
    """Begin an output, by making its temporary file, or continue one.

    Args:
        path: where the output goes; its ending, one of `FORMATS`, says what is written. A link is followed.
        rows: rows of the whole output; None where unknown.
        force: replace an existing output, and what a former run has left of one.
        journal: what is being done, so that another run can continue it; None: an output that is not completed
            leaves nothing behind.
        resume: continue what a journal says; begin afresh where there is none.
        accept_changes: continue also with another data set of as many rows, or other models; `Sink.accepted` says so.
        sync_seconds: with a journal, how long rows may wait to be brought to the disk, which is done earlier where it
            is cheap; a process that is killed loses those that wait.
        mask: rows that failed are marked, as they are where a journal says that they are filled.
        mends: how many rows the output has that is there, of which some are to be replaced, and which the caller has
            locked; what a run has left that was killed as it did so goes. Lines of other rows stay in formats of lines.
        in_parts: the output is a folder of files that workers write; there is a journal then.
        token: of its working folder, where they write already.
        job: the detached job that writes the parts, whose answers tell of each: no other is looked for.

    Raises:
        OutputError: the output cannot be written or continued; the text names it, the cause, and what to do.
        ConfigError: the library that writes such outputs is not installed.
    """
    check_output(path, force, resume=resume, in_parts=in_parts)
    mark = "" if journal else "mended" if mends is not None else secrets.token_hex(6)
    path = output_path(path)
    with one_line_errors(path):
        if journal is None:
            writer = _writer(_target(path, rows, mark, in_parts), in_parts)
            if mends is not None:
                writer.mends = mends
                writer.remove()
            writer.create()
            return Sink(writer, None, sync_seconds, mask=mask)
        mask = mask or journal.on_error == "fill"
        notes = open_journal(
            path,
            rows,
            journal,
            resume=resume,
            force=force,
            accept_changes=accept_changes,
            kind=f"{path.suffix.lower()}/" if in_parts else "",
        )
        with ExitStack() as undo:
            undo.callback(notes.close)
            writer = _writer(_target(path, rows, mark, in_parts, notes.staging), in_parts, token)
            undo.pop_all()
        if mask and notes.specs:
            writer.add_mask(notes.specs)
        _create_or_reopen(writer, notes)
    sink = Sink(writer, notes, sync_seconds, mask=mask)
    sink.can_resume = journal.can_resume
    with ExitStack() as undo:
        undo.callback(sink.abort)
        if not job:
            sink.adopt(None if accept_changes else journal)
        undo.pop_all()
    return sink


def begin_again(sink: Sink, rows: int | None, journal: JournalHead | None) -> Sink:
    """Throw away all rows of an output, those of former runs too, and begin it anew."""
    before, token = sink.folder, ""
    if before:
        before.keeps_parts, token = True, before.token
    sink.discard()
    again = open_sink(sink.path, rows, sink.may_replace, journal=journal, in_parts=before is not None, token=token)
    if before and again.folder:
        again.folder.begin_merges, again.folder.part_bytes = before.begin_merges, before.part_bytes
    return again


def check_output(path: str | Path, force: bool, *, resume: bool = False, in_parts: bool = False) -> None:
    """Raise what `open_sink` would, as far as it can be known before anything is made."""
    path = output_path(path)
    writer = _writer(_target(path, None, "", in_parts, Path()), in_parts)
    with one_line_errors(path):
        if not is_url(path):
            check_parent(path)
        if writer.is_there():
            writer.check_replaceable()
            begun = is_journal(journal_path(path))
            if in_parts and begun:
                return
            if not force and resume and not begun:
                raise OutputError(f"{path}: exists, complete; nothing is left to continue; use --force to begin again")
            if not force:
                raise OutputError(f"{path}: exists; use --force to replace it")


def is_there(path: Path) -> bool:
    """Whether anything has the name of an output, but an empty folder."""
    if is_url(path):
        return ObjectTarget(path, None, "").is_there()
    return path.exists() and not (path.is_dir() and not any(path.iterdir()))


def is_unfinished(path: Path) -> bool:
    """Whether an output is being written, or can be continued."""
    return is_journal(journal_path(path))


def output_path(path: str | Path) -> Path:
    """Where an output goes: a path whose links are followed, or a URL, of which we use what paths have too.

    Raises:
        UsageError: a URL that nothing is written to.
    """
    if not is_url(path):
        return Path(os.path.realpath(path))
    url = object_url(str(path))
    if url.scheme in WEB:
        raise OutputError(f"{url}: web servers are not written to; use a store of objects, s3://, gs:// or az://")
    return cast("Path", replace(url, is_folder=False))


def can_drop(path: Path) -> bool:
    """Whether a model that fails alone can be left out of an output of this format."""
    return _writer(OutputTarget(path, None, "")).can_drop


def _target(path: Path, rows: int | None, token: str, in_parts: bool, staging: Path | None = None) -> OutputTarget:
    """The final name of an output; without a `staging` folder one object is made in a folder of this run alone."""
    if in_parts or not is_url(path):
        return OutputTarget(path, rows, token)
    target = ObjectTarget(path, rows, token, staging=staging or run_folder.make("celeriac-output-"))
    return replace(target, replaces=target.is_there())


def _writer(target: OutputTarget, in_parts: bool = False, token: str = "") -> Writer:
    suffix = target.path.suffix.lower()
    if in_parts:
        if suffix in IN_PARTS:
            return FolderWriter(target, token)
        raise OutputError(f"{target.path}/: a folder of such files cannot be written; use {' or '.join(IN_PARTS)}")
    if is_url(target.path) and suffix == ".zarr":
        raise OutputError(f"{target.path}: a Zarr store is many objects, which workers write: end it with a /")
    make = WRITERS.get(suffix)
    if make is None:
        raise OutputError(
            f"{target.path}: files of type {target.path.suffix or '(none)'!r} cannot be written; "
            f"use {' or '.join(FORMATS)}"
        )
    return make(target)


def _create_or_reopen(writer: Writer, notes: Journal) -> None:
    with ExitStack() as undo:
        undo.callback(notes.close)
        undo.callback(writer.close)
        if notes.is_begun:
            for model in notes.dropped:
                writer.drop(model)
            if isinstance(writer, FolderWriter):
                writer.load(notes.notes)
            if writer.mask and isinstance(writer, ColumnsWriter) and not notes.failures:  # nor could they, perhaps
                masks = writer.paths(writer.with_mask(notes.specs))[writer.mask]
                write_mask(masks, notes.done_rows - notes.left_out, ())
            try:
                with whole_journal(writer.target.path):
                    writer.reopen(writer.with_mask(notes.specs), notes.done_rows - notes.left_out, notes.mark)
            except FileNotFoundError as error:
                gone = error.filename or writer.temporary
                raise not_continued(writer.target.path, f"{gone} is gone") from error
        else:
            undo.callback(notes.remove)
            writer.remove()  # what a run that nobody continues has left
            writer.create()
        undo.pop_all()
