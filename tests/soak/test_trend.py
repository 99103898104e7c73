"""What grows is seen, among samples that go up and down; what does not is not."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tests.soak.sample import Probe, ProcessSample, Sample
from tests.soak.trend import LEAST_SAMPLES, findings, series_of

HOURS = 2
COUNT = 150
NOISE_BYTES = 3e6


def samples(
    bytes_per_hour: float = 0, descriptors_per_hour: float = 0, seconds_per_hour: float = 0, run_hours: float = HOURS
) -> list[Sample]:
    """Of a worker whose own memory, descriptors and times grow so much; its child is replaced every 50 samples."""
    draw, made = random.Random(5), list[Sample]()  # noqa: S311
    for number, at in enumerate(np.linspace(0, run_hours * 3_600, COUNT)):
        hours = at / 3_600
        warm = 50e6 * min(1, number / (COUNT / 5))

        def process(kind: str, pid: int, hours: float = hours, warm: float = warm) -> ProcessSample:
            own = int(warm + 100e6 + bytes_per_hour * hours + draw.gauss(0, NOISE_BYTES))
            return ProcessSample(kind, pid, own, own, 7, {"socket": 9 + int(descriptors_per_hour * hours)})

        seconds = 0.01 + seconds_per_hour * hours + draw.random() / 1e3
        processes = [process("main process", 1), process("child", 100 + number // 50)]
        made.append(
            Sample(
                at,
                number,
                processes,
                {"jobs": 1},
                10**6,
                {"spool": 1, "temporary": 3},
                Probe(seconds, 2 * seconds, seconds),
            )
        )
    return made


def verdicts(made: list[Sample]) -> dict[str, bool | None]:
    return {one.what: one.reached for one in findings(made, HOURS * 3_600, [], [])}


def test_what_is_level_is_level() -> None:
    found = verdicts(samples())
    assert {what for what, reached in found.items() if reached is False} == set()
    assert found["main process: memory"]
    assert found["child: memory"] is None, "none of them was there for long"


@pytest.mark.parametrize(
    ("grown", "what"),
    [
        ({"bytes_per_hour": 3e6}, "main process: memory"),
        ({"descriptors_per_hour": 2}, "main process: descriptors"),
        ({"seconds_per_hour": 0.005}, "a chunk's seconds, median"),
    ],
)
def test_what_grows_is_found(grown: dict[str, float], what: str) -> None:
    assert verdicts(samples(**grown))[what] is False


def test_a_process_that_is_replaced_begins_a_series_and_a_short_one_does_not_count() -> None:
    made = samples()
    assert [len(one.times) for one in series_of(made)["child"]] == [50, 50, 50]
    assert list(series_of(made[: 50 + LEAST_SAMPLES - 1])["child"][0].times) == [one.at for one in made[:50]]
    assert len(series_of(made[: 50 + LEAST_SAMPLES - 1])["child"]) == 1


def test_what_is_left_is_told() -> None:
    found = {one.what: one for one in findings(samples(), HOURS * 3_600, ["celeriac:job:0123:answers"], [])}
    assert found["keys left"].reached is False
    assert found["keys left"].note == "celeriac:job:0123:answers"
    assert found["files left"].reached


def test_a_short_run_holds_no_slope_against_an_aim() -> None:
    found = findings(samples(bytes_per_hour=9e6, run_hours=0.1), 360, [], [])
    assert all(one.reached is None for one in found if "MB/h" in one.value)
