"""What a run that does not end well says, and leaves: by jobs that end as a test wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import numpy as np
import pytest

from producer.client import Client
from producer.outputs.output_run import OutputRun
from producer.outputs.predict_to_sink import ending, finish, predict_to_sink
from producer.outputs.run_options import RunOptions
from producer.outputs.sidecar_files import ledger_path, read_beside
from producer.outputs.summary import PredictionFailedError, Summary
from producer.records.ledger import Ledger
from producer.rows.part import Part
from producer.scheduling.error_budget import ErrorBudget
from producer.scheduling.job_options import JobOptions
from producer.sinks import JournalHead, Sink, open_sink
from producer.sources import from_arrays
from tasks.protocol.messages import Differed
from tests.failed_rows import record
from worker_config.errors import ExitCode, JobCancelledError, ModelError, NoWorkerError, OutputError, RowsFailedError

ROWS = 10
HEAD = JournalHead({"path": "rows.npy"}, {"digits": "9f3c"})


@dataclass
class EndingJob:
    """A job, and the client that begins it, of which so many chunks of two rows come before the end."""

    end: BaseException | None
    chunks: int = 5
    digests: dict[str, str] = field(default_factory=lambda: {"digits": "9f3c"})
    id: str = "3f2a90bc41d7"
    stages: dict[str, float] = field(default_factory=dict)
    dependent: dict[str, str] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=lambda: Ledger(rows=ROWS))
    cancelled: bool = False
    wishes: dict[str, object] = field(default_factory=dict)
    differed: dict[str, Differed] = field(default_factory=dict)
    output_name: str = ""
    on_again: Callable[[], None] | None = None

    def allow_again(self, on_again: Callable[[], None], first_row: int) -> None:
        assert first_row == 0, "rows of an earlier run, too"
        self.on_again = on_again

    def _begin_job(self, _models: object, _source: object, options: JobOptions) -> EndingJob:
        self.wishes = {"policy": options.policy, "failed_before": options.failed_before}
        failed = options.failed_before
        good = options.first_row - failed
        self.ledger = Ledger(rows=ROWS, predicted=good, failed=failed, written=good, resumed=good)
        return self

    def parts(self) -> Iterator[Part]:
        for index in range(self.chunks):
            start = self.ledger.predicted + self.ledger.failed
            self.ledger.predicted += 2
            self.ledger.written += 2
            yield Part(index, start, start + 2, np.arange(start, start + 2))
        if self.end is not None:
            raise type(self.end)(*self.end.args)  # the same value serves several tests

    def cancel(self) -> None:
        self.cancelled = True

    def wait(self, timeout_seconds: float) -> bool:
        return timeout_seconds > 0


def journalled(path: Path, resume: bool = False) -> Sink:
    return open_sink(path, ROWS, False, journal=HEAD, resume=resume)


def predict(job: EndingJob, sink: Sink) -> Summary:
    source = from_arrays(np.zeros(ROWS))
    return predict_to_sink(cast("Client", job), ["digits"], source, sink, HEAD, RunOptions(quiet=True))


def fails(job: EndingJob, sink: Sink) -> PredictionFailedError:
    with pytest.raises(PredictionFailedError) as caught:
        predict(job, sink)
    failed = caught.value
    assert job.cancelled
    assert failed.summary.error == str(failed.error)
    assert failed.summary.output is None
    return failed


@pytest.mark.parametrize(
    ("end", "words", "code"),
    [
        (RowsFailedError("rows 6-8 failed"), "rows 6-8 failed; ", ExitCode.ROWS_FAILED),
        (NoWorkerError("no worker"), "no worker; ", ExitCode.NO_WORKER),
        (JobCancelledError("job 3f was cancelled"), "job 3f was cancelled; ", ExitCode.CANCELLED),
        (
            KeyboardInterrupt(),
            "interrupted: job 3f2a90bc41d7 was cancelled; 6 of 10 rows were predicted; ",
            ExitCode.CANCELLED,
        ),
    ],
)
def test_an_end_in_the_middle_says_what_is_safe_and_leaves_nothing_else(
    tmp_path: Path, end: BaseException, words: str, code: ExitCode
) -> None:
    failed = fails(EndingJob(end, chunks=3), journalled(tmp_path / "out.npy"))

    assert str(failed.error) == f"{words}6 rows are safe beside {tmp_path}/out.npy; continue with --resume"
    assert failed.error.exit_code == code
    assert {path.name for path in tmp_path.iterdir()} == {".out.npy.journal", ".out.npy.part"}
    summary = predict(EndingJob(None, chunks=2), journalled(tmp_path / "out.npy", resume=True))
    assert (summary.ledger["predicted"], summary.ledger["resumed"]) == (10, 6)
    assert summary.rows_per_second == pytest.approx(4 / summary.seconds)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), np.arange(10))
    assert {path.name for path in tmp_path.iterdir()} == {"out.npy", "out.npy.ledger.json"}


@pytest.mark.parametrize("journal", [True, False])
@pytest.mark.parametrize(
    ("end", "words"),
    [
        (KeyboardInterrupt(), "0 of 10 rows were predicted; nothing was left behind"),
        (JobCancelledError("job 3f was cancelled"), "job 3f was cancelled; nothing was left behind"),
        (RowsFailedError("rows 0-2 failed"), "rows 0-2 failed"),
    ],
)
def test_an_end_before_any_row_is_safe_leaves_nothing(
    tmp_path: Path, end: BaseException, words: str, journal: bool
) -> None:
    sink = journalled(tmp_path / "out.npy") if journal else open_sink(tmp_path / "out.npy", ROWS, False)

    assert str(fails(EndingJob(end, chunks=0), sink).error).endswith(words)
    assert list(tmp_path.iterdir()) == []


def test_models_that_are_not_those_of_the_journal_predict_no_row(tmp_path: Path) -> None:
    job = EndingJob(None, digests={"digits": "0000"})

    failed = fails(job, journalled(tmp_path / "out.npy"))

    assert isinstance(failed.error, ModelError)
    assert "model digits has changed since this command began; run it again" in str(failed.error)
    assert job.ledger.predicted == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("end", "words"), [(KeyboardInterrupt(), "interrupted"), (NoWorkerError("no worker came up"), "no worker came up")]
)
def test_an_end_before_the_job_says_what_an_earlier_run_has_left(tmp_path: Path, end: Any, words: str) -> None:
    fails(EndingJob(KeyboardInterrupt(), chunks=2), journalled(tmp_path / "out.npy"))

    with pytest.raises((JobCancelledError, NoWorkerError)) as caught, ending(journalled(tmp_path / "out.npy", True)):
        raise end

    assert str(caught.value) == f"{words}; 4 rows are safe beside {tmp_path}/out.npy; continue with --resume"
    with (
        pytest.raises(JobCancelledError, match="interrupted; nothing was left behind"),
        ending(journalled(tmp_path / "other.npy")),
    ):
        raise KeyboardInterrupt


def test_an_interrupt_after_the_end_of_the_work_does_not_deny_the_output(tmp_path: Path) -> None:
    sink = journalled(tmp_path / "out.npy")
    predict(EndingJob(None), sink)

    with pytest.raises(JobCancelledError) as caught, ending(sink):
        raise KeyboardInterrupt

    assert str(caught.value) == f"interrupted; {tmp_path}/out.npy is complete"
    assert {path.name for path in tmp_path.iterdir()} == {"out.npy", "out.npy.ledger.json"}


def test_an_interrupt_between_the_name_and_the_tidying_up_leaves_the_output_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.sinks.sink.sync_folder", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(PredictionFailedError) as failed:
        predict(EndingJob(None), journalled(tmp_path / "out.npy"))

    assert str(failed.value.error).endswith(f"10 of 10 rows were predicted; {tmp_path}/out.npy is complete")
    assert failed.value.summary.output == f"{tmp_path}/out.npy"
    assert {path.name for path in tmp_path.iterdir()} == {"out.npy", "out.npy.ledger.json"}


def test_an_output_that_lacks_only_its_name_gets_it(tmp_path: Path) -> None:
    fails(EndingJob(KeyboardInterrupt()), journalled(tmp_path / "out.npy"))

    summary = finish(journalled(tmp_path / "out.npy", resume=True), HEAD)

    assert (summary.job, summary.ledger["resumed"], summary.rows_per_second) == (None, 10, 0)
    assert {path.name for path in tmp_path.iterdir()} == {"out.npy", "out.npy.ledger.json"}


def test_a_run_that_goes_on_says_how_many_rows_had_failed_before(tmp_path: Path) -> None:
    head = JournalHead({"path": "rows.npy"}, {"digits": "9f3c"}, "skip")
    path = tmp_path / "out.npy"
    with open_sink(path, ROWS, False, journal=head) as sink:
        sink.write(Part(0, 0, 4, np.array([0, 3]), (record(1), record(2)), 2))
    job = EndingJob(None, chunks=3)
    sink = open_sink(path, ROWS, False, journal=head, resume=True)
    source = from_arrays(np.zeros(ROWS))

    summary = predict_to_sink(
        cast("Client", job), ["digits"], source, sink, head, RunOptions(max_failed="50%", quiet=True)
    )

    assert job.wishes == {"policy": ErrorBudget("skip", most_share=0.5), "failed_before": 2}
    assert summary.failures == 2
    np.testing.assert_array_equal(np.load(path), [0, 3, 4, 5, 6, 7, 8, 9])
    told, records = read_beside(path)
    assert records == [record(1), record(2)]
    assert (told.on_error, told.failures) == ("skip", 2)


def test_more_failed_rows_than_may_be_keep_an_output_without_its_name(tmp_path: Path) -> None:
    head = JournalHead({"path": "rows.npy"}, {"digits": "9f3c"}, "fill")
    path = tmp_path / "out.npy"

    def opened() -> Sink:
        return open_sink(path, ROWS, False, journal=head, resume=True)

    with opened() as sink:
        sink.write(Part(0, 0, ROWS, np.arange(ROWS), (record(1, 3),)))
    said = "2 of 10 rows failed, at most 10% may; 10 rows are safe beside"
    with pytest.raises(RowsFailedError, match=said), ending(opened()) as sink:
        finish(sink, head, "10%")
    assert not path.exists()

    summary = finish(opened(), head, 2)

    assert summary.ledger == Ledger(rows=10, predicted=8, failed=2, written=8, resumed=8).as_dict()
    assert (summary.failures, read_beside(path)[1]) == (1, [record(1, 3)])


def test_an_interrupt_after_the_output_has_its_name_still_tells_what_became_of_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.npy"
    monkeypatch.setattr("producer.sinks.sink.sync_folder", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(PredictionFailedError):
        predict(EndingJob(None), open_sink(path, ROWS, False))
    assert read_beside(path)[0].job == "3f2a90bc41d7"


def test_what_cannot_be_told_beside_an_output_is_an_error_and_the_output_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "out.npy"
    ledger_path(path).mkdir()
    with pytest.raises(PredictionFailedError, match=r"ledger.json: cannot be written: .*; .*out.npy is complete"):
        predict(EndingJob(None), open_sink(path, ROWS, False))
    np.testing.assert_array_equal(np.load(path), np.arange(ROWS))


# --- an executor that differed -------------------------------------------------------------------------------------


class AgainJob(EndingJob):
    """A job whose first two parts are void."""

    def parts(self) -> Iterator[Part]:
        first = self.ledger.predicted
        for start in (first, first + 2):
            self.ledger.predicted += 2
            yield Part(0, start, start + 2, -np.ones(2, np.int64))
        self.differed = {"digits": Differed("digits", "tflite", 7, "output y is 1 instead of 2")}
        assert self.on_again
        self.on_again()
        self.ledger = Ledger(rows=ROWS)
        yield from super().parts()


@pytest.mark.parametrize("resumed", [False, True])
def test_what_became_void_is_thrown_away_and_predicted_from_the_first_row(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, resumed: bool
) -> None:
    path = tmp_path / "out.npy"
    if resumed:
        fails(EndingJob(KeyboardInterrupt(), chunks=2), journalled(path))

    summary = predict(AgainJob(None), journalled(path, resume=resumed))

    np.testing.assert_array_equal(np.load(path), np.arange(ROWS))
    assert summary.ledger["resumed"] == 0
    assert read_beside(path)[0].differed == summary.differed
    assert summary.differed["digits"].row == 7
    assert caplog.messages == [
        "job 3f2a90bc41d7 begins again from the first row: model digits: tflite differed from the model's "
        "own graph on row 7: output y is 1 instead of 2; the own graph is used"
    ]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["out.npy", "out.npy.ledger.json"]


@pytest.mark.parametrize("in_parts", [False, True])
def test_a_format_of_one_array_has_no_place_for_several_models(tmp_path: Path, in_parts: bool) -> None:
    def run(models: list[str], name: str) -> OutputRun:
        return OutputRun(models, from_arrays(np.zeros(3)), {}, tmp_path / name, in_parts, None, RunOptions())

    assert run(["a"], "x.npy").models == ["a"]
    assert run(["a", "b"], "x.parquet").models == ["a", "b"]
    with pytest.raises(OutputError, match=r"x\.npy: one \.npy file holds one array, but there are 2 models: a, b; use"):
        run(["a", "b"], "x.npy")
