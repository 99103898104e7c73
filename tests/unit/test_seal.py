"""Seals: what was written is read again, and whatever was changed, moved or forged is not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.protocol.chunk_args import chunk_id, describe, from_args, to_args
from tasks.protocol.messages import MESSAGE_VERSION, ChunkMessage, InlineRef, ModelRef
from tasks.protocol.seal import CHECKSUM_BYTES, SIGNATURE_BYTES, Sealer, Viewer, content_of
from worker_config.errors import MessageError, SealError, VersionError

JOB, QUEUE = "0123456789ab", "celeriac.7"
OLD, NEW = "an old key of more than 32 characters", "a new key, also of more than 32 characters"
MESSAGE = ChunkMessage(MESSAGE_VERSION, JOB, 7, 0, 64, None, [ModelRef("a", "0" * 64)], InlineRef(b"rows"))
SEALERS = {"checksums": Sealer(), "signatures": Sealer([NEW])}


@pytest.fixture(params=list(SEALERS))
def sealer(request: pytest.FixtureRequest) -> Sealer:
    return SEALERS[request.param]


@given(parts=st.lists(st.binary(max_size=50), max_size=5))
def test_what_was_sealed_in_parts_is_opened_in_one_piece(parts: list[bytes]) -> None:
    for sealer in SEALERS.values():
        sealed = b"".join(sealer.seal(f"rows/{JOB}/1", parts))
        assert bytes(sealer.open(f"rows/{JOB}/1", sealed)) == b"".join(parts) == bytes(content_of(sealed))
        assert len(sealed) == sealer.head_bytes + sum(map(len, parts))
        sealer.check(f"rows/{JOB}/1", sealed[: sealer.head_bytes], parts)


def test_arrays_in_the_content_stay_aligned() -> None:
    assert (CHECKSUM_BYTES % 16, SIGNATURE_BYTES % 16) == (0, 0)


def test_every_bit_counts(sealer: Sealer) -> None:
    sealed = sealer.seal_bytes(f"rows/{JOB}/1", bytes(range(200)))
    for bit in range(8 * len(sealed)):
        damaged = bytearray(sealed)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealError):
            sealer.open(f"rows/{JOB}/1", damaged)


@pytest.mark.parametrize("cut", [0, 1, 15, 16, 47, 48, 100])
def test_what_was_cut_or_is_longer_is_seen(sealer: Sealer, cut: int) -> None:
    sealed = sealer.seal_bytes(f"rows/{JOB}/1", bytes(100))
    for damaged in (sealed[:cut], sealed + bytes(cut + 1)):
        with pytest.raises(SealError):
            sealer.open(f"rows/{JOB}/1", damaged)


@pytest.mark.parametrize("context", [f"rows/{JOB}/2", "rows/0123456789ac/1", f"outputs/{JOB}/1", f"rows/{JOB}/"])
def test_what_was_moved_is_seen(sealer: Sealer, context: str) -> None:
    with pytest.raises(SealError):
        sealer.open(context, sealer.seal_bytes(f"rows/{JOB}/1", b"1"))


def test_keys_rotate() -> None:
    before, between, after = Sealer([OLD]), Sealer([NEW, OLD]), Sealer([NEW])
    context = f"rows/{JOB}/1"
    by_old, by_new = before.seal_bytes(context, b"x"), between.seal_bytes(context, b"x")
    assert bytes(between.open(context, by_old)) == bytes(between.open(context, by_new)) == b"x"
    assert bytes(Sealer([OLD, NEW]).open(context, by_new)) == b"x"  # of one that still signs by the old one
    assert bytes(after.open(context, by_new)) == b"x"
    for sealer, sealed in ((after, by_old), (before, by_new)):
        with pytest.raises(SealError, match="not signed with a key of CELERIAC_SIGNING_KEY"):
            sealer.open(context, sealed)


def test_without_a_key_nothing_is_taken_for_signed_nor_the_other_way_round() -> None:
    context = f"rows/{JOB}/1"
    with pytest.raises(SealError, match="is signed; set CELERIAC_SIGNING_KEY here too"):
        Sealer().open(context, Sealer([NEW]).seal_bytes(context, b"x"))
    with pytest.raises(SealError, match="not signed with a key"):
        Sealer([NEW]).open(context, Sealer().seal_bytes(context, b"x"))


def test_who_looks_without_a_key_is_shown_what_is_signed_and_knows_that_it_was_not_checked() -> None:
    context = f"record/{JOB}"
    signed, checked = Sealer([NEW]).seal_bytes(context, b"x"), Sealer().seal_bytes(context, b"x")
    viewer = Viewer()
    assert (bytes(viewer.open(context, checked)), viewer.unchecked) == (b"x", False)
    assert (bytes(viewer.open(context, signed)), viewer.unchecked) == (b"x", True)
    for sealed in (checked[:-1] + b"y", b'{"id": "of an older release"}'):
        with pytest.raises(SealError):
            viewer.open(context, sealed)
    assert bytes(Viewer([NEW]).open(context, signed)) == b"x"
    for forged in (checked, signed[:-1] + b"y"):
        with pytest.raises(SealError):
            Viewer([NEW]).open(context, forged)


def test_two_signatures_of_one_content_have_nothing_in_common() -> None:
    first, second = (SEALERS["signatures"].seal_bytes(f"rows/{JOB}/1", b"x")[16:44] for _ in range(2))
    assert first[:12] != second[:12]
    assert first[12:] != second[12:]


def test_another_version_is_named() -> None:
    sealed = bytearray(Sealer().seal_bytes("answer/x", b"x"))
    sealed[2] += 1
    with pytest.raises(SealError, match="has seal version 3, only 2 is understood here"):
        Sealer().open("answer/x", sealed)


def test_a_chunk_survives_the_way_to_its_queue_and_no_other(sealer: Sealer) -> None:
    args = to_args(MESSAGE, QUEUE, sealer)
    assert from_args(args, QUEUE, sealer) == MESSAGE
    assert describe(args) == str(MESSAGE)
    for other in ([*args[:2], 8, args[3]], [args[0], "0123456789ac", *args[2:]]):
        with pytest.raises(SealError):
            from_args(other, QUEUE, sealer)
    with pytest.raises(SealError):
        from_args(args, "celeriac.8", sealer)


@pytest.mark.parametrize("args", [[], [None], [MESSAGE_VERSION], [MESSAGE_VERSION, "../..", 1, b""], ["2", JOB, 1], 7])
def test_what_is_no_chunk_is_refused(args: Any) -> None:
    with pytest.raises(MessageError, match="a message is no chunk"):
        from_args(args, QUEUE, Sealer())


@pytest.mark.parametrize("content", [[], [7], [b""] * 2])
def test_a_chunk_without_its_content_is_refused(content: list[Any]) -> None:
    with pytest.raises(MessageError, match=f"chunk 7 of job {JOB}"):
        from_args([MESSAGE_VERSION, JOB, 7, *content], QUEUE, Sealer())


@pytest.mark.parametrize("args", [[{"version": 1, "job": JOB, "index": 7, "start": 0}], [3, JOB, 7, {"anything": 1}]])
def test_of_another_version_the_chunk_is_known(args: Any) -> None:
    assert (chunk_id(args).job, chunk_id(args).index) == (JOB, 7)
    with pytest.raises(VersionError, match=f"chunk 7 of job {JOB} has message version"):
        from_args(args, QUEUE, Sealer())
