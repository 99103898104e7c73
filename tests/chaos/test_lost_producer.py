"""`celeriac predict` killed again and again, and resumed each time: right, and hardly a row more than once."""

from __future__ import annotations

import random

import numpy as np

from producer.scheduling.window import CHUNKS_PER_SLOT
from producer.sinks.journal import journal_path
from tests.acceptance.commands import Celeriac, Running
from tests.chaos.arena import CHILDREN, WORKERS, Arena
from tests.chaos.schedule import SMALL
from tests.forms import LONG
from tests.output_sets import safe_rows
from tests.waiting import wait_until
from worker_config.errors import ExitCode

KILLS = 10 if LONG else 1
CHUNKS = 400 if LONG else 40
# A window is then about two seconds' work, and what waits for the disk the smaller part of a loss.
CHUNK_SECONDS = 0.5
SLOTS = WORKERS * CHILDREN
WINDOW_ROWS = SLOTS * CHUNKS_PER_SLOT * SMALL


def test_a_command_that_is_killed_often_computes_hardly_a_row_twice(arena: Arena) -> None:
    arena.bring_up(WORKERS)
    arena.set_pace(CHUNK_SECONDS)
    arena.calls.restart()
    rows = arena.rows_of(SMALL)[: CHUNKS * SMALL]
    celeriac = Celeriac(arena.new_folder())
    journal = journal_path(celeriac.folder / "scores.npy")
    np.save(celeriac.folder / "rows.npy", rows)
    moments = sorted(random.Random(3).sample(range(CHUNKS // 20, CHUNKS * 9 // 10), KILLS))  # noqa: S311

    def start(*more: str) -> Running:
        words = ["rows.npy", "-o", "scores.npy", "--broker", arena.system.url, "--chunk-rows", SMALL, "--json"]
        return celeriac.start("predict", "digits", *words, "--quiet", *more, fresh=True)

    running = start()
    for moment in moments:

        def its_moment(running: Running = running, rows: int = moment * SMALL) -> bool:
            running.check_running()
            return journal.exists() and safe_rows(journal.read_bytes()) >= rows

        # By what is safe, not by what is predicted: how long a busy disk takes for it is no matter of ours.
        wait_until(its_moment, f"chunk {moment} is safe")
        running.process.kill()
        running.process.wait()
        assert celeriac.hidden_names() >= {".scores.npy.journal"}
        running = start("--resume")
    ended = running.end()

    assert ended.code == ExitCode.OK, ended
    np.testing.assert_array_equal(np.load(celeriac.folder / "scores.npy"), arena.expected[: len(rows)])
    ledger = ended.json["ledger"]
    assert (ledger["rows"], ledger["predicted"], ledger["written"]) == (len(rows),) * 3
    assert ledger["resumed"] > 0
    assert celeriac.hidden_names() == set()
    computed = arena.calls.rows()
    assert computed <= 1.1 * len(rows) + KILLS * WINDOW_ROWS, f"{computed} rows computed of {len(rows)}"
