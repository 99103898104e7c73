"""The harness's arithmetic, and what every question must have; nothing is timed here."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import harness, memory_job, report
from benchmarks.__main__ import QUESTIONS
from benchmarks.harness import Arm, Comparison, Trial, WrongOutputError, bootstrap, check_equal, compare, ratios
from benchmarks.meter import Load, Memory, Times, seconds_between


def nothing(*_: object) -> None:
    pass


def comparison(
    ours: list[float], rival: list[float], control: list[float] | None = None, disturbed_blocks: int = 0
) -> Comparison:
    seconds = {"ours": ours, "rival": rival}
    return Comparison("ours", seconds, seconds, control or ours, disturbed_blocks, [0.0] * len(ours))


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "wait_until_idle", nothing)
    monkeypatch.setattr(harness, "touch_memory", nothing)  # gigabytes


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch, no_waiting: None) -> Callable[..., list[str]]:
    """Let trials take the seconds that a test says, by arm; gives the names in the order in which they ran."""

    def script(others: list[float] | None = None, **seconds: float) -> list[str]:
        ran: list[str] = []

        def measure(arm: Arm) -> Trial:
            ran.append(arm.name)
            busy = others.pop(0) if others else 0.0
            return Trial(seconds[arm.name], seconds[arm.name], busy)

        monkeypatch.setattr(harness, "measure", measure)
        return ran

    return script


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_question_asks_one_in_its_docstring(name: str) -> None:
    module = importlib.import_module(f"benchmarks.{name}")

    assert "?" in (module.__doc__ or "").split("\n\n")[0]
    assert callable(module.question)


def test_every_file_that_asks_a_question_is_among_the_questions() -> None:
    files = {path.stem: path.read_text() for path in Path(harness.__file__).parent.glob("*.py")}

    assert {name for name, text in files.items() if "def question(" in text} == set(QUESTIONS)


def test_ratios_are_taken_within_blocks() -> None:
    assert ratios([2, 9, 8], [1, 3, 4]) == [2, 3, 2]


def test_speed_is_the_rivals_time_over_the_mean_of_both_of_ours() -> None:
    assert comparison([1, 1, 1], [2, 1, 0.5], [3, 3, 3]).speed_against("rival").median == 0.5


def test_one_wild_block_does_not_move_the_median() -> None:
    assert comparison([1, 1, 1, 1, 100], [2, 2, 2, 2, 2]).speed_against("rival").median == 2


def test_the_interval_of_equal_values_has_no_width() -> None:
    interval = bootstrap([1.5] * 5)

    assert (interval.low, interval.median, interval.high) == (1.5, 1.5, 1.5)


def test_the_interval_holds_the_median_and_stays_within_the_values() -> None:
    values = np.random.default_rng(3).normal(1, 0.1, 15).tolist()
    interval = bootstrap(values)

    assert min(values) <= interval.low < interval.median < interval.high <= max(values)
    assert interval == bootstrap(values)


def test_more_blocks_narrow_the_interval() -> None:
    values = np.random.default_rng(4).normal(1, 0.1, 100).tolist()
    few, many = bootstrap(values[:5]), bootstrap(values)

    assert many.high - many.low < few.high - few.low


@pytest.mark.parametrize(("control", "void"), [(1.0, False), (0.96, False), (1.04, False), (0.9, True), (1.1, True)])
def test_a_run_is_void_when_the_same_arm_differs_from_itself(control: float, void: bool) -> None:
    assert comparison([control] * 5, [1] * 5, [1] * 5).void is void


def test_blocks_run_in_turns_and_ours_at_both_ends(trials: Callable[..., list[str]]) -> None:
    ran = trials(ours=1, a=2, b=4)
    found = compare(Arm("ours", nothing, nothing), [Arm("a", nothing, nothing), Arm("b", nothing, nothing)])

    warm_up, blocks = ran[:3], [ran[first : first + 4] for first in range(3, len(ran), 4)]
    assert warm_up == ["ours", "a", "b"]
    assert blocks == [["ours", "a", "b", "ours"], ["ours", "b", "a", "ours"]] * 2 + [["ours", "a", "b", "ours"]]
    assert found.seconds == {"ours": [1] * 5, "a": [2] * 5, "b": [4] * 5}
    assert found.control_seconds == [1] * 5
    assert found.fastest(["a", "b"]) == "a"


def test_a_block_in_which_others_were_busy_is_run_again(trials: Callable[..., list[str]]) -> None:
    quiet, busy = [0.0] * 3, [0.0, 0.9, 0.0]
    trials(others=[0.0, 0.0, *quiet, *busy, *busy, *quiet], ours=1, rival=1)
    found = compare(Arm("ours", nothing, nothing), [Arm("rival", nothing, nothing)])

    assert found.disturbed_blocks == 2
    assert found.others == [0.0] * 5


def test_a_machine_that_is_never_quiet_does_not_hold_us_for_ever(trials: Callable[..., list[str]]) -> None:
    trials(others=[0.9] * 1000, ours=1, rival=1)
    found = compare(Arm("ours", nothing, nothing), [Arm("rival", nothing, nothing)])

    assert found.disturbed_blocks == 5
    assert found.others == [0.9] * 5


def test_a_wrong_output_in_any_run_leaves_no_result(no_waiting: None) -> None:
    outputs = count()

    def check(output: Any) -> None:
        if output == 7:
            raise WrongOutputError("seven")

    with pytest.raises(WrongOutputError, match="seven"):
        compare(Arm("ours", lambda: next(outputs), check), [])


def test_fewer_than_five_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="4 blocks are too few"):
        compare(Arm("ours", nothing, nothing), [], blocks=4)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ([[1, 2], [3, 4]], "(2, 2) came out, not"),
        ([[1, 2], [5, 6], [3, 4]], "row 1 is"),
        ([[1, 2], [3, 4], [5, 7]], "row 2 is"),
    ],
    ids=["count", "order", "values"],
)
def test_the_gate_looks_at_count_order_and_values(output: list[list[int]], message: str) -> None:
    expected = np.array([[1, 2], [3, 4], [5, 6]])
    check_equal(expected.copy(), expected)

    with pytest.raises(WrongOutputError) as raised:
        check_equal(output, expected)
    assert message in str(raised.value)


def test_rounding_passes_only_where_it_is_allowed() -> None:
    expected = np.array([1.0, 2.0])
    check_equal(expected + 1e-7, expected, exactly=False)

    with pytest.raises(WrongOutputError):
        check_equal(expected + 1e-7, expected)


def test_a_dtype_of_another_width_is_wrong() -> None:
    with pytest.raises(WrongOutputError, match="float64"):
        check_equal(np.ones(3), np.ones(3, np.float32))


def test_generated_rows_differ_and_do_not_depend_on_where_one_begins() -> None:
    rows = memory_job.rows_between(0, 5_000, 16)

    assert len(np.unique(rows, axis=0)) == 5_000
    np.testing.assert_array_equal(memory_job.rows_between(1_500, 4_700, 16), rows[1_500:4_700])
    np.testing.assert_array_equal(np.stack(list(memory_job.generate(5_000, 16))), rows)


def test_a_file_holds_the_generated_rows(tmp_path: Path) -> None:
    memory_job.write_file(tmp_path / "rows.npy", 3_000, 16)

    np.testing.assert_array_equal(np.load(tmp_path / "rows.npy"), memory_job.rows_between(0, 3_000, 16))


def test_a_peak_is_the_larger_of_each() -> None:
    low, high = Memory(pss=1, own=20, rss=300), Memory(pss=10, own=2, rss=400)

    assert low.peak(high) == Memory(pss=10, own=20, rss=400)
    assert high.above(low) == Memory(pss=9, own=-18, rss=100)


def test_the_load_has_our_own_work_in_it() -> None:
    load = Load()
    while load.since()[0] == 0.0:
        sum(range(10_000))

    assert load.since()[1] >= 0.0


@pytest.mark.parametrize(
    ("waited_for", "seconds"),
    [
        (7.0, 2.0 + 3.0),  # 4 seconds of it were before
        (0.0, 2.0),  # nobody has waited for it
    ],
)
def test_what_a_process_used_before_does_not_count_when_it_has_ended(waited_for: float, seconds: float) -> None:
    before = {(1, 0.5): Times(10.0, 0.0, 0), (2, 0.6): Times(0.5, 0.5, 1), (3, 0.7): Times(3.0, 0.0, 2)}
    assert seconds_between(before, {(1, 0.5): Times(12.0, waited_for, 0)}) == seconds


def test_a_process_that_has_begun_counts_whole() -> None:
    assert (
        seconds_between({(1, 0.5): Times(1.0, 0.0, 0)}, {(1, 0.5): Times(1.0, 0.0, 0), (1, 0.9): Times(2.0, 1.0, 1)})
        == 3
    )


def test_a_report_is_a_line_of_json_and_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    found = comparison([2.0] * 5, [1.0] * 5, disturbed_blocks=1)
    speed = report.at_least("ours / rival", found.speed_against("rival"), 0.6)
    valid = report.report_comparison("transport: here", found, 1_000, {"children": 2}, [speed], quick=True)

    record = json.loads((tmp_path / "results" / "transport.jsonl").read_text())
    shown = capsys.readouterr().out
    assert valid
    assert record["commit"]
    assert record["versions"]["celery"]
    assert record["machine"]["cores"] >= 1
    assert record["sizes"] == {"rows": 1_000, "children": 2, "blocks": 5, "run again": 1}
    assert record["measured"]["seconds"] == {"ours": [2.0] * 5, "rival": [1.0] * 5}
    assert "0.50 [0.50, 0.50]" in shown
    assert "MISSED" in shown
    assert "VOID" not in shown


def test_a_void_run_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    found = comparison([2.0] * 5, [1.0] * 5, [1.0] * 5)

    assert not report.report_comparison("transport", found, 1_000, {}, [], quick=True)
    assert "VOID: the machine was not quiet" in capsys.readouterr().out
    assert json.loads((tmp_path / "transport.jsonl").read_text())["void"] is True
