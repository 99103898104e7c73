"""How `make peers` checks outputs, counts lines of users and writes its page; nothing is timed here."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.harness import Trial, WrongOutputError
from benchmarks.peers import aims, measuring, page, rounds, works
from benchmarks.peers.faults import FAULTS, Outcome
from benchmarks.peers.measuring import Visit
from benchmarks.peers.outputs import check_rows, check_values, right_rows
from benchmarks.peers.programs import SYSTEMS, System, settings_of, user_lines
from benchmarks.peers.rounds import Figures
from benchmarks.peers.systems.tables import as_bytes

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


def write_bytes(output: Path, values: np.ndarray) -> None:
    """A row's bytes, in two row groups, and of a slice, as batches are."""
    folder = output.with_suffix(".parquet")
    folder.mkdir()
    table = pa.table({"id": range(-1, ROWS), "output": as_bytes(np.concatenate([values[:1], values]))})
    pq.write_table(table.slice(1), folder / "a.parquet", row_group_size=4)


@pytest.mark.parametrize("write", [write_array, write_parquet, write_bytes])
@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_right_outputs_pass(output: Path, write: type, shape: tuple[int, ...]) -> None:
    write(output, EXPECTED)
    check_rows(output, EXPECTED.reshape(ROWS, *shape), {})
    assert right_rows(output, EXPECTED).tolist() == list(range(ROWS))


@pytest.mark.parametrize("write", [write_array, write_parquet, write_bytes])
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


def test_a_drift_that_cancels_out_over_mirrored_rounds_is_void_too() -> None:
    found = {"celeriac": visits([4, 4]), "control": visits([5, 3.4]), "ray_data": visits([1, 1], pss=4)}
    assert rounds.control_of(found).median == pytest.approx(1, abs=0.05)  # type: ignore[union-attr]
    assert rounds.void(found)
    table = page.work_table("mlp", {}, aims.findings("mlp", found), "about")
    assert "| memory (PSS), of Ray Data's | 0.25 [0.25, 0.25] | <= 0.30 | void |" in table
    assert "1.00 +/- 0.05 | **missed** |" in table


def test_where_the_first_start_of_all_fails_no_later_one_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    visited = []

    def visit(system: System, *_: object) -> Visit:
        visited.append(system.title)
        return Visit("no answer after 1200 s")

    monkeypatch.setattr(rounds, "visit", visit)
    found = rounds.go_round(stage(), ["celeriac", "loop"], 2, Path("log"), 2, 0.0)
    assert visited == ["Celeriac", "bare loop"]
    assert rounds.figures_of(stage(), found)["celeriac"].trouble == "no answer after 1200 s"


def test_a_turn_that_was_not_quiet_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    visited: list[str] = []
    speeds = iter([8.0, 2.0, 4.0, 8.0, 2.0, 8.0])

    def visit(system: System, *_: object) -> Visit:
        visited.append(system.title)
        return visits([1.0 if len(visited) == 1 or system.title == "bare loop" else next(speeds)])[0]

    monkeypatch.setattr(rounds, "visit", visit)
    long = dataclasses.replace(stage(), quick=False)
    found = rounds.go_round(long, ["celeriac", "loop", "ray_data"], 2, Path("log"), 1, 0.0)
    turn = ["Celeriac", "Ray Data", "Celeriac"]
    assert visited == ["Celeriac", *turn, *turn, "bare loop"]
    assert len(found["celeriac unquiet"]) == len(found["ray_data unquiet"]) == 1
    assert not rounds.void(found)
    assert list(rounds.figures_of(long, found)) == ["celeriac", "loop", "ray_data"]
    assert rounds.figures_of(long, found)["celeriac"].speed == pytest.approx(8 * long.rows)


def test_what_a_system_leaves_that_is_no_output_is_a_wrong_one(tmp_path: Path) -> None:
    for name in ("empty", "ragged"):
        (tmp_path / f"{name}.parquet").mkdir()
    (tmp_path / "cut.npy").touch()
    ragged = pa.table({"id": range(ROWS), "output": [[1.0], *[[1.0, 2.0]] * (ROWS - 1)]})
    pq.write_table(ragged, tmp_path / "ragged.parquet" / "a.parquet")
    for name in ("empty", "ragged", "cut"):
        with pytest.raises(WrongOutputError):
            stage().check(tmp_path / name)


def test_files_in_memory_count_from_the_start_of_a_system_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_MEMORY_FOLDER", tmp_path)
    (tmp_path / "before").write_bytes(bytes(2**16))
    usage = measuring.Usage()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "new").write_bytes(bytes(2**20))
    os.sync()  # blocks are not given out before, on some file systems
    with usage:
        pss, own, _ = usage.stop()
    assert 2**20 <= own <= pss


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
    first = {"celeriac": Figures(cold=2, pss=3 * 10**6, first=9, first_pss=10**10, first_written=10**6)}
    assert "| 2.0; first ever 9.0 | 3 (0); first ever 10,000 | 0; first ever 1 |" in page.work_table(
        "mlp", first, [], ""
    )
    assert f"| `multiprocessing.Pool` |{' hangs; 4 of 5 good rows |' * 3}" in text
    with pytest.raises(ValueError, match="no marks <!-- gone: begin -->"):
        page.put(text, "gone", "")


def test_the_page_has_a_place_for_every_table() -> None:
    text = page.PAGE.read_text()
    for name in (*works.WORKS, "faults", "settings"):
        assert page.put(text, name, "") != text
