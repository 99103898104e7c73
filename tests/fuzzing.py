"""Bytes that we read from outside, and ways to damage them: for the fuzzer (`tests/unit/test_fuzz.py`).

A target is a valid example and a reader of ours. Where bytes are sealed, or have checksums, some targets damage what is
inside and seal it anew, since no damage would come further otherwise.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
import zstandard

from producer.outputs.sidecar_files import OutputLedger, failures_path, ledger_path, read_beside
from producer.records.job_store import read_fields
from producer.rows.read_answer import part_of, read_outputs
from producer.rows.source import Source
from producer.sinks import JournalHead, open_sink
from producer.sinks.journal import journal_path
from producer.sources import open_source
from tasks.protocol import codec
from tasks.protocol.chunk_args import chunk_id, describe, from_args, to_args
from tasks.protocol.messages import (
    MESSAGE_VERSION,
    Answer,
    ChunkMessage,
    Failure,
    FailureRecord,
    FileRef,
    InlineRef,
    ModelRef,
    Outputs,
    SliceRef,
    pack,
    unpack,
)
from tasks.protocol.plan import Plan
from tasks.protocol.records import (
    JobRecord,
    ModelInfo,
    SlotRecord,
    TensorSpec,
    WorkerFacts,
    pack_facts,
    unpack_facts,
)
from tasks.protocol.seal import Sealer, answer_context, failure_context, record_context, rows_context
from tasks.recovery.poison_rows import ChildDeath, RunIntent
from tasks.snapshots import cache
from tasks.snapshots.executor_notes import ExecutorNotes
from tasks.snapshots.record import Snapshot, to_file
from tasks.transport import spool
from tests.sink_outputs import parts_of
from tests.tfrecords import masked, tfrecord
from worker_config.manifest import ModelEntry, read_manifest

# How, where (of 2**16 places, whatever the length), how long, and with what.
Edit = tuple[str, int, int, bytes]
WAYS = ("set", "flip", "cut", "drop", "insert", "repeat", "join", "swap")


def damaged(data: bytes, edits: Sequence[Edit]) -> bytes:
    """The same with all edits, one after the other."""
    for way, place, length, content in edits:
        at = place * (len(data) + 1) >> 16
        run = data[at : at + length]
        if way == "set":
            data = data[:at] + content + data[at + len(content) :]
        elif way == "flip" and at < len(data):
            data = data[:at] + bytes((data[at] ^ (1 << length % 8),)) + data[at + 1 :]
        elif way == "cut":
            data = data[:at]
        elif way == "drop":
            data = data[:at] + data[at + length :]
        elif way == "insert":
            data = data[:at] + content + data[at:]
        elif way == "repeat":
            data = data[:at] + run * 3 + data[at + length :]
        elif way == "join":
            data += data[at:]
        elif way == "swap":
            data = data[:at] + data[at + length : at + 2 * length] + run + data[at + 2 * length :]
    return data


@dataclass(frozen=True)
class Target:
    """A reader, and an example of what it reads; `documented` are errors that it may raise besides our own."""

    example: bytes
    read: Callable[[bytes, Path], object]
    documented: tuple[type[Exception], ...] = ()


JOB = "0123456789ab"
SEALER = Sealer()
ROWS = {"x": np.arange(12, dtype=np.float32).reshape(4, 3), "text": np.array(["a", b"b", "c", ""], object)}
MODEL = ModelRef("digits", "ab" * 32)
RECORD = FailureRecord(1, 2, "infer", "ValueError", "no such row")
MESSAGE = ChunkMessage(
    version=MESSAGE_VERSION,
    job=JOB,
    index=3,
    start=4,
    stop=8,
    chunks=None,
    models=[MODEL],
    ref=SliceRef("/data/a.npy", 100, 7, 128, "float32", (3, 4)),
)
OUTPUTS = Outputs(JOB, 3, 4, 8, "slot", 0.5, InlineRef(b"abc"), failed=[RECORD], dropped=[(5, 6)], models=[MODEL])
FAILURE = Failure(JOB, 3, "slot", RECORD, failed_rows=[RECORD], stages={"infer": 0.5})
SPECS = [TensorSpec("x", "float32", (None, 3))]
INFO = ModelInfo("digits", "ab" * 32, 64, SPECS, SPECS, 0.5, 100)
PLAN = Plan(8, 4, [MODEL], None, None, 60, [])
JOB_RECORD = JobRecord(JOB, ["digits"], "x", "redis", 8, 0.5, 0.5, "here", {"rows": 8}, plan=PLAN)
HEAD = JournalHead({"path": "rows.npy", "size": 4711}, {"digits": "9f3c"})
SCORES = np.linspace(0, 1, 60, dtype=np.float32).reshape(20, 3)
LEDGER = OutputLedger(
    job=JOB,
    ledger={"rows": 4, "predicted": 3, "failed": 1},
    seconds=1.0,
    failures=1,
    source={"path": "x"},
    models={},
    on_error="skip",
)


def npy(array: Any) -> bytes:
    """An array as in an `.npy` file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(method: int, **arrays: Any) -> bytes:
    """Arrays as in an `.npz` file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, array in arrays.items():
            archive.writestr(f"{name}.npy", array if isinstance(array, bytes) else npy(array))
    return file.getvalue()


def parquet(**options: Any) -> bytes:
    """A table as in a Parquet file."""
    table = pa.table(
        {"n": pa.array(range(500), pa.int32()), "t": [f"text {n % 7}" for n in range(500)], "l": [[1.0, 2.0]] * 500}
    )
    file = io.BytesIO()
    pq.write_table(table, file, row_group_size=200, **options)
    return file.getvalue()


def read_source(name: str) -> Callable[[bytes, Path], object]:
    """Read a file of that name as a data set, to its end or far into it."""

    def read(data: bytes, folder: Path) -> object:
        (folder / name).write_bytes(data)
        return consume(folder / name)

    return read


def consume(path: Path) -> object:
    """Rows of a data set."""
    source = open_source(path)
    if isinstance(source, Source):
        return [source.take(start, min(start + 7, source.rows)) for start in range(0, min(source.rows, 50), 7)]
    return list(islice(source.batches(), 100))


def read_zarr(part: str, version: Any) -> Target:
    """One file of a Zarr folder."""

    def make(folder: Path) -> Path:
        path = folder / f"{version}.zarr"
        if not path.exists():
            zarr.create_array(path, data=np.arange(60).reshape(20, 3), chunks=(8, 3), zarr_format=version)
        return path

    def read(data: bytes, folder: Path) -> object:
        path = make(folder)
        before = (path / part).read_bytes()
        try:
            (path / part).write_bytes(data)
            return consume(path)
        finally:
            (path / part).write_bytes(before)

    with tempfile.TemporaryDirectory() as folder:
        return Target((make(Path(folder)) / part).read_bytes(), read)


def read_args(data: bytes, _: Path) -> object:
    """Arguments of a task, of which the last one is damaged, or all."""
    describe([MESSAGE_VERSION, JOB, 3, data])
    try:
        args: Any = msgpack.unpackb(data, strict_map_key=False)
    except Exception:  # no arguments, so no list that Celery could bring
        args = [MESSAGE_VERSION, JOB, 3, data]
    describe(args)
    chunk_id(args)
    return from_args(args, "queue", SEALER)


def read_sealed_chunk(data: bytes, _: Path) -> object:
    """A chunk that was damaged before it was sealed."""
    sealed = SEALER.seal_bytes(f"chunk/{JOB}/3/queue", data)
    return from_args([MESSAGE_VERSION, JOB, 3, sealed], "queue", SEALER)


def read_answer(data: bytes, _: Path) -> object:
    """An answer, and the part that it is."""
    return part_of(unpack(data, Answer), MESSAGE)


def unpacked(form: Any) -> Callable[[bytes, Path], object]:
    """Read a record."""
    return lambda data, _: unpack(data, form)


def read_job(field: str) -> Callable[[bytes, Path], object]:
    """Read a job's hash in Redis, of which one field is damaged."""
    whole = {b"state": b"running", b"record": SEALER.seal_bytes(record_context(JOB), msgspec.json.encode(JOB_RECORD))}
    context = {"record": record_context, "failure": failure_context}.get(field)

    def read(data: bytes, _: Path) -> object:
        damaged = SEALER.seal_bytes(context(JOB), data) if context else data  # before it was sealed
        return read_fields(JOB, {**whole, field.encode(): damaged}, SEALER)

    return read


