"""Random small networks on the rows that hurt: whichever executor is chosen, the answers are the model's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec

from tests.forms import LONG
from tests.unit.random_networks import Outcome

NETWORKS = 200 if LONG else 6


def test_random_networks_equal_their_own_graph_on_rows_that_hurt(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.unit.random_networks", "0", str(NETWORKS), str(tmp_path)]
    environ = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    outcomes = [msgspec.json.decode(line, type=Outcome) for line in done.stdout.splitlines()]
    assert [one.seed for one in outcomes] == list(range(NETWORKS))
    wrong = [one for one in outcomes if one.differences]
    assert not wrong, "\n".join(map(str, wrong))
    # A choice that always falls on the own graph would prove nothing.
    assert any(one.executor != "graph" and one.small_batches for one in outcomes)
