"""Outputs that a child writes itself: a chunk's as a part, or many parts as a file of the output.

outputs --write_part--> PartRef, of the answer        MergeOrder, instead of rows --merge_parts--> PartRef
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from tasks.outputs.formats import WRITERS
from tasks.outputs.parts import MergeOrder, merge, part_of
from tasks.outputs.temp_paths import OutputTarget, one_line_errors
from tasks.protocol.messages import (
    ChunkMessage,
    FailureRecord,
    MergeReply,
    PartRef,
    PartsReply,
    unpack,
)
from tasks.transport.output_folder import OutputFolder, attempt_name, open_output_folder
from worker_config.errors import OutputError

# Of one merge: children that die in it so often are killed by it.
MOST_DELIVERIES = 20


def write_part(
    message: ChunkMessage,
    reply: PartsReply,
    outputs: Any,
    failed: Sequence[FailureRecord],
    dropped: Sequence[tuple[int, int]],
    roots: Sequence[Path],
) -> tuple[PartRef, int]:
    """Leave a chunk's outputs in its job's folder; the file, and its checksum.

    Raises:
        OutputError: it cannot be written.
        MessageError, PayloadError: outputs are no arrays of rows, or hold what does not travel.
    """
    parts, specs, rows = part_of(message, outputs, failed, dropped)
    name = attempt_name(message.start, message.stop, suffix=".part")
    with open_output_folder(reply.folder, roots) as folder:
        folder.write(name, parts)
    digest = xxhash.xxh3_64()
    for part in parts:
        digest.update(part)
    return PartRef(name, sum(map(len, parts)), rows, specs), int(digest.intdigest())


def merge_parts(
    message: ChunkMessage, reply: MergeReply, payload: Any, roots: Sequence[Path], deliveries: int
) -> PartRef | None:
    """Make one file of many parts, all in the folder of the output, and remove what is spent; None without parts.

    Raises:
        OutputError: it cannot be written, parts are damaged, or children die with it again and again.
        MessageError: the payload is no order.
    """
    order: MergeOrder = unpack(np.asarray(payload).tobytes(), MergeOrder)
    if deliveries > MOST_DELIVERIES:
        raise OutputError(f"{order.output}: children that merge its parts have died {deliveries - 1} times")
    with open_output_folder(reply.folder, roots) as folder:
        for spent in order.spent:
            folder.remove(spent)
        return _merged(order, folder, attempt_name(message.index, suffix=reply.suffix)) if order.parts else None


def _merged(order: MergeOrder, folder: OutputFolder, name: str) -> PartRef:
    rows = sum(part.rows for part in order.parts)
    writer = WRITERS[Path(name).suffix](OutputTarget(folder.path_of(name), rows, "merged"))
    try:
        with one_line_errors(Path(order.output)):
            merge(order, writer, lambda part: folder.read(str(part.name), part.bytes, part.checksum))
            writer.publish()
    except OutputError as error:
        raise OutputError(str(error).replace(str(writer.target.path), order.output)) from error
    finally:
        writer.close()
        writer.remove()
    return PartRef(name, folder.size(name), rows)


def forget_file(message: ChunkMessage, ref: PartRef, roots: Sequence[Path]) -> None:
    """Delete a file that no answer will name."""
    if isinstance(message.reply, PartsReply | MergeReply):
        with suppress(OutputError), open_output_folder(message.reply.folder, roots) as folder:
            folder.remove(ref.name)
