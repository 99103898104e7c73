"""A job is one trace: its span, one for each chunk, one for each stage; and without a collector a job is as ever."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from producer import Job, local
from tasks.protocol.messages import STAGES
from tests.acceptance.commands import Celeriac
from tests.collector import Collector, Span, collecting
from tests.manifests import write_manifest
from tests.systems import REPOSITORY
from tests.waiting import wait_for_job
from worker_config.errors import ExitCode, RowsFailedError
from worker_config.telemetry import tracing

CHUNK_ROWS = 10
CHUNKS = 8
ROWS = np.arange(CHUNKS * CHUNK_ROWS, dtype=np.float32)
STEPS = """
import os
from pathlib import Path

from tests.waiting import take, wait_until

HERE = Path(__file__).parent


def together(rows):
    (HERE / f"child-{os.getpid()}").touch()
    wait_until(lambda: len(list(HERE.glob("child-*"))) >= 2, "each of the two has a chunk")
    take(0.02)
    return 2 * rows


def fail(rows):
    raise LookupError("not there")


def die_once(rows):
    if rows[0] == 0 and not (HERE / "died").exists():
        (HERE / "died").touch()
        os._exit(1)
    return rows
"""


@dataclass(frozen=True)
class JobFacts:
    """What the collector has, and what the client knows."""

    collector: Collector
    together: Job
    failed: Job
    died: Job
    left: str

    def root(self, job_id: str) -> Span:
        """A job's own span, the only one."""
        (root,) = self.collector.named("celeriac job", job=job_id)
        return root

    def chunks(self, job_id: str) -> list[Span]:
        """Those of its chunks."""
        return self.collector.named("celeriac chunk", job=job_id)


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Celeriac]:
    """In whose folder the models are."""
    command = Celeriac(tmp_path_factory.mktemp("s"))
    folder = command.folder
    (folder / "traced_steps.py").write_text(STEPS)
    names = "together", "fail", "die_once"
    write_manifest(folder, {name: {"preprocess": f"traced_steps:{name}"} for name in names})
    np.save(folder / "rows.npy", ROWS)
    yield command
    command.stop()


@pytest.fixture(scope="module")
def told(command: Celeriac) -> JobFacts:
    """Jobs of an embedded system that has ended right after the last one."""
    with pytest.MonkeyPatch.context() as patch, collecting() as collector:
        patch.chdir(command.folder)
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        patch.setenv("OTEL_TRACES_EXPORTER", "otlp")
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        # What has not left at the end must be sent then.
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
        try:
            with local(models="models.toml", workers=2) as client:
                # First: who dies takes with it what it has not sent.
                died = client.submit("die_once", ROWS, chunk_rows=CHUNK_ROWS)
                np.testing.assert_array_equal(died.result(), ROWS)
                together = client.submit("together", ROWS, chunk_rows=CHUNK_ROWS)
                np.testing.assert_array_equal(together.result(), 2 * ROWS)
                left = client.submit("die_once", ROWS, chunk_rows=CHUNK_ROWS, detach=True)
                wait_for_job(client.attach(left))
                failed = client.submit("fail", ROWS, chunk_rows=len(ROWS))
                with pytest.raises(RowsFailedError, match="not there"):
                    failed.result()
        finally:
            tracing.stop()
        return JobFacts(collector, together, failed, died, left)


def test_a_job_is_one_trace_with_a_span_for_each_chunk(told: JobFacts) -> None:
    root, chunks = told.root(told.together.id), told.chunks(told.together.id)
    assert {chunk.attributes["celeriac.chunk"] for chunk in chunks} == set(range(CHUNKS))
    # On a machine that is too busy, chunks look lost.
    assert CHUNKS <= len(chunks) <= CHUNKS + told.together.ledger.chunks_sent_again
    assert {chunk.trace for chunk in chunks} == {root.trace}
    assert {chunk.parent for chunk in chunks} == {root.id}
    assert len({chunk.attributes["celeriac.slot"] for chunk in chunks}) == 2
    assert {chunk.attributes["celeriac.rows"] for chunk in chunks} == {CHUNK_ROWS}
    assert [chunk.attributes["celeriac.attempt"] for chunk in chunks].count(1) >= CHUNKS
    assert not any(span.failed for span in told.collector.spans if span.trace == root.trace)
    # A child may still be about its answer when the job has it.
    assert all(root.begin <= chunk.begin <= root.end for chunk in chunks)
    assert not root.parent
    assert {span.service for span in told.collector.spans} == {"celeriac"}


