"""Many slots on many hosts, of which one is cut off, one dies and one is slow: each row once, to the bit, in order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.checks import check_nothing_is_left_of
from tests.chaos.cluster import CUT, SLOW, SLOW_TIMES, Cluster, Size
from tests.chaos.network import why_not
from tests.forms import LONG
from tests.waiting import wait_until

SIZE = Size(6, 16, 6_000, 0.5) if LONG else Size(3, 4, 400, 0.1)
REASON = why_not()

pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("m"), SIZE)
    try:
        yield cluster.start()
    finally:
        cluster.stop()


@pytest.mark.parametrize("detached", [False, True], ids=["attached", "detached"])
def test_hosts_in_trouble_cost_no_row(cluster: Cluster, detached: bool) -> None:
    cluster.bring_up()
    children = {host: cluster.pids_of(host) for host in cluster.workers}

    run = cluster.run(detached=detached, injured=True)

    calls, marks = run.calls, run.marks
    begun = {host: [call.begun for call in calls if call.pid in pids] for host, pids in children.items()}
    assert all(begun.values()), "every host had chunks"
    assert [at for at in begun[CUT] if at > marks.mended], "it came back"
    assert [call for call in calls if call.ended is None], "chunks died with their worker"
    slow = [call.ended - call.begun for call in calls if call.pid in children[SLOW] and call.ended]
    assert min(slow) >= SLOW_TIMES * SIZE.chunk_seconds
    check_nothing_is_left_of([run.job], cluster.server)
    wait_until(
        lambda: len(cluster.system.slots()) == SIZE.slots - SIZE.slots_each, "the slots of the dead are forgotten"
    )
