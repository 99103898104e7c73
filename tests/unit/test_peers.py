"""How `make peers` checks outputs, counts lines of users and writes its page; nothing is timed here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.harness import Trial, WrongOutputError
from benchmarks.peers import aims, page, rounds, works
from benchmarks.peers.faults import FAULTS, Outcome
from benchmarks.peers.measuring import Visit
from benchmarks.peers.outputs import check_rows, check_values, right_rows
from benchmarks.peers.programs import SYSTEMS, settings_of, user_lines
from benchmarks.peers.rounds import Figures

ROWS = 6
EXPECTED = np.arange(2 * ROWS, dtype=np.float32).reshape(ROWS, 2)
PROGRAMS = sorted({system.path for system in SYSTEMS.values() if system.path.exists()})


def write_array(output: Path, values: np.ndarray) -> None:
    np.save(output.with_suffix(".npy"), values)


def write_parquet(output: Path, values: np.ndarray, ids: Sequence[int] = range(ROWS)) -> None:
    """In two files, the later rows first."""
    folder = output.with_suffix(".parquet")
    folder.mkdir()
    flat = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values[0].size)
    table = pa.table({"id": pa.array(ids, pa.int64()), "output": flat})
    pq.write_table(table.slice(3), folder / "a.parquet")
    pq.write_table(table.slice(0, 3), folder / "b.parquet")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.mark.parametrize("write", [write_array, write_parquet])
@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_right_outputs_pass(output: Path, write: type, shape: tuple[int, ...]) -> None:
    write(output, EXPECTED)
    check_rows(output, EXPECTED.reshape(ROWS, *shape), {})
    assert right_rows(output, EXPECTED).tolist() == list(range(ROWS))


@pytest.mark.parametrize("write", [write_array, write_parquet])
def test_a_wrong_row_is_noticed(output: Path, write: type) -> None:
    values = EXPECTED.copy()
    values[4, 1] += 0.01
    write(output, values)
    with pytest.raises(WrongOutputError, match="row 4 is"):
        check_rows(output, EXPECTED, {})
    assert right_rows(output, EXPECTED).tolist() == [0, 1, 2, 3, 5]


@pytest.mark.parametrize("value", [0.5, np.nan])
def test_a_lower_precision_has_its_own_limit(output: Path, value: float) -> None:
    values = EXPECTED.copy()
    values[4, 1] += 0.1
    write_array(output, values)
    check_rows(output, EXPECTED, {"tolerance": 0.1})
    values[4, 1] += value
    write_array(output, values)
    with pytest.raises(WrongOutputError, match="row 4 deviates"):
        check_rows(output, EXPECTED, {"tolerance": 0.1})


def test_classes_may_differ_in_few_rows(tmp_path: Path) -> None:
    expected = np.eye(ROWS, 4, dtype=np.float32)
    found = expected.copy()
    found[0] = [0, 1, 0, 0]
    np.save(tmp_path / "out.npy", found)
    check_rows(tmp_path / "out", expected, {"agreement": (ROWS - 1) / ROWS})
    with pytest.raises(WrongOutputError, match="of the same class"):
        check_rows(tmp_path / "out", expected, {"agreement": 1.0})


def test_a_missing_row_is_noticed(output: Path) -> None:
    write_array(output, EXPECTED[:-1])
    with pytest.raises(WrongOutputError, match="5 rows, not 6; row 5 is missing"):
        check_rows(output, EXPECTED, {})


def test_a_missing_row_is_noticed_where_rows_have_numbers(output: Path) -> None:
    write_parquet(output, np.delete(EXPECTED, 2, axis=0), [0, 1, 3, 4, 5])
    with pytest.raises(WrongOutputError, match="5 rows, not 6; row 2 is missing"):
        check_rows(output, EXPECTED, {})
    assert right_rows(output, EXPECTED).tolist() == [0, 1, 3, 4, 5]


def test_a_doubled_row_is_noticed(output: Path) -> None:
    ids = [0, 1, 2, 2, 4, 5]
    write_parquet(output, EXPECTED[ids], ids)
    with pytest.raises(WrongOutputError, match="row 2 comes twice"):
        check_rows(output, EXPECTED, {})
    assert right_rows(output, EXPECTED).tolist() == [0, 1, 4, 5]


def test_no_output_is_noticed(output: Path) -> None:
    with pytest.raises(WrongOutputError, match="there is no output"):
        check_rows(output, EXPECTED, {})
    assert len(right_rows(output, EXPECTED)) == 0


def test_an_output_that_is_null_is_noticed(output: Path) -> None:
    folder = output.with_suffix(".parquet")
    folder.mkdir()
    pq.write_table(pa.table({"id": range(ROWS), "output": [None, *map(float, range(1, ROWS))]}), folder / "a.parquet")
    with pytest.raises(WrongOutputError, match="1 outputs are null"):
        check_rows(output, np.arange(ROWS, dtype=np.float32), {})


@pytest.mark.parametrize(
    ("values", "message"),
    [([2.0, 1.0], "2 rows, not 3"), ([3.0, 1.0, 1.0], "row 1 is"), ([3.0, 2.5, 1.0], "row 1 is")],
)
def test_values_without_numbers_are_all_held_against_what_is_expected(
    output: Path, values: list[float], message: str
) -> None:
    expected = np.array([1, 2, 3], np.float32)
    for number, its in enumerate(([3.0, 1.0, 2.0], values)):
        its_output = output.with_name(f"out-{number}")
        its_output.with_suffix(".parquet").mkdir()
        table = pa.table({"output": pa.array(its, pa.float32())})
        pq.write_table(table, its_output.with_suffix(".parquet") / "a.parquet")
    check_values(output.with_name("out-0"), expected)
    with pytest.raises(WrongOutputError, match=message):
        check_values(output.with_name("out-1"), expected)


def test_lines_of_users_are_those_between_marks_that_do_something() -> None:
    text = '''"""Docs."""
import work
# user code: begin
def run(order):
    """A docstring.

    Of three lines.
    """
    # A comment.

    return """a text
    that counts"""
# user code: end
def main():
    # user code: begin
    run({})
    # user code: end
'''
    assert user_lines(text) == 4


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_every_program_shows_its_settings_and_its_users_lines(path: Path) -> None:
    (system, *_) = [system for system in SYSTEMS.values() if system.path == path]
    assert settings_of(system)
    assert user_lines(path.read_text()) > 0


def visits(speeds: Sequence[float], pss: int = 1) -> list[Visit]:
    return [Visit(cold_seconds=9.0, warm=[Trial(1 / speed, 2 / speed, 0.0)], pss=pss) for speed in speeds]


def test_ratios_are_taken_within_a_round_and_ours_is_the_mean_of_both_runs() -> None:
    found = {"celeriac": visits([4, 8]), "control": visits([4, 8]), "ray_data": visits([2, 2], pss=4)}
    assert rounds.ratio(found, "speed", "celeriac", "ray_data").median == pytest.approx(3)  # type: ignore[union-attr]
    assert rounds.ratio(found, "thrift", "celeriac", "ray_data").median == pytest.approx(3)  # type: ignore[union-attr]
    assert rounds.ratio(found, "pss", "celeriac", "ray_data").median == pytest.approx(0.25)  # type: ignore[union-attr]
    assert not rounds.void(found)
    assert rounds.void({**found, "control": visits([4, 4])})


def test_a_system_in_trouble_has_no_ratio_and_its_row_says_why() -> None:
    found = {"celeriac": visits([4]), "control": visits([4]), "ray_data": [Visit("ended with exit code 1: a | b")]}
    with_ray = rounds.figures_of(stage(), found)
    assert rounds.ratio(found, "speed", "celeriac", "ray_data") is None
    assert "| Ray Data | ended with exit code 1: a / b |" in page.work_table("mlp", with_ray, [], "")


def test_aims_are_held_against_ray_data() -> None:
    found = {"celeriac": visits([4]), "control": visits([4]), "ray_data": visits([1], pss=2)}
    table = page.work_table("mlp", {}, aims.findings("mlp", found), "about")
    assert (
        "| rows for a processor second, chosen executor, of Ray Data's | 4.00 [4.00, 4.00] | >= 2.00 | reached |"
        in table
    )
    assert "| memory (PSS), of Ray Data's | 0.50 [0.50, 0.50] | <= 0.30 | **missed** |" in table
    assert "bfloat16" not in table


def stage() -> works.Stage:
    return works.Stage("mlp", works.WORKS["mlp"], Path("none"), 1_000, EXPECTED, quick=True)


def test_tables_take_the_place_of_those_between_their_marks() -> None:
    text = "<!-- mlp: begin -->\nyesterday\n<!-- mlp: end -->\nwords\n<!-- faults: begin --><!-- faults: end -->\n"
    outcomes = {"pool": {fault: Outcome("hangs", 5, 4) for fault in FAULTS}}
    table = page.work_table("mlp", {"loop": Figures(speed=1e4, thrift=5e3, cold=2, pss=3 * 10**6)}, [], "about")
    text = page.put(page.put(text, "mlp", table), "faults", page.faults_table(outcomes, "about"))
    assert "yesterday" not in text
    assert "\nwords\n" in text
    assert "| bare loop | 10,000 | 5,000 | 2.0 | 3 (0) | 0 |" in text
    assert f"| `multiprocessing.Pool` |{' hangs; 4 of 5 good rows |' * 3}" in text
    with pytest.raises(ValueError, match="no marks <!-- gone: begin -->"):
        page.put(text, "gone", "")


def test_the_page_has_a_place_for_every_table() -> None:
    text = page.PAGE.read_text()
    for name in (*works.WORKS, "faults", "settings"):
        assert page.put(text, name, "") != text
