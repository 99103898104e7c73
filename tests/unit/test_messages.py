"""What travels: the same after the way there and back, refused when it is not of our form, readable for people."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.protocol.messages import (
    MESSAGE_VERSION,
    Answer,
    ChunkMessage,
    Failure,
    FailureRecord,
    FileRef,
    HashRef,
    InlineRef,
    ModelRef,
    Outputs,
    RedisRef,
    RowsRef,
    SliceRef,
    from_plain,
    pack,
    to_plain,
    unpack,
)
from tasks.protocol.split_ref import FileSpan, SplitRef
from worker_config.errors import MessageError

MESSAGE = ChunkMessage(
    version=MESSAGE_VERSION,
    job="0123456789ab",
    index=17,
    start=4352,
    stop=4608,
    chunks=400,
    models=[ModelRef("digits", "ab" * 32)],
    ref=InlineRef(b"\x00\xff"),
)


def test_a_chunk_reads_like_a_sentence() -> None:
    unknown = msgspec.structs.replace(MESSAGE, chunks=None)
    assert str(unknown) == "chunk 17 rows 4352-4608 of job 0123456789ab, digits@abababab"
    assert str(MESSAGE) == "chunk 17/400 rows 4352-4608 of job 0123456789ab, digits@abababab"


@pytest.mark.parametrize(
    "ref",
    [
        InlineRef(b"\x00\xff"),
        RedisRef("celeriac:job:x:payload:1"),
        HashRef("celeriac:job:x:payloads"),
        FileRef("0123456789ab/rows-3-ffff"),
        SliceRef("/data/a.npy", 100, 7, 128, "float32", (3, 4)),
        SplitRef("csv", [FileSpan("/data/a.csv", 100, 7, 4, 0, 9, (0, 5, 99))], ["a"], {"a": "int64"}, {"x": ["a"]}),
    ],
)
def test_a_message_survives_the_way_through_celery(ref: RowsRef) -> None:
    message = msgspec.structs.replace(MESSAGE, ref=ref)
    through_celery = msgspec.msgpack.decode(msgspec.msgpack.encode(to_plain(message)))
    assert from_plain(through_celery, ChunkMessage) == message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", MESSAGE_VERSION + 1),
        ("job", "../../etc/passwd"),
        ("index", -1),
        ("start", "0"),
        ("models", []),
        ("ref", {"type": "file", "name": "../../etc/passwd"}),
        ("ref", {"type": "split", "format": "pickle", "spans": []}),
        ("ref", {"type": "split", "format": "csv", "spans": [["/data/a.csv", 100, 7, 0, -1, 9, None]]}),
        ("ref", {"type": "split", "format": "csv", "spans": [["/data/a.csv", 100, 7, 0, 1, 9, [0, 1]]]}),
        ("ref", {"type": "file", "name": "0123456789ab/../x"}),
        ("ref", {"type": "socket", "path": "/etc/passwd"}),
    ],
)
def test_a_message_that_is_not_of_our_form_is_refused_by_its_field(field: str, value: Any) -> None:
    plain = {**to_plain(MESSAGE), field: value}
    with pytest.raises(MessageError, match=field):
        from_plain(plain, ChunkMessage)


@pytest.mark.parametrize(
    "answer",
    [
        Outputs("0123456789ab", 3, 0, 7, "w/1", 0.25, InlineRef(b"payload")),
        Failure("0123456789ab", 3, "w/1", FailureRecord(0, 7, "infer", "ValueError", "why")),
    ],
)
def test_an_answer_survives_the_way_back(answer: Answer) -> None:
    assert unpack(pack(answer), Answer) == answer


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_one_message_error(data: bytes) -> None:
    with suppress(MessageError):
        unpack(data, Answer)


def test_a_failure_names_its_rows() -> None:
    assert str(FailureRecord(5, 6, "infer", "ValueError", "bad")) == "row 5 failed at infer: ValueError: bad"
    assert str(FailureRecord(5, 9, "infer", "ValueError", "bad")).startswith("rows 5-9 failed")
