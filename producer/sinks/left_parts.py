"""Parts that workers have left, and of which no answer came that was noted: those that prove what they are count.

files that the journal does not know, from its last row on --adoptable--> parts, as if their chunks were answered now
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

import numpy as np

from producer.rows.part import Part, StoredPart
from producer.sinks.journal import JournalHead
from tasks.outputs.parts import LeftPart, left_part
from tasks.outputs.writer import ROW
from tasks.protocol.messages import PartRef
from tasks.transport.output_folder import OutputFolder, attempt_name, open_output_folder
from tasks.transport.output_objects import OutputObjects
from worker_config.columns import expanded
from worker_config.errors import MessageError, OutputError

_PART = re.compile(r"(\d+)-(\d+)-[0-9a-f]{16}\.part")


def adoptable(folder: str, names: Collection[str], job: str, head: JournalHead, first_row: int) -> Iterator[Part]:
    """Give parts that follow each other, the first of which begins at this row.

    Each is whole by its own checksum, and was made by this job, the last one that the journal knows of: of the same
    rows, by the same models, with the same policy; none by an executor that was still held against the own graph.
    """
    by_start: dict[int, list[str]] = {}
    for name in names:
        if found := _PART.fullmatch(name):
            by_start.setdefault(int(found[1]), []).append(name)
    with open_output_folder(folder, [folder]) as opened:
        while part := next(filter(None, (_read(opened, one, job, head) for one in by_start.get(first_row, ()))), None):
            yield part
            if part.stop == first_row:
                return
            first_row = part.stop


def _read(folder: OutputFolder | OutputObjects, name: str, job: str, head: JournalHead) -> Part | None:
    try:
        payload = folder.content(name)
        left = left_part(payload)
        if left is None or not _is_of(left, job, head):
            return None
        about, mine = left.about, attempt_name(left.about.start, left.about.stop, suffix=".part")
        ref = PartRef(mine, len(payload), len(left.numbers), left.outputs, left.kept)
        part = Part(
            0,
            about.start,
            about.stop,
            {},
            tuple(about.failed),
            about.stop - about.start - ref.rows,
            tuple(about.dropped),
            about.nonfinite,
            StoredPart(ref, left.checksum),
        )
        is_same = np.array_equal(part.numbers(), left.numbers) and np.array_equal(part.failed_mask, left.failed)
        if not is_same or not name.startswith(f"{about.start}-{about.stop}-"):
            return None
        folder.claim(name, mine)  # a child whose answer is not taken would remove it
    except (OutputError, MessageError, ValueError, IndexError):
        return None
    return part


def _is_of(left: LeftPart, job: str, head: JournalHead) -> bool:
    about = left.about
    models = {model.name: model.digest for model in about.models}
    keep = [name for name in expanded(head.keep) if name != ROW] if head.keep else []
    kept = [one.key for one in left.kept] == [(name,) for name in keep]
    return about.job == job != "" and models == dict(head.models) and about.on_error == head.on_error and kept
