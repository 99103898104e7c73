"""Workers, Redis and the producer on hosts of their own: one that is cut off for a while costs time, and no row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from producer.records.ledger import Ledger
from tests.acceptance.commands import Celeriac, Running
from tests.chaos.arena import Arena
from tests.chaos.calls import Idleness
from tests.chaos.network import HOSTS, PRODUCER_HOST, WORKER_HOSTS, Network, why_not
from tests.chaos.schedule import LARGE, SMALL
from tests.forms import LONG, in_long_form
from tests.waiting import descendants_of, wait_until
from worker_config.errors import ExitCode

CHUNKS = 120
CHUNK_SECONDS = 0.15
REASON = why_not()

pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Arena]:
    network = Network()
    try:
        arena = Arena(tmp_path_factory.mktemp("h"), models / "digits.keras", network.start())
        try:
            arena.start()
            yield arena
        finally:
            arena.stop(check=False)
    finally:
        network.stop()


class Prediction:
    """`celeriac predict` on the producer's host."""

    def __init__(self, arena: Arena, chunk_rows: int) -> None:
        assert arena.network
        self.arena = arena
        self.rows = arena.rows[: CHUNKS * chunk_rows]
        self.celeriac = Celeriac(arena.new_folder(), prefix=arena.network.on(PRODUCER_HOST))
        np.save(self.celeriac.folder / "rows.npy", self.rows)
        arena.set_pace(CHUNK_SECONDS)
        arena.calls.restart()
        words = ["rows.npy", "-o", "scores.npy", "--broker", arena.network.url(PRODUCER_HOST), "--json", "--quiet"]
        words += ["--chunk-rows", chunk_rows, "--store", "redis", "--worker-timeout-seconds", 120]
        self.running: Running = self.celeriac.start("predict", "digits", *words, fresh=True)

    def wait_for(self, chunks: int) -> None:
        """Until so many chunks have run."""

        def ran() -> bool:
            self.running.check_running()
            return len([call for call in self.arena.calls.read() if call.ended]) >= chunks

        wait_until(ran, f"{chunks} chunks have run")

    def check(self) -> Ledger:
        """The end: the output is right, and all rows are accounted for."""
        ended = self.running.end()
        assert ended.code == ExitCode.OK, ended
        np.testing.assert_array_equal(
            np.load(self.celeriac.folder / "scores.npy"), self.arena.expected[: len(self.rows)]
        )
        ledger = Ledger(**ended.json["ledger"])
        ledger.check()
        assert (ledger.predicted, ledger.written) == (len(self.rows), len(self.rows))
        return ledger


@pytest.fixture(params=[SMALL, LARGE] if LONG else [LARGE], ids=lambda rows: f"{rows} rows a chunk")
def prediction(cluster: Arena, request: pytest.FixtureRequest) -> Iterator[Prediction]:
    """One that is in the middle."""
    cluster.bring_up(2)
    prediction = Prediction(cluster, request.param)
    try:
        prediction.wait_for(20)
        yield prediction
    finally:
        prediction.celeriac.stop()
        cluster.set_pace(0)


@in_long_form
def test_a_worker_that_is_cut_off(cluster: Arena, prediction: Prediction) -> None:
    assert cluster.network
    victim = cluster.system.workers[-1]
    host = WORKER_HOSTS[(len(cluster.system.workers) - 1) % 2]
    children = set(descendants_of(victim.pid))
    cluster.network.cut(host)
    cut_after = len(cluster.calls.read())

    def others_went_on() -> bool:
        calls = cluster.calls.read()[cut_after:]
        return len([call for call in calls if call.pid not in children]) >= 10

    wait_until(others_went_on, "the other worker goes on")
    wait_until(lambda: len(cluster.system.slots()) == 2, "the worker counts as gone")
    cluster.network.mend(host)

    prediction.check()
    wait_until(lambda: len(cluster.system.slots()) == 4, "the worker is back")
    assert not [one for one in cluster.ready_workers() if one.process.poll() is not None]


@pytest.mark.parametrize("hosts", [HOSTS, (PRODUCER_HOST,)] if LONG else [(PRODUCER_HOST,)], ids=",".join)
def test_what_is_cut_off_and_all_wait_for(cluster: Arena, prediction: Prediction, hosts: tuple[str, ...]) -> None:
    assert cluster.network
    cluster.network.cut(*hosts)
    wait_until(Idleness(cluster.calls), "nobody has anything to do")
    prediction.running.check_running()
    cluster.network.mend(*hosts)

    prediction.check()


@in_long_form
def test_a_network_that_is_slow_and_loses_packets(cluster: Arena, prediction: Prediction) -> None:
    assert cluster.network
    if reason := cluster.network.disturb("delay", "20ms", "loss", "1%"):
        pytest.skip(f"no netem here: {reason}")

    prediction.check()
