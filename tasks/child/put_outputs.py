"""A chunk's outputs, where the producer wants them: encoded into a store, or written to its output's folder.

models that went through --> payload, or a part of the output --> its place and checksum, of the answer
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from tasks.child.chunk_payload import PayloadStore, checksum
from tasks.child.output_files import write_part
from tasks.child.run_models import ChunkOutputs, record_of
from tasks.protocol import codec
from tasks.protocol.messages import ChunkMessage, InlineRef, PartRef, PartsReply, PayloadRef
from tasks.protocol.seal import Parts
from tasks.telemetry.stopwatch import Stopwatch
from worker_config.errors import PayloadError

# Of a chunk that has rows, none of which has outputs.
NOTHING_PUT = InlineRef(b""), checksum([])


def put_outputs(
    payloads: PayloadStore, message: ChunkMessage, ran: ChunkOutputs, watch: Stopwatch
) -> tuple[PayloadRef | PartRef, int] | None:
    """Where they are, and their checksum; None where no model went through. Models that cannot be sent have failed too.

    Raises:
        OutputError: the folder of the output cannot be written.
        MessageError, PayloadError: they are nothing that travels.
    """
    if not ran.outputs:
        return None
    if isinstance(message.reply, PartsReply):
        watch.enter("store")
        outputs = ran.outputs if len(message.models) > 1 else next(iter(ran.outputs.values()))
        roots = payloads.places.output_roots
        return write_part(message, message.reply, outputs, ran.failed_rows, ran.dropped, roots)
    parts = _encode(message, ran)
    if not parts:
        return None
    watch.enter("store")
    return payloads.store(message, parts), checksum(parts)


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
