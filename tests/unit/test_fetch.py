"""What `celeriac fetch` says when it does not end well: by a detached job whose answers are all there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from unittest.mock import Mock

import numpy as np
import pytest

from producer.detached.detached_job import DetachedJob
from producer.outputs.fetch_to_output import NotWaitedForError, fetch_to_sink
from producer.outputs.sidecar_files import ledger_path, read_beside
from producer.outputs.summary import PredictionFailedError
from producer.records.job_store import new_record
from producer.records.ledger import Ledger
from producer.rows.part import Part
from producer.sinks import open_sink
from tasks.protocol.messages import ModelRef
from tasks.protocol.records import JobRecord
from worker_config.errors import ExitCode, OutputError

ROWS = 4


def done_record() -> JobRecord:
    record = new_record("3f2a90bc41d7", [ModelRef("digits", "9f3c")], "rows.npy", "redis", ROWS)
    record.ledger.update(Ledger(rows=ROWS, predicted=ROWS).as_dict())
    return record


@dataclass
class DoneJob:
    """A job that is done, of which so many chunks of two rows are read before the end."""

    end: BaseException | None = None
    chunks: int = 2
    output_name: str = ""
    id: str = "3f2a90bc41d7"
    record: JobRecord = field(default_factory=done_record)

    def parts(self) -> Iterator[Part]:
        for index in range(self.chunks):
            yield Part(index, 2 * index, 2 * index + 2, np.arange(2 * index, 2 * index + 2))
        if self.end is not None:
            raise self.end


def fails(job: DoneJob, path: Path) -> PredictionFailedError:
    with pytest.raises(PredictionFailedError) as caught, open_sink(path, ROWS, False) as sink:
        fetch_to_sink(cast("DetachedJob", job), sink, quiet=True)
    assert caught.value.summary.error == str(caught.value.error)
    return caught.value


def test_an_interrupt_before_the_end_leaves_nothing(tmp_path: Path) -> None:
    failed = fails(DoneJob(KeyboardInterrupt(), chunks=1), tmp_path / "out.npy")

    assert isinstance(failed.error, NotWaitedForError)
    assert str(failed.error) == (
        "interrupted: 2 of 4 rows were fetched, nothing was written; job 3f2a90bc41d7 stays in the system: "
        "fetch it again"
    )
    assert (failed.summary.output, failed.summary.ledger["written"]) == (None, 0)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_after_the_output_has_its_name_does_not_deny_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.npy"
    monkeypatch.setattr("producer.sinks.sink.sync_folder", Mock(side_effect=KeyboardInterrupt))
    failed = fails(DoneJob(), path)

    assert str(failed.error) == f"interrupted: 4 of 4 rows were fetched; {path} is complete"
    assert failed.error.exit_code == ExitCode.CANCELLED
    assert (failed.summary.output, failed.summary.ledger["written"]) == (str(path), ROWS)
    assert read_beside(path)[0].job == "3f2a90bc41d7"
    np.testing.assert_array_equal(np.load(path), np.arange(ROWS))


def test_what_cannot_be_told_beside_an_output_does_not_deny_it(tmp_path: Path) -> None:
    path = tmp_path / "out.npy"
    ledger_path(path).mkdir()
    failed = fails(DoneJob(), path)

    assert isinstance(failed.error, OutputError)
    assert str(failed.error).endswith(f"; {path} is complete")
    assert {one.name for one in tmp_path.iterdir()} == {"out.npy", "out.npy.ledger.json"}
    np.testing.assert_array_equal(np.load(path), np.arange(ROWS))
