"""Jobs and workers that are played: their records come and go in Redis by the product's own stores; nothing is run.

Play --step, once a second--> records of jobs, slots, what these run, a time line
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec
import redis

from producer.records import job_store, timeline_store
from producer.records.failed_rows import write_failures
from producer.records.job_store import JobState
from producer.records.timeline import Outcome, Timeline
from tasks.protocol.messages import FailureRecord, InlineRef, ModelRef, Outputs
from tasks.protocol.records import JobRecord, ModelInfo, Running, SlotRecord, TensorSpec, WorkerFacts
from tasks.transport import worker_registry
from tests.seals import SEALER

TTL_SECONDS = 600
MODELS = [
    ModelInfo(
        name=name,
        digest=letter * 64,
        batch_rows=256,
        inputs=[TensorSpec("rows", "float32", (None, 64))],
        outputs=[TensorSpec("scores", "float32", (None, 10))],
        load_seconds=0.4,
        memory_bytes=30 * 2**20,
        batch_seconds=0.02,
        executor="tflite",
        shared_bytes=600 * 2**20,
        dependence=[],
    )
    for name, letter in (("digits", "a"), ("letters", "b"))
]
CHUNK_ROWS = 500


@dataclass
class Play:
    """So many jobs, the first `running` of which run, and workers with so many slots.

    Attributes:
        job_ids: of the jobs, those that run first.
        records: of those that run.
    """

    server: redis.Redis
    jobs: int = 100
    running: int = 20
    workers: int = 50
    slots: int = 20
    input_text: str = "rows.npy"
    job_ids: list[str] = field(default_factory=list)
    records: list[JobRecord] = field(default_factory=list)
    steps: int = 0

    def __post_init__(self) -> None:
        models = [ModelRef(one.name, one.digest) for one in MODELS]
        for number in range(self.jobs):
            job_id = f"{number:012x}"
            record = job_store.new_record(job_id, models[: 1 + number % 2], self.input_text, "slices", 1_000_000)
            record = msgspec.structs.replace(record, submitted_at=record.submitted_at - 100)
            job_store.create(self.server, record, SEALER, TTL_SECONDS)
            self.job_ids.append(job_id)
            if number < self.running:
                self.records.append(record)
            else:
                done = msgspec.structs.replace(record, ledger=ledger(1_000_000, 0))
                job_store.finish(self.server, done, SEALER, JobState.DONE, TTL_SECONDS)
        self.timeline = Timeline(lambda: time.time())
        self.timeline.summary.began_at -= 100
        self.step()

    def name(self, worker: int) -> str:
        """Of a worker, as Redis has it."""
        return f"celery@host{worker:03d}:0123abcd"

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """It goes on by itself while the block runs."""
        ended = threading.Event()

        def go_on() -> None:
            while not ended.wait(1.0):
                self.step()

        thread = threading.Thread(target=go_on)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def step(self) -> None:
        """What changes in a second."""
        self.steps += 1
        for place, record in enumerate(self.records):
            known = ledger(10_000 * min(self.steps, 90), 3 * (place == 0))
            stages = {"wait": 1.0 * self.steps, "infer": 8.0 * self.steps, "answer": 1.0 * self.steps}
            new = msgspec.structs.replace(record, updated_at=time.time(), ledger=known, stages=stages)
            job_store.update(self.server, new, SEALER, TTL_SECONDS)
        if self.records:
            self.grow(self.records[0].id)
        for worker in range(self.workers):
            # Each tells every five seconds what it does.
            if self.steps == 1 or worker % 5 == self.steps % 5:
                self.beat(worker)

    def beat_all(self) -> None:
        """All workers live for another while."""
        for worker in range(self.workers):
            self.beat(worker)

    def beat(self, worker: int) -> None:
        """A worker's heartbeat."""
        name = self.name(worker)
        slots = [
            SlotRecord(name, slot, 1_000 + slot, time.time(), "celeriac.played", MODELS) for slot in range(self.slots)
        ]
        running = {}
        if self.records:
            for slot in range(self.slots - 1):
                record = self.records[(worker + slot) % len(self.records)]
                index = self.steps * 7 + slot
                text = f"chunk {index}/2000 rows {index * 500}-{index * 500 + 500} of job {record.id}, digits@aaaaaaaa"
                running[slot] = Running(record.id, text, 0.2)
        facts = WorkerFacts(children=self.slots, threads=1, cores=self.slots, running=running)
        pids = [slot.pid for slot in slots]
        worker_registry.heartbeat(self.server, name, pids, slots, facts=facts)

    def grow(self, job_id: str) -> None:
        """Add to a job's time line, and to its failures."""
        now = time.time()
        for slot in range(8):
            index = self.steps * 8 + slot
            stages = {"wait": 0.1, "infer": 0.8, "answer": 0.05}
            answer = Outputs(
                job=job_id,
                index=index,
                start=index * CHUNK_ROWS,
                stop=(index + 1) * CHUNK_ROWS,
                slot=f"{self.name(0)}/{slot}",
                seconds=0.8,
                ref=InlineRef(b""),
                begun_at=now - 0.9,
                stages=stages,
            )
            self.timeline.answered(answer, Outcome.JOINED, now - 1.0, 1)
        timeline_store.write(self.server, job_id, self.timeline, TTL_SECONDS)
        failed = [FailureRecord(row, row + 1, "infer", "ValueError", "a bad row") for row in (50, 60, 70)]
        write_failures(self.server, job_id, failed, TTL_SECONDS)


def ledger(predicted: int, failed: int) -> dict[str, int]:
    """As a job's record has it."""
    chunks = predicted // CHUNK_ROWS
    return {
        "rows": predicted + failed,
        "predicted": predicted,
        "failed": failed,
        "skipped": 0,
        "written": predicted,
        "chunks_sent": chunks + 4,
        "chunks_answered": chunks,
    }
