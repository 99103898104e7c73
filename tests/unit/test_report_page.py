"""The report's page: whatever a job says of itself is text on it, and no script but its own runs."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html import unescape
from typing import Any

import msgspec
import pytest

from producer.records.job_store import JobState, new_record
from producer.records.timeline import Entry, Event, TimelineSummary
from producer.report import JobFacts, make_page
from producer.report.figures import throughput
from tasks.protocol.messages import FailureRecord, ModelRef
from tasks.protocol.records import JobRecord, ModelInfo, WorkerFacts

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\"'"
LIBRARY = "window.Plotly = {newPlot() { return 1 < 2; }};"


def record(**changes: Any) -> JobRecord:
    made = new_record("0123456789ab", [ModelRef("digits", "ab" * 32)], "rows.npy", "slices", 12)
    ledger = {"rows": 12, "predicted": 12, "failed": 0, "skipped": 0, "written": 12, "resumed": 0}
    made = msgspec.structs.replace(made, submitted_at=1_000.0, updated_at=1_002.0, ledger=ledger)
    return msgspec.structs.replace(made, **({"stages": {"wait": 1.0, "infer": 3.0}} | changes))


def entry(index: int, slot: str = "celery@host:abcd/0") -> Entry:
    stages = {"wait": 0.1, "infer": 0.3}
    begun = 1_000.2 + 0.4 * index
    return Entry(index, index * 4, index * 4 + 4, slot, 1_000.0, begun, begun + 0.35, 1, "joined", stages)


def summary(entries: list[Entry], **changes: Any) -> TimelineSummary:
    plain = TimelineSummary(1_000.0, answers=len(entries), bin_seconds=0.5, bins=[4, 8, 0, 0], slowest=entries)
    slots: dict[str, Any] = {"slots": {"celery@host:abcd": 1}, "workers": {"celery@host:abcd": None}}
    return msgspec.structs.replace(plain, **(slots | changes))


ENTRIES = [entry(index) for index in range(3)]
DONE = JobFacts(JobState.DONE, record(), [], summary(ENTRIES), ENTRIES)


def figures_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page)
    assert found
    figures: dict[str, Any] = json.loads(found[1])
    return figures


def test_the_page_says_it_in_one_line_first() -> None:
    page = make_page(DONE, LIBRARY)
    assert (
        "12 rows in 2.00 s (6 rows per second), all predicted; 1 slot busy 75 % of the time, most of it infer." in page
    )
    assert "It adds up: 12 rows = 12 predicted + 0 failed + 0 skipped." in page
    titles = re.findall("<h2>(.*?)</h2>", page)
    assert titles == ["Ledger", "Timeline", "Throughput", "Stages", "Slowest chunks", "Failures", "Provenance"]
    assert list(figures_of(page)) == ["lanes", "rate", "flight", "stages"]


def test_whatever_a_job_says_is_text() -> None:
    slot = f"{EVIL}@host:1/0"
    entries = [entry(0, slot)]
    model = ModelInfo(EVIL, EVIL, 8, [], [], 0.0, 0, preprocess=EVIL, note=EVIL)
    facts = WorkerFacts({EVIL: EVIL}, 1, 1, 1, [EVIL], EVIL)
    failed = FailureRecord(3, 4, EVIL, EVIL, EVIL, EVIL, EVIL)
    evil = JobFacts(
        JobState.FAILED,
        record(models=[EVIL], input=EVIL, error=EVIL, producer=EVIL, stages={EVIL: 1.0}, failed_models={EVIL: failed}),
        [failed],
        summary(
            entries,
            events=[Event(1_000.5, "came back", EVIL, slot, 0)],
            settings={EVIL: EVIL},
            models=[model],
            versions={EVIL: EVIL},
            workers={EVIL: facts},
        ),
        entries,
        EVIL,
    )
    page = make_page(evil, LIBRARY)
    assert EVIL not in page
    assert "<img" not in page
    assert page.count("</script>") == 3, "the figures, plotly, and the page's own"
    assert page.count(EVIL.replace("&", "&amp;").replace("<", "&lt;").split(">")[0]) > 10
    figures = figures_of(page)
    texts = [text for trace in figures["lanes"]["data"] for text in (*trace["y"], *trace["hovertext"])]
    assert not [text for text in texts if "<script" in text or "<img" in text]
    assert any(EVIL.partition("/")[0] in unescape(text) for text in texts)


def test_no_script_runs_but_the_two_that_the_page_names_and_nothing_is_loaded() -> None:
    page = make_page(DONE, LIBRARY)
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', page)
    assert policy
    assert policy[1].startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-inline'; img" in policy[1].replace("style-src '", "")
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert scripts[0] == LIBRARY
    assert re.findall(r"'sha256-(.*?)'", policy[1]) == digests
    assert not re.findall(r"""(?:src|href)=|url\(|@import|https?://""", page)


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        (replace(DONE, state=JobState.RUNNING), "still running: 12 of 12 rows predicted in 2.00 s"),
        (JobFacts(JobState.DONE, record(stages={}), note="No timeline"), "There is nothing to be drawn."),
        (JobFacts(JobState.DONE, record(stages={})), "12 rows in 2.00 s (6 rows per second), all predicted."),
        (JobFacts(JobState.RUNNING, record(rows=None, ledger={}, stages={})), "0 of ? rows predicted"),
        (JobFacts(JobState.CANCELLED, record(updated_at=1_000.0)), "the job was cancelled"),
        (replace(DONE, record=record(error="row 3 failed"), state=JobState.FAILED), "row 3 failed"),
        (replace(DONE, summary=summary(ENTRIES, every=4)), "Of 4 chunks one is shown (3 in all)"),
        (replace(DONE, summary=summary([], bins=[]), entries=[]), "No chunk has been joined."),
        (replace(DONE, record=record(ledger={"rows": 5, "predicted": 3})), "It does not add up"),
    ],
)
def test_every_job_has_a_page(facts: JobFacts, text: str) -> None:
    page = make_page(facts, LIBRARY)
    assert text in page
    assert page.endswith("</html>\n")


def test_rates_are_of_the_time_that_there_was() -> None:
    (trace,) = throughput(summary(ENTRIES, bins=[4, 8], bin_seconds=1.0), 1.5)["data"]
    assert trace["x"] == [0.0, 1.0, 1.5]
    assert trace["y"] == [4.0, 16.0, 16.0]
