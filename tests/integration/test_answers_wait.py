"""Answers that wait for a producer which is busy: their chunks are not late, and are not sent again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from benchmarks.limits_stand_in import Answering
from producer import Client
from producer.job.collector import Collector
from tasks.protocol import keys
from tasks.protocol.messages import Answer
from tasks.transport.worker_registry import register_slots
from tests.manifests import write_manifest
from tests.systems import SECURED, serving
from tests.waiting import take, wait_until

SLOTS, CHUNKS = 96, 256
# What the producer takes for each answer, of which it takes 64 at once; in slots chunks took far less.
ANSWER_SECONDS = 0.008
CHUNK_SECONDS = 0.001


def busily(collect: Callable[..., Any]) -> Callable[..., Any]:
    def taking_long(self: Collector, answer: Answer) -> Any:
        take(ANSWER_SECONDS)
        return collect(self, answer)

    return taking_long


@pytest.mark.skipif(SECURED, reason="the test answers without a key")
def test_chunks_whose_answers_wait_are_not_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "same_rows.py").write_text("def same(rows):\n    return rows\n")
    manifest = write_manifest(tmp_path, {"same": {"path": "same_rows:same", "batch_rows": 1}})
    rows = np.arange(CHUNKS, dtype=np.float32).reshape(-1, 1)
    own = {"TMPDIR": str(tmp_path)}
    with serving(tmp_path, manifest, 1, environ=own) as system, system.admin() as server, Client(system.url) as client:
        (slot,) = system.slots()
        system.workers[0].stop()
        register_slots(server, [msgspec.structs.replace(slot, slot=number) for number in range(SLOTS)])
        for key in (keys.WORKERS, keys.worker(slot.worker)):
            server.persist(key)
        monkeypatch.setattr(Collector, "collect", busily(Collector.collect))
        job = client.submit("same", rows, chunk_rows=1)
        queue = keys.queue(slot.queue)
        wait_until(lambda: server.llen(queue) == CHUNKS, "all chunks are sent")

        messages = cast("list[bytes]", server.rpop(queue, CHUNKS))
        answers = [answer for _, answer in map(Answering(slot, CHUNK_SECONDS).answer, messages)]
        server.rpush(keys.results(job.id), *answers)

        np.testing.assert_array_equal(job.result(), rows)
        assert (job.ledger.chunks_answered, job.ledger.chunks_sent_again) == (CHUNKS, 0)
