"""An answer, held against its chunk, becomes a part: for attached and detached jobs alike.

answer, message of its chunk --part_of--> part without outputs      payload --read_outputs--> its outputs
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from producer.rows.part import OutputTree, Part, StoredPart, title_of
from tasks.protocol import codec
from tasks.protocol.messages import Answer, ChunkMessage, Failure, FailureRecord, OnError, Outputs, PartRef
from worker_config.errors import MessageError, PayloadError


def part_of(answer: Answer, message: ChunkMessage, failed: Sequence[FailureRecord] = ()) -> Part:
    """The part that an answer is, still without outputs; `failed` are the records of rows without a prediction.

    Raises:
        MessageError: the answer does not fit its chunk.
    """
    if isinstance(answer, Failure):
        return Part(message.index, message.start, message.stop, {}, tuple(failed))
    if (answer.start, answer.stop) != (message.start, message.stop):
        raise MessageError(f"the answer to {message} is for rows {answer.start}-{answer.stop}")
    dropped, nonfinite = tuple(answer.dropped), (answer.nonfinite_inputs, answer.nonfinite_outputs)
    bounds = [message.start, *(bound for run in dropped for bound in run), message.stop]
    if bounds != sorted(bounds):
        raise MessageError(f"the answer to {message} drops the rows {dropped}")
    part = Part(message.index, message.start, message.stop, {}, tuple(failed), dropped=dropped, nonfinite=nonfinite)
    if max(nonfinite) > part.predicted_rows:
        raise MessageError(f"the answer to {message} counts more rows that are not finite than it has")
    return part


def stored_of(answer: Outputs, message: ChunkMessage) -> StoredPart:
    """The file that an answer names, in which a worker has left its rows; MessageError if it names none."""
    if isinstance(answer.ref, PartRef) or answer.is_blank:
        return StoredPart(answer.ref if isinstance(answer.ref, PartRef) else None, answer.checksum)
    raise MessageError(f"the answer to {message} is without the file that should have been written")


def stored_part(part: Part, on_error: OnError, *, is_file_of_parts: bool = False) -> Part:
    """A part that a worker has written, with the count of rows that it lacks; MessageError if its file has others."""
    left_out = part.failed_rows if on_error == "skip" else 0
    part = replace(part, stored=part.stored or StoredPart(None), skipped=left_out + part.dropped_rows)
    ref = part.stored.ref if part.stored else None
    if ref and ref.rows != part.rows and not is_file_of_parts:
        raise MessageError(f"{title_of(part)}: its file has {ref.rows} rows, it must have {part.rows}")
    return part


def read_outputs(payload: bytes | memoryview, message: ChunkMessage, *, borrow: bool = False) -> OutputTree:
    """The outputs that a payload is; with `borrow` they look at its memory, and cannot be written to.

    Raises:
        MessageError: it is damaged.
    """
    try:
        return cast("OutputTree", codec.decode(payload, borrow=borrow))
    except PayloadError as error:
        raise MessageError(f"the answer to {message} cannot be read: {error}") from None
