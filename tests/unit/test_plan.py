"""The plan of a detached job: every row in exactly one message, chunks of a sensible size, a budget that adds up."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.detached.plan import BATCHES, CHUNK_BYTES, MAX_CHUNKS, MIB, RedisBudget, choose_chunk_rows
from producer.scheduling.chunk_sizer import CHUNK_SECONDS, MAX_CHUNK_BYTES, MAX_REDIS_CHUNK_BYTES
from producer.scheduling.model_pinning import output_row_bytes
from tasks.protocol.messages import ChunkMessage, HashRef, InPlaceRef, ModelRef, SliceRef, pack, unpack
from tasks.protocol.plan import Plan
from tasks.protocol.records import ModelInfo, TensorSpec
from tasks.protocol.split_ref import FileSpan, SplitRef
from tasks.transport.resend_detached import message
from worker_config.errors import UsageError

JOB = "0123456789ab"


def info(batch_rows: int = 64, batch_seconds: float = 0.0, *outputs: TensorSpec) -> ModelInfo:
    outputs = outputs or (TensorSpec("scores", "float32", (None, 10)),)
    return ModelInfo("digits", "ab" * 32, batch_rows, [], list(outputs), 0.0, 0, batch_seconds)


def plan(rows: int, chunk_rows: int, in_place: InPlaceRef | None = None) -> Plan:
    return Plan(rows, chunk_rows, [ModelRef("digits", "ab" * 32)], in_place, "zstd", 60, ["w"])


@given(rows=st.integers(0, 5_000), chunk_rows=st.integers(1, 5_000))
def test_every_row_is_in_exactly_one_message(rows: int, chunk_rows: int) -> None:
    job = plan(rows, chunk_rows)
    messages = [message(JOB, job, index) for index in range(job.chunks)]
    assert [sent.index for sent in messages] == list(range(job.chunks))
    assert [messages[0].start, *(sent.stop for sent in messages)] == [*(sent.start for sent in messages), rows]
    assert all(sent.stop > sent.start for sent in messages) or (rows == 0 and job.chunks == 1)
    assert all(sent.chunks == job.chunks for sent in messages)


@pytest.mark.parametrize("in_place", [None, SliceRef("/data/a.npy", 100, 7, 128, "float32", (3,))])
def test_a_message_says_where_its_rows_are_and_survives_celery(in_place: SliceRef | None) -> None:
    sent = message(JOB, plan(100, 30, in_place), 3)
    assert sent.ref == in_place or sent.ref == HashRef(f"celeriac:job:{JOB}:payloads")
    assert (sent.reply, sent.compression, str(sent.models[0])) == ("answer", "zstd", "digits@abababab")
    assert unpack(pack(sent), ChunkMessage) == sent


@pytest.mark.parametrize(
    ("infos", "rows", "expected"),
    [
        ([info()], None, 64 * BATCHES),
        ([info()], 10**6, 64 * BATCHES),
        ([info()], 10, 64),
        ([info(64, 0.01)], None, 64 * 25),
        ([info(64, 2.0)], None, 64),
        ([info(64, 0.01), info(32, 0.02)], None, 64 * 5),
        ([info(64, 0.01), info(64, 0.0)], None, 64 * BATCHES),
    ],
    ids=["unknown", "many rows", "few rows", "measured", "slow", "several models", "one of them unknown"],
)
def test_a_chunk_takes_about_a_quarter_of_a_second(infos: list[ModelInfo], rows: int | None, expected: int) -> None:
    assert CHUNK_SECONDS == 0.25
    assert choose_chunk_rows(infos, rows, 256, 2, fixed_rows=None, sliced=False) == expected


def test_a_chunk_of_a_plan_has_its_own_rows_of_many_files() -> None:
    files = [FileSpan(f"/data/{number}.parquet", 100, 7, 20 * number, 0, 20) for number in range(5)]
    sent = message(JOB, plan(100, 30, SplitRef("parquet", files, ["x"])), 1)
    assert isinstance(sent.ref, SplitRef)
    assert [(span.path, span.first, span.start, span.stop) for span in sent.ref.spans] == [
        ("/data/1.parquet", 30, 10, 20),
        ("/data/2.parquet", 40, 0, 20),
    ]
    assert unpack(pack(sent), ChunkMessage) == sent


def test_every_slot_has_several_chunks() -> None:
    rows = choose_chunk_rows([info(8, 0.000_01)], 8_000, 256, 4, fixed_rows=None, sliced=False)
    assert 8_000 / rows >= 4 * 4
    assert rows % 8 == 0


@pytest.mark.parametrize(
    ("row_bytes", "output", "sliced", "most"),
    [
        (2**20, 10, False, MAX_REDIS_CHUNK_BYTES // 2**20),
        (2**20, 10, True, MAX_CHUNK_BYTES // 2**20),
        (256, 2**18, True, MAX_REDIS_CHUNK_BYTES // 2**20),
    ],
    ids=["rows", "rows of a file", "outputs"],
)
def test_neither_rows_nor_outputs_of_a_chunk_are_too_many_bytes(
    row_bytes: int, output: int, sliced: bool, most: int
) -> None:
    infos = [info(64, 0.0, TensorSpec("scores", "float32", (None, output)))]
    assert choose_chunk_rows(infos, 10**6, row_bytes, 2, fixed_rows=None, sliced=sliced) == most


def test_many_rows_make_larger_chunks_rather_than_ever_more_messages() -> None:
    rows = choose_chunk_rows([info()], 10**8, 4, 2, fixed_rows=None, sliced=True)
    assert math.ceil(10**8 / rows) <= MAX_CHUNKS


def test_the_callers_choice_counts_and_must_be_at_least_one() -> None:
    assert choose_chunk_rows([info()], 10, 256, 2, fixed_rows=7, sliced=False) == 7
    with pytest.raises(UsageError, match="chunk_rows is 0"):
        choose_chunk_rows([info()], 10, 256, 2, fixed_rows=0, sliced=False)


def test_outputs_of_a_known_shape_are_counted() -> None:
    outputs = [
        TensorSpec("scores", "float32", (None, 10)),
        TensorSpec("half", "bfloat16", (None, 3, 2)),
        TensorSpec("flag", "bool", (None,)),
        TensorSpec("text", "string", (None, 5)),
        TensorSpec("boxes", "float32", (None, None, 4)),
    ]
    assert output_row_bytes([info(64, 0.0, *outputs)]) == 40 + 12 + 1
    assert output_row_bytes([info(), info()]) == 80


def test_the_budget_counts_rows_outputs_and_messages() -> None:
    budget = RedisBudget("rows.npy", [info()], 1, math.inf)
    rows = (MIB - 5 * CHUNK_BYTES) // (256 + 40)
    budget.check(rows, rows * 256, 5, whole=True)
    with pytest.raises(UsageError, match=r"^rows\.npy: too large to be left: .* rows need 1\.0 MiB .* CELERIAC_DATA"):
        budget.check(rows + 1, (rows + 1) * 256, 5, whole=True)
    with pytest.raises(UsageError, match="rows so far need"):
        budget.check(rows, rows * 256, 6, whole=False)


def test_rows_that_cost_nothing_are_not_sent_to_the_roots() -> None:
    with pytest.raises(UsageError, match=r"0\.0 for themselves, .* there \(CELERIAC_DETACHED_MIB\): raise that limit"):
        RedisBudget("rows.npy", [info()], 1, math.inf).check(100_000, 0, 5, whole=True)


def test_the_room_of_redis_bounds_too() -> None:
    with pytest.raises(UsageError, match=r"Redis has room for 0\.5 MiB \(maxmemory\): .* raise that limit"):
        RedisBudget("rows.npy", [info()], 256, MIB / 2).check(1, MIB, 1, whole=True)
    with pytest.raises(UsageError, match=r"room for 0\.0 MiB"):
        RedisBudget("rows.npy", [info()], 256, -5.0).check(1, 1, 1, whole=True)
