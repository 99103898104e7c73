"""A chunk's outputs, where the producer wants them: encoded into a store, or written to its output's folder.

models that went through --> payload, or a part of the output --> its place and checksum, of the answer
MergeOrder, instead of rows --> a file of the output, made of parts
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from tasks.child.chunk_payload import PayloadStore
from tasks.child.run_models import ChunkOutputs, record_of
from tasks.datasets.kept import Kept
from tasks.outputs.part_files import merge_parts, write_part
from tasks.outputs.parts import MergeOrder, PartAbout, part_of
from tasks.protocol import codec
from tasks.protocol.messages import (
    Answer,
    ChunkMessage,
    Failure,
    InlineRef,
    MergeReply,
    Outputs,
    PartRef,
    PartsReply,
    PayloadRef,
    unpack,
)
from tasks.protocol.seal import Parts, checksum
from tasks.telemetry.stopwatch import Stopwatch
from tasks.transport.output_folder import open_output_folder
from tasks.transport.publish_answer import ASK_AGAIN
from worker_config.errors import OutputError, PayloadError
from worker_config.files import Root

# Of one merge: children that die in it so often are killed by it.
MOST_DELIVERIES = 20
# Of a chunk that has rows, none of which has outputs.
NOTHING_PUT = InlineRef(b""), checksum([])


def put_outputs(
    payloads: PayloadStore, message: ChunkMessage, ran: ChunkOutputs, watch: Stopwatch, kept: Kept, *, is_proven: bool
) -> tuple[PayloadRef | PartRef, int] | None:
    """Where they are, and their checksum; None where no model went through. Models that cannot be sent have failed too.

    `kept` are columns that stand beside them, where they are written to their output's folder; `is_proven` says that
    they are the own graphs', or those of executors that are not held against these any more.

    Raises:
        OutputError: the folder of the output cannot be written.
        MessageError, PayloadError: they are nothing that travels.
    """
    if isinstance(message.reply, PartsReply):
        if not ran.outputs and not (kept and message.on_error == "fill" and ran.failed_rows):
            return None
        watch.enter("store")
        outputs = ran.outputs or None if len(message.models) > 1 else next(iter(ran.outputs.values()), None)
        roots = payloads.places.output_roots
        about = _about(message, ran) if is_proven and not ran.failed else None
        part = part_of(message, outputs, ran.failed_rows, ran.dropped, kept, about)
        with open_output_folder(message.reply.folder, roots) as folder:
            return write_part(folder, message.start, message.stop, part)
    parts = _encode(message, ran) if ran.outputs else []
    if not parts:
        return None
    watch.enter("store")
    return payloads.store(message, parts), checksum(parts)


def of_failed_rows(message: ChunkMessage, failure: Failure) -> Answer:
    """The answer to a chunk that failed, where its rows are to be counted and the others go on; else the failure."""
    record = failure.record
    ends = not failure.failed_rows and record.stage in (*ASK_AGAIN, "model", "write")
    if not isinstance(message.reply, PartsReply) or message.on_error == "raise" or ends:
        return failure
    return Outputs(
        failure.job,
        failure.index,
        message.start,
        message.stop,
        failure.slot,
        0.0,
        NOTHING_PUT[0],
        failed_rows=failure.failed_rows or [record],
        models=message.models,
        checksum=NOTHING_PUT[1],
    )


def _about(message: ChunkMessage, ran: ChunkOutputs) -> PartAbout:
    """What the answer says, for a producer that never gets it."""
    return PartAbout(
        message.job,
        message.models,
        message.on_error,
        message.start,
        message.stop,
        ran.failed_rows,
        [*ran.dropped],
        ran.nonfinite,
    )


def _encode(message: ChunkMessage, ran: ChunkOutputs) -> Parts:
    """The payload of the models that went through, empty if none did; those that cannot be sent have failed too."""

    def encoded(outputs: Any) -> Parts:
        return codec.encode_parts(outputs, compression=message.compression)

    outputs = ran.outputs
    if len(message.models) == 1:
        return encoded(*outputs.values())
    with suppress(PayloadError):
        return encoded(outputs)
    for name in list(outputs):  # whose outputs are they that cannot be sent?
        try:
            encoded(outputs[name])
        except PayloadError as error:
            ran.failed.append(record_of(message, "encode", error, name))
            del outputs[name]
    return encoded(outputs) if outputs else []


def carry_out(
    message: ChunkMessage, reply: MergeReply, payload: Any, roots: Sequence[Root], deliveries: int
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
        folder.remove(order.spent)
        return merge_parts(order, folder, message.index, reply.suffix) if order.parts else None
