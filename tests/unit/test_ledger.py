"""The ledger must add up."""

import pytest

from producer.records.ledger import Ledger
from worker_config.errors import CeleriacError


def test_a_ledger_that_adds_up_passes() -> None:
    Ledger(rows=10, predicted=7, failed=2, skipped=1, written=7).check()


def test_an_empty_ledger_passes() -> None:
    Ledger().check()


@pytest.mark.parametrize("change", [{"predicted": 6}, {"failed": 3}, {"skipped": 0}, {"rows": 11}])
def test_a_lost_or_doubled_row_is_an_error(change: dict[str, int]) -> None:
    counts = {"rows": 10, "predicted": 7, "failed": 2, "skipped": 1, "written": 7} | change

    with pytest.raises(CeleriacError, match=r"does not add up.*accounted for"):
        Ledger(**counts).check()


@pytest.mark.parametrize("written", [0, 6, 8])
def test_an_output_with_other_rows_than_predicted_is_an_error(written: int) -> None:
    with pytest.raises(CeleriacError, match=f"7 rows predicted, but {written} written"):
        Ledger(rows=7, predicted=7, written=written).check()


def test_an_output_that_nobody_took_yet_is_not_held_against_the_ledger() -> None:
    Ledger(rows=7, predicted=7).check(handed_over=False)


def test_a_count_below_zero_is_an_error() -> None:
    with pytest.raises(CeleriacError, match="less than zero: failed"):
        Ledger(rows=1, predicted=2, failed=-1, written=2).check()


def test_rows_of_an_earlier_run_count_as_predicted_and_written() -> None:
    Ledger(rows=10, predicted=10, written=10, resumed=6).check()
    Ledger(rows=10, predicted=8, skipped=2, written=8, resumed=8).check()

    with pytest.raises(CeleriacError, match="10 rows accounted for, but 11 by an earlier run alone"):
        Ledger(rows=10, predicted=5, skipped=5, written=5, resumed=11).check()


def test_all_counts_are_given_by_name() -> None:
    assert Ledger(rows=3, duplicates=1).as_dict() == {
        "rows": 3,
        "predicted": 0,
        "failed": 0,
        "skipped": 0,
        "written": 0,
        "resumed": 0,
        "nonfinite_inputs": 0,
        "nonfinite_outputs": 0,
        "chunks_sent": 0,
        "chunks_answered": 0,
        "chunks_sent_again": 0,
        "duplicates": 1,
        "duplicates_differing": 0,
        "damaged": 0,
    }


def test_people_get_one_line() -> None:
    ledger = Ledger(
        rows=10,
        predicted=9,
        failed=1,
        written=9,
        resumed=4,
        chunks_sent=3,
        chunks_answered=3,
        chunks_sent_again=2,
        duplicates=1,
    )

    assert str(ledger) == (
        "10 rows: 9 predicted, 1 failed, 0 skipped, 9 written, 4 resumed, "
        "not finite in 0 inputs and 0 outputs; "
        "3/3 chunks answered, 2 sent again, 1 duplicates dropped, 0 of which differed, "
        "0 damaged on their way"
    )
