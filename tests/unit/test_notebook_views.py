"""What a notebook shows of jobs and of errors."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import msgspec
import pytest

from producer.records import job_view
from producer.records.job_store import JobState
from producer.records.ledger import Ledger
from tasks.protocol.records import JobRecord
from worker_config.errors import CeleriacError, UsageError

LEDGER = Ledger(rows=1797, predicted=1190, failed=10, chunks_sent=12, chunks_answered=5)
RECORD = JobRecord(
    id="3f2a90bc41d7",
    models=["digits@cb9aa511"],
    input="array <of> rows",
    store="files",
    rows=1797,
    submitted_at=1_700_000_000.0,
    updated_at=1_700_000_012.5,
    producer="7@box",
    ledger=LEDGER.as_dict(),
)


def test_a_line_says_which_job_it_is_and_how_far() -> None:
    line = job_view.line("Job", JobState.RUNNING, RECORD)
    assert line == "<Job 3f2a90bc41d7: digits@cb9aa511, running, 1,200 of 1,797 rows done, 10 of them failed>"
    unknown = msgspec.structs.replace(RECORD, rows=None, ledger=replace(LEDGER, failed=0).as_dict())
    assert job_view.line("Job", JobState.DONE, unknown).endswith("done, 1,190 of ? rows done>")


def test_the_table_has_state_ledger_and_error_and_nothing_of_it_is_markup() -> None:
    record = msgspec.structs.replace(RECORD, error="row 3 <script>")
    page = job_view.html(JobState.FAILED, record)
    assert "array &lt;of&gt; rows" in page
    assert "row 3 &lt;script&gt;" in page
    assert "rows 1,797, predicted 1,190, failed 10, chunks_sent 12, chunks_answered 5<" in page
    assert ">12.5<" in page
    assert "svg" not in page, "it has no time line where none is known"


@pytest.mark.parametrize("bins", [[0, 40, 80], [3] * 399])
def test_the_time_line_has_a_few_bars_whose_heights_are_rates(bins: list[int]) -> None:
    page = job_view.html(JobState.RUNNING, RECORD, 0.5, bins)
    assert page.count("<rect") == (3 if len(bins) == 3 else 100)
    assert ('height="20.0"' in page) == (len(bins) == 3), "half the rate has half the height"
    assert f"at most {max(bins) / 0.5:,.0f}, over {len(bins) * 0.5:.1f} s" in page


def test_an_error_of_the_user_is_its_text_and_the_line_that_it_is_about() -> None:
    code = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell(colors="NoColor")
shell.run_cell("from producer import Client\\n\\ndef ask():\\n    return Client('http://here')\\n\\nask()")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("ConfigError: broker_url"), done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stdout.splitlines()[1:] == ["  line 4: return Client('http://here')"]


def test_a_bug_keeps_its_traceback() -> None:
    def rendered(error: CeleriacError) -> str:
        with pytest.raises(CeleriacError) as raised:
            raise error
        return "\n".join(raised.value._render_traceback_())

    assert "Traceback (most recent call last)" in rendered(CeleriacError("the ledger does not add up"))
    assert rendered(UsageError("no")) == f"UsageError: no\n  line {rendered.__code__.co_firstlineno + 2}: raise error"
