"""Metrics of a worker and of a producer: they agree with the ledger, and never go back."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from producer import Client, serve_metrics
from tasks.protocol.messages import STAGES
from tests.manifests import write_manifest
from tests.metrics import JobFacts, grown, names, scrape
from tests.ports import free_port
from tests.systems import BIN, System, serving
from tests.waiting import wait_until
from worker_config.errors import ConfigError, ExitCode

WORKER, PRODUCER = "celeriac_worker_", "celeriac_producer_"
CHILDREN = 2
PORT = free_port()


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, models: Path, special_models: Path) -> Iterator[System]:
    """A worker that serves metrics: of digits, and of words, a model of which rows may fail."""
    folder = tmp_path_factory.mktemp("s")
    models_here = {"digits": {"path": str(models / "digits.keras"), "batch_rows": 64}}
    models_here["words"] = {"path": str(special_models / "words.keras"), "batch_rows": 8}
    write_manifest(folder, models_here, "models.toml")
    with serving(folder, folder / "models.toml", CHILDREN, {"CELERIAC_METRICS_PORT": str(PORT)}) as system:
        yield system


@pytest.fixture(scope="module")
def producer() -> Iterator[int]:
    """This process's own port."""
    port = free_port()
    with serve_metrics(port):
        yield port


def digits(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).random((rows, 64), np.float32)


def settled(chunks: int, before: JobFacts) -> JobFacts:
    """The worker's numbers once its children have counted so many chunks more; they do so after each answer."""

    def told() -> JobFacts:
        now = scrape(PORT)
        return now if grown(before, now)[f"{WORKER}chunks_total",] >= chunks else {}

    return wait_until(told, f"the worker has counted {chunks} chunks")


def test_the_numbers_of_both_sides_are_those_of_the_ledger(system: System, producer: int) -> None:
    worker_before, producer_before = scrape(PORT), scrape(producer)
    words = np.random.default_rng(2).integers(0, 10, (100, 3), np.int32)
    words[[17, 60]] = 99
    rows = digits(2_000)
    rows[[3, 700, 701], 0] = [np.nan, np.inf, np.nan]
    with Client(system.url) as client:
        whole = client.submit("digits", rows, chunk_rows=500)
        outputs = np.asarray(whole.result())
        without = client.submit("words", words, chunk_rows=10, on_error="skip")
        without.result()
        count = {name: whole.ledger.as_dict()[name] + without.ledger.as_dict()[name] for name in whole.ledger.as_dict()}
        assert (count["rows"], count["failed"], count["written"]) == (2_100, 2, 2_098)
        lost = ~np.isfinite(outputs).all(axis=1)
        assert (count["nonfinite_inputs"], count["nonfinite_outputs"]) == (3, lost.sum())

        told = grown(producer_before, scrape(producer), PRODUCER)
        for name in ("predicted", "failed", "skipped", "written", "resumed", "nonfinite_inputs", "nonfinite_outputs"):
            assert told[f"{PRODUCER}rows_{name}_total",] == count[name], name
        for name in ("rows", "chunks_sent", "chunks_answered", "chunks_sent_again", "duplicates"):
            assert told[f"{PRODUCER}{name}_total",] == count[name], name
        for stage in STAGES:
            both = whole.stages.get(stage, 0.0) + without.stages.get(stage, 0.0)
            assert told[f"{PRODUCER}slot_seconds_total", stage] == pytest.approx(both)
        assert told[f"{PRODUCER}jobs_ended_total", "done"] == 2
        assert told[f"{PRODUCER}join_seconds_total",] > 0
        assert told[f"{PRODUCER}queue_seconds_total",] > 0
        assert told[f"{PRODUCER}queued_chunks_total",] >= count["chunks_sent"] - count["chunks_sent_again"]
        assert told[f"{PRODUCER}put_bytes_total", "redis"] >= digits(2_000).nbytes
        assert told[f"{PRODUCER}taken_bytes_total", "message"] >= 2_000 * 10 * 4

    if count["chunks_sent_again"] == 0:  # else a chunk may have been answered twice
        done = grown(worker_before, settled(count["chunks_answered"], worker_before), WORKER)
        assert done[f"{WORKER}chunks_total",] == count["chunks_answered"]
        assert done[f"{WORKER}rows_total",] == count["rows"]
        assert done[f"{WORKER}rows_failed_total",] == count["failed"]
        for name in ("nonfinite_inputs", "nonfinite_outputs"):
            assert done[f"{WORKER}rows_{name}_total",] == count[name], name

    del whole, without, client
    gc.collect()
    later = grown(producer_before, scrape(producer), f"{PRODUCER}rows")
    assert later == {key: told[key] for key in later}, "jobs that are gone stay in the counters"


def test_the_fill_of_batches_is_that_of_their_chunks(system: System) -> None:
    before = scrape(PORT)
    with Client(system.url) as client:
        job = client.submit("digits", digits(1_000), chunk_rows=100)
        job.result()
    if job.ledger.chunks_sent_again == 0:
        done = grown(before, settled(10, before), WORKER)
        assert done[f"{WORKER}batches_total",] == 20
        assert (done[f"{WORKER}batch_rows_total",], done[f"{WORKER}batch_places_total",]) == (1_000, 1_280)