def read_manifest_of(data: bytes, folder: Path) -> object:
    (folder / "models.toml").write_bytes(data)
    return read_manifest(folder / "models.toml")


def half_done(folder: Path, suffix: str) -> Path:
    """An output that is begun, with its journal."""
    path = folder / f"out{suffix}"
    with open_sink(path, 20, False, journal=HEAD, sync_seconds=0.0) as sink:
        for part in parts_of(SCORES if suffix == ".npy" else {"scores": SCORES})[:2]:
            sink.write(part)
    return path


def journal_of(suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return journal_path(half_done(Path(folder), suffix)).read_bytes()


def continued(suffix: str, *, summed: bool) -> Callable[[bytes, Path], object]:
    """Continue an output with a damaged journal, whose lines have right checksums where it is `summed`."""

    def read(data: bytes, folder: Path) -> object:
        made, work = folder / f"half-done{suffix}", folder / "continued"
        if not made.exists():
            made.mkdir()
            half_done(made, suffix)
        shutil.copytree(made, work)
        lines = data.split(b"\n")
        if summed:
            texts = [line.partition(b" ")[2] for line in lines]
            lines = [b"%08x %b" % (zlib.crc32(text), text) if text else b"" for text in texts]
        path = work / f"out{suffix}"
        journal_path(path).write_bytes(b"\n".join(lines))
        try:
            with open_sink(path, 20, False, journal=HEAD, resume=True) as sink:
                return sink.done_rows
        finally:
            shutil.rmtree(work)

    return read


def read_ledger(data: bytes, folder: Path) -> object:
    """The ledger, then the failures, which begin after a line of two dashes."""
    ledger, _, failures = data.partition(b"\n--\n")
    ledger_path(folder / "out.npy").write_bytes(ledger)
    failures_path(folder / "out.npy").write_bytes(failures)
    return read_beside(folder / "out.npy")


def read_spool(data: bytes, folder: Path) -> object:
    """A payload in the spool folder, into memory that is used again, and over arrays."""
    (folder / JOB).mkdir(exist_ok=True)
    ref = FileRef(f"{JOB}/rows-3-ffff")
    (folder / ref.name).write_bytes(data)
    arrays = {name: array.copy() for name, array in ROWS.items() if name == "x"}
    spool.read_into(folder, ref, bytearray(16), codec.encode_parts(arrays))
    payload = spool.read(folder, ref, spool.ReusableBuffer())
    return read_outputs(SEALER.open(rows_context(JOB, 3), payload), MESSAGE, borrow=True)


def read_snapshot(data: bytes, folder: Path) -> object:
    (folder / cache.RECORD).write_bytes(data)
    return cache.read(folder)


def hashed(record: bytes) -> bytes:
    """A record of a snapshot in its file."""
    return b'{"sha256":"%b","record":%b}' % (hashlib.sha256(record).hexdigest().encode(), record)


def read_notes(data: bytes, folder: Path) -> object:
    """What stands beside a snapshot."""
    notes = ExecutorNotes(folder, "xla")
    notes.note_batch_rows(3)
    for path in folder.glob("batch-xla-*"):
        path.write_bytes(data)
    (folder / "differs-xla.json").write_bytes(data)
    return notes.batch_rows(64), notes.difference()


def of_length(data: bytes, folder: Path) -> object:
    """A record of TFRecord whose length, the first eight bytes, has a right checksum whatever it is."""
    head = data[:8].ljust(8, b"\0")
    return read_source("x.tfrecord")(head + masked(head) + data[8:], folder)


def _targets() -> dict[str, Target]:
    plain, sealed = codec.encode(ROWS), SEALER.seal_bytes(rows_context(JOB, 3), codec.encode(ROWS))
    args = to_args(MESSAGE, "queue", SEALER)
    snapshot = Snapshot(cache.FORMAT_VERSION, "mapped", "d", "2", ModelEntry("/m"), SPECS, SPECS, [], 1, {})
    slot = SlotRecord("worker", 1, 77, 0.5, "queue", [INFO], data_roots=["/data"])
    table = b'memory_limit = "4 GiB"\n[models.a]\npath = "m.keras"\nbatch_rows = 8\nchain = []\nprecision = []\n'
    records = tfrecord([b"first", b"", b"x" * 100])
    targets = {
        "payload": Target(plain, lambda data, _: codec.decode(data, 2**20)),
        "payload, lz4": Target(codec.encode(ROWS, compression="lz4"), lambda data, _: codec.decode(data, 2**20)),
        "payload in zstd": Target(
            plain,
            lambda data, _: codec.decode(msgpack.packb([1, "zstd", len(data), zstandard.compress(data)]), 2**20),
        ),
        "seal": Target(sealed, lambda data, _: SEALER.open(rows_context(JOB, 3), data)),
        "task arguments": Target(bytes(msgpack.packb(args)), read_args),
        "chunk": Target(pack(MESSAGE), read_sealed_chunk),
        "outputs": Target(pack(OUTPUTS), read_answer),
        "failure": Target(pack(FAILURE), read_answer),
        "sealed answer": Target(
            SEALER.seal_bytes(answer_context(JOB), pack(OUTPUTS)),
            lambda data, _: unpack(SEALER.open(answer_context(JOB), data), Answer),
        ),
        "note": Target(pack(RunIntent("w", 7, 1, 2, 3, 0.5)), unpacked(RunIntent)),
        "death": Target(pack(ChildDeath("w", 7, "Killed", "why")), unpacked(ChildDeath)),
        "failures": Target(msgspec.msgpack.encode([RECORD]), unpacked(list[FailureRecord])),
        "slot": Target(pack(slot), unpacked(SlotRecord)),
        "job": Target(msgspec.json.encode(JOB_RECORD), read_job("record")),
        "state of a job": Target(b"running", read_job("state")),
        "count of a job": Target(b"12", read_job("answered")),
        "failure of a job": Target(msgspec.json.encode(RECORD), read_job("failure")),
        "facts": Target(pack_facts(WorkerFacts({"python": "3"}, 2), 0.5), lambda data, _: unpack_facts(data)),
        "manifest": Target(table, read_manifest_of),
        ".npy": Target(npy(SCORES), read_source("x.npy")),
        ".npy of text": Target(npy(np.array(["a", "bc"])), read_source("x.npy")),
        ".npz": Target(npz(zipfile.ZIP_DEFLATED, a=SCORES, b=SCORES[:, 0]), read_source("x.npz")),
        ".npz, stored": Target(npz(zipfile.ZIP_STORED, a=SCORES), read_source("x.npz")),
        ".npz, a member": Target(
            npy(SCORES), lambda data, folder: read_source("x.npz")(npz(zipfile.ZIP_DEFLATED, a=data), folder)
        ),
        ".parquet": Target(parquet(compression="zstd"), read_source("x.parquet")),
        ".parquet, plain": Target(parquet(compression="none", use_dictionary=False), read_source("x.parquet")),
        ".csv": Target(b"n,f,t\n" + b'1,0.5,"a,b"\n' * 200, read_source("x.csv")),
        ".tfrecord": Target(records, read_source("x.tfrecord")),
        ".tfrecord, a length": Target(struct.pack("<Q", 5) + records[12:], of_length),
        ".tfrecord.gz": Target(gzip.compress(records), read_source("x.tfrecord.gz")),
        ".tfrecord in gzip": Target(
            records, lambda data, folder: read_source("x.tfrecord.gz")(gzip.compress(data), folder)
        ),
        "zarr.json": read_zarr("zarr.json", 3),
        ".zarray": read_zarr(".zarray", 2),
        "a chunk of Zarr": read_zarr("c/0/0", 3),
        "spool": Target(sealed, read_spool),
        "ledger": Target(
            msgspec.json.format(msgspec.json.encode(LEDGER)) + b"\n--\n" + msgspec.json.encode(RECORD) + b"\n",
            read_ledger,
        ),
        "snapshot": Target(to_file(snapshot), read_snapshot, (ValueError,)),
        "snapshot, with its hash": Target(
            msgspec.json.encode(snapshot), lambda data, folder: read_snapshot(hashed(data), folder), (ValueError,)
        ),
        "batch of an executor": Target(b"32", read_notes),
        "notes of executors": Target(json.dumps("it differed").encode(), read_notes),
    }
    for suffix in (".npy", ".npz", ".parquet", ".zarr", ".jsonl", ".csv"):
        journal = journal_of(suffix)
        targets[f"journal, {suffix}"] = Target(journal, continued(suffix, summed=False))
        targets[f"journal, {suffix}, with checksums"] = Target(journal, continued(suffix, summed=True))
    return targets


TARGETS = _targets()
