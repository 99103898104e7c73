"""An answer, held against its chunk, becomes a part: for attached and detached jobs alike.

answer, message of its chunk --part_of--> part without outputs      payload --read_outputs--> its outputs
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from producer.rows.part import OutputTree, Part
from tasks.protocol import codec
from tasks.protocol.messages import Answer, ChunkMessage, Failure, FailureRecord
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


def read_outputs(payload: bytes | memoryview, message: ChunkMessage, *, borrow: bool = False) -> OutputTree:
    """The outputs that a payload is; with `borrow` they look at its memory, and cannot be written to.

    Raises:
        MessageError: it is damaged.
    """
    try:
        return cast("OutputTree", codec.decode(payload, borrow=borrow))
    except PayloadError as error:
        raise MessageError(f"the answer to {message} cannot be read: {error}") from None