def test_a_jobs_span_tells_what_it_was(told: JobFacts) -> None:
    attributes = told.root(told.together.id).attributes
    digest = told.together.digests["together"]
    assert attributes["celeriac.models"] == [f"together@{digest[:8]}"]
    assert attributes["celeriac.digests"] == [digest]
    assert attributes["celeriac.rows"] == attributes["celeriac.predicted"] == len(ROWS)
    assert attributes["celeriac.chunks"] == CHUNKS
    assert attributes["celeriac.state"] == "done"


def test_the_stages_fill_their_chunk(told: JobFacts) -> None:
    seconds: Counter[str] = Counter()
    for chunk in told.chunks(told.together.id):
        stages = told.collector.inside(chunk)
        assert {stage.trace for stage in stages} == {chunk.trace}
        assert {"fetch", "preprocess", "encode", "store", "answer"} <= {stage.name for stage in stages} <= set(STAGES)
        bounds = [chunk.begin, *(moment for stage in stages for moment in (stage.begin, stage.end)), chunk.end]
        # One after the other, with nothing between them; the exporter counts in nanoseconds, a float in 240.
        assert bounds[0::2] == pytest.approx(bounds[1::2], abs=1e-5)
        seconds.update(dict.fromkeys(STAGES, 0))
        for stage in stages:
            seconds[stage.name] += stage.end - stage.begin
    if not told.together.ledger.chunks_sent_again:
        # Of "answer" a job does not know the last one of each slot; a chunk that was dropped unrun has been fetched.
        known = {name: spent for name, spent in told.together.stages.items() if name not in ("wait", "answer")}
        assert {name: seconds[name] for name in known} == pytest.approx(known, rel=0.05, abs=5e-3)
    assert seconds["preprocess"] > CHUNKS * 0.02


def test_a_failure_is_marked_from_the_stage_to_the_job(told: JobFacts) -> None:
    root, (chunk,) = told.root(told.failed.id), told.chunks(told.failed.id)
    assert root.failed
    assert "failed at preprocess" in root.error
    assert root.attributes["celeriac.state"] == "failed"
    assert chunk.failed
    assert "not there" in chunk.error
    (stage,) = [stage for stage in told.collector.inside(chunk) if stage.failed]
    assert stage.name == "preprocess"


def test_a_chunk_that_is_sent_again_stays_in_its_trace(told: JobFacts) -> None:
    root, chunks = told.root(told.died.id), told.chunks(told.died.id)
    assert {(chunk.trace, chunk.parent) for chunk in chunks} == {(root.trace, root.id)}
    first = [chunk.attributes["celeriac.attempt"] for chunk in chunks if chunk.attributes["celeriac.chunk"] == 0]
    assert first
    assert min(first) >= 2  # who ran it first could tell nothing
    assert {chunk.attributes["celeriac.chunk"] for chunk in chunks} == set(range(CHUNKS))


def test_a_detached_jobs_chunks_belong_to_its_submission(told: JobFacts) -> None:
    root, chunks = told.root(told.left), told.chunks(told.left)
    assert {(chunk.trace, chunk.parent) for chunk in chunks} == {(root.trace, root.id)}
    assert len(chunks) == CHUNKS
    assert root.attributes["celeriac.state"] == "running"
    assert max(chunk.end for chunk in chunks) > root.end


def test_without_a_collector_a_job_is_as_ever(command: Celeriac) -> None:
    with collecting() as gone:
        pass
    environ = {"PYTHONPATH": str(REPOSITORY), "OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": gone.url}
    ended = command.run("predict", "together", "rows.npy", "-o", "out.npy", "--quiet", **environ)
    assert ended.code == ExitCode.OK, ended
    np.testing.assert_array_equal(np.load(command.folder / "out.npy"), 2 * ROWS)
    (warning,) = ended.lines
    assert "traces are lost" in warning