def test_the_seconds_of_stages_are_those_of_the_wall_for_each_slot(system: System) -> None:
    def told() -> tuple[float, JobFacts]:
        return time.monotonic(), scrape(PORT)

    (began, before), _ = told(), scrape(PORT)
    with Client(system.url) as client:
        # Half the time busy, half of it idle.
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            client.predict("digits", digits(5_000), chunk_rows=250)
    wait_until(lambda: time.monotonic() > until + 1.0, "a while has gone in which nothing was to be done")
    ended, after = told()
    seconds = grown(before, after, f"{WORKER}stage_seconds_total")
    assert sum(seconds.values()) == pytest.approx(CHILDREN * (ended - began), rel=0.05)
    assert min(seconds.values()) >= 0
    assert seconds[f"{WORKER}stage_seconds_total", "infer"] > 0
    assert seconds[f"{WORKER}stage_seconds_total", "wait"] > 0.5


def test_children_their_models_and_their_memory_are_told(system: System) -> None:
    wait_until(lambda: scrape(PORT)[f"{WORKER}children", "ready"] == CHILDREN, "the status tells of both")
    told = scrape(PORT)
    assert told[f"{WORKER}children", "not_ready"] == 0
    versions = {info.name: info.digest[:8] for info in system.slots()[0].models}
    for slot in ("0", "1"):
        for name, version in versions.items():
            assert told[f"{WORKER}model_load_seconds", name, slot, version] > 0
        assert 0 < told[f"{WORKER}child_own_bytes", slot] <= told[f"{WORKER}child_pss_bytes", slot]


def test_no_counter_goes_back_when_a_child_dies(system: System) -> None:
    before = last = scrape(PORT)

    def has_grown(name: str, least: int) -> bool:
        nonlocal last
        now = scrape(PORT)
        assert all(now[key] >= last[key] for key in last if key[0].endswith("_total"))
        last = now
        return grown(before, now)[f"{WORKER}{name}_total",] >= least

    with Client(system.url) as client:
        job = client.submit("digits", digits(40_000), chunk_rows=100)
        wait_until(lambda: has_grown("chunks", 20), "chunks are answered")
        os.kill(system.slots()[0].pid, signal.SIGKILL)
        wait_until(lambda: has_grown("children_started", 1), "another child is in its place")
        job.result()
    wait_until(lambda: has_grown("rows", 40_000), "all are counted, those of the dead child too")
    wait_until(lambda: scrape(PORT)[f"{WORKER}children", "ready"] == CHILDREN, "both are ready")


def test_a_command_is_asked_for_its_last_numbers_before_it_ends(system: System, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", digits(3_000))
    port = free_port()
    command = [str(BIN / "celeriac"), "predict", "digits", "rows.npy", "-o", "out.npy", "--json", "--metrics-port"]
    process = subprocess.Popen(
        [*command, str(port)],
        cwd=tmp_path,
        env=system.environ(CELERIAC_BROKER_URL=system.url),
        stdout=subprocess.PIPE,
        text=True,
    )
    told: JobFacts = {}

    def ended() -> bool:
        nonlocal told
        try:
            told = scrape(port)
        except (urllib.error.URLError, ConnectionError):  # not yet, or not any more
            return process.poll() is not None
        return False

    wait_until(ended, "the command has ended")
    output, _ = process.communicate()
    assert process.returncode == 0
    ledger = json.loads(output.splitlines()[-1])["ledger"]
    assert told[f"{PRODUCER}rows_written_total",] == ledger["written"] == 3_000
    assert told[f"{PRODUCER}jobs_ended_total", "done"] == 1


def test_a_port_that_is_in_use_ends_a_worker_with_one_line(system: System) -> None:
    worker = system.start_worker(system.folder / "models.toml", 1, environ={"CELERIAC_METRICS_PORT": str(PORT)})
    assert worker.process.wait(60) == ExitCode.USAGE
    (line,) = [line for line in worker.output().splitlines() if line.startswith("celeriac: ")]
    assert line.startswith(f"celeriac: metrics cannot be served at 127.0.0.1:{PORT}: Address already in use; choose")
    assert "Traceback" not in worker.output()


def test_so_does_one_of_a_producer(producer: int) -> None:
    with pytest.raises(ConfigError, match=f"at 127.0.0.1:{producer}: Address already in use"), serve_metrics(producer):
        pass
    with pytest.raises(ConfigError, match=r"at 127.0.0.1:70000: .*0-65535"), serve_metrics(70_000):
        pass


def test_without_the_library_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigError, match=r"pip install 'celeriac\[metrics\]'"), serve_metrics(free_port()):
        pass


def test_the_dashboard_asks_for_nothing_that_nobody_tells(system: System, producer: int) -> None:
    text = (Path(__file__).parents[2] / "monitoring/grafana/dashboards/celeriac.json").read_text()
    asked = {word for target in _expressions(json.loads(text)) for word in _words(target) if "celeriac_" in word}
    variables = {one["name"]: one["definition"] for one in json.loads(text)["templating"]["list"]}
    assert set(variables) == {"model", "worker", "job"}
    asked |= {word for definition in variables.values() for word in _words(definition) if "celeriac_" in word}
    for expression in _expressions(json.loads(text)):
        assert expression.count("celeriac_") == expression.count("{"), "each is narrowed"
        assert ('"$job"' in expression) == ("celeriac_producer_" in expression)
        assert ('"$worker"' in expression) == ('"$model"' in expression) == ("celeriac_worker_" in expression)
    assert len(asked) > 20
    assert asked <= names(scrape(PORT)) | names(scrape(producer))


def test_the_documentation_has_every_metric_and_no_other(system: System, producer: int) -> None:
    text = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
    assert set(re.findall(r"`(celeriac_\w+)", text)) == names(scrape(PORT)) | names(scrape(producer))


def _expressions(dashboard: dict) -> Iterator[str]:
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"]


def _words(expression: str) -> list[str]:
    return "".join(one if one.isalnum() or one == "_" else " " for one in expression).split()
