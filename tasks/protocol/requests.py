"""A request: some rows of one caller, no more than a batch, that are answered by themselves, without a job.

    caller --"head \n sealed Request"--> list of the model set --> a child, which takes as many as fit one batch
    child  --sealed list of answers--> channel of the caller

The head is for Redis, whose scripts choose by it; it is sealed with the request, so that neither can be exchanged. The
answer is an `Outputs` whose `job` is the request's id; or a `Failure`, where only a job can tell what is wrong: its
caller submits one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, NamedTuple

import msgspec
import xxhash

from tasks.protocol.codec import is_ragged, leaves_of
from tasks.protocol.messages import (
    Answer,
    JobId,
    ModelRef,
    OnError,
    OnNonfinite,
    Value,
    pack,
    unpack,
)
from tasks.protocol.seal import Sealer
from worker_config.errors import MessageError

# Of the rows of one, as bytes: what is larger gains nothing by being quick.
MAX_REQUEST_BYTES = 4 * 2**20
# That wait for one model set: in all, and their bytes; then they are refused.
MAX_WAITING = 10_000
MAX_WAITING_BYTES = 256 * 2**20


class Request(Value, frozen=True):
    """Rows for one model; `payload` is what `tasks.protocol.codec` makes of them."""

    id: JobId
    model: ModelRef
    rows: Annotated[int, msgspec.Meta(ge=1, le=2**31)]
    payload: bytes
    on_error: OnError = "raise"
    on_nonfinite: OnNonfinite = "warn"


class Head(NamedTuple):
    """What Redis has to know of a request.

    Attributes:
        group: requests of one group may share a batch.
        timeout_ms: after which it is not run any more; 0 where it may wait for ever.
        caller: whose channel takes the answer.
    """

    id: str
    group: str
    rows: int
    timeout_ms: int
    caller: str

    def __str__(self) -> str:
        return f"{self.id} {self.group} {self.rows} {self.timeout_ms} {self.caller}"


def group_of(model: ModelRef, on_nonfinite: OnNonfinite, rows: object) -> str:
    """The same for requests whose rows can stand in one array: of one model, of the same dtypes and shapes."""
    form = [str(model), on_nonfinite, str(is_ragged(rows))]
    form += [f"{key}:{_dtype_text(leaf)}{getattr(leaf, 'shape', ())[1:]}" for key, leaf in leaves_of(rows)]
    return xxhash.xxh3_64_hexdigest("\n".join(form).encode())


def _dtype_text(leaf: object) -> str:
    dtype = getattr(leaf, "dtype", None)
    return "" if dtype is None else f"{dtype.str}{dtype.char}"  # its name takes long; bfloat16 is `<V2`, as others are


def to_element(head: Head, request: Request, sealer: Sealer) -> bytes:
    """What is put into the list."""
    return b"%s\n%s" % (str(head).encode(), sealer.seal_bytes(_context(str(head)), pack(request)))


def from_element(element: bytes, sealer: Sealer) -> tuple[Head, Request]:
    """What was taken off the list.

    Raises:
        MessageError, SealError: it is no request, or was damaged.
    """
    head, text, sealed = _parted(element)
    request: Request = unpack(sealer.open(_context(text), sealed), Request)
    if (head.id, head.rows) != (request.id, request.rows):
        raise MessageError(f"the head of request {head.id} is of another one")
    return head, request


def head_of(element: bytes) -> Head:
    """The head alone, unchecked.

    Raises:
        MessageError: it has none.
    """
    return _parted(element)[0]


def _parted(element: bytes) -> tuple[Head, str, bytes]:
    line, _, sealed = element.partition(b"\n")
    # The first word is when Redis got it.
    text = line.partition(b" ")[2].decode("ascii", "replace")
    try:
        id_, group, rows, timeout_ms, caller = text.split(" ")
        return Head(id_, group, int(rows), int(timeout_ms), caller), text, sealed
    except ValueError:
        raise MessageError("what lay in a list of requests has no head of one") from None


def pack_answers(caller: str, answers: Sequence[Answer], sealer: Sealer) -> bytes:
    """Answers to requests of one caller, as its channel carries them."""
    return sealer.seal_bytes(_answers_context(caller), msgspec.msgpack.encode(answers))


def unpack_answers(caller: str, data: bytes, sealer: Sealer) -> Iterable[Answer]:
    """The same, read.

    Raises:
        MessageError, SealError: it is not of that form, or was damaged.
    """
    answers: list[Answer] = unpack(sealer.open(_answers_context(caller), data), list[Answer])
    return answers


def _context(head: str) -> str:
    # One key for each caller.
    return f"request/{head.rpartition(' ')[2]}/{head}"


def _answers_context(caller: str) -> str:
    return f"answers/{caller}"
