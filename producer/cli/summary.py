"""How a run of `predict` or `fetch` went: ledger --> a line, JSON, and the two files beside the output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import msgspec

from producer.cli.sidecar_files import OutputLedger, failures_path, write_beside
from producer.records.failures import failed_alone
from producer.records.ledger import nonfinite_text
from producer.sinks import JournalHead
from producer.sinks.marks import Fill
from tasks.protocol.messages import Differed, FailureRecord
from worker_config.errors import CeleriacError, RowsFailedError


@dataclass(frozen=True)
class Summary:
    """How a job went; `seconds` is from submit, with the rows at hand, to the output under its final name.

    `job` is None where an earlier run had predicted all rows already; `failed_models` are not in the output; so many
    `failures` are records of rows that have no prediction; `fill` is how they are marked, where they are filled;
    `stages` are seconds of slots by what they did; `dependent` are models whose rows are not independent, each with
    what a prediction depends on besides its row; `differed` are models of which an executor gave other outputs than
    their own graphs, which have predicted all rows.
    """

    job: str | None
    ledger: dict[str, int]
    seconds: float
    output: str | None
    error: str | None = None
    failed_models: dict[str, FailureRecord] = field(default_factory=dict)
    failures: int = 0
    fill: Fill | None = None
    stages: dict[str, float] = field(default_factory=dict)
    dependent: dict[str, str] = field(default_factory=dict)
    differed: dict[str, Differed] = field(default_factory=dict)

    @property
    def rows_per_second(self) -> float:
        """Rows that this run predicted, per second of the whole way."""
        rows = self.ledger["predicted"] - self.ledger["resumed"]
        return rows / self.seconds if self.seconds else 0.0

    def as_json(self) -> str:
        """The summary as one line."""
        return msgspec.json.encode(self).decode()

    def as_line(self) -> str:
        """The summary of a run that went well, for people."""
        resumed, failed = self.ledger["resumed"], self.ledger["failed"]
        earlier = f", after {resumed:,} by an earlier run" if resumed else ""
        without = f", {failed:,} failed (see {failures_path(Path(str(self.output)))})" if failed else ""
        return (
            f"{self.ledger['predicted'] - resumed:,} rows predicted in {self.seconds:.2f} s "
            f"({self.rows_per_second:,.0f} rows per second){earlier}{without}, written to {self.output}"
        )

    def write_beside(self, head: JournalHead, failures: Sequence[FailureRecord]) -> None:
        """Write beside the output, which is complete, what became of its rows.

        Raises:
            OutputError: the disk refuses.
        """
        if self.output is None:
            return
        ledger = OutputLedger(
            job=self.job,
            source=dict(head.source),
            models=dict(head.models),
            on_error=head.on_error,
            ledger=self.ledger,
            seconds=self.seconds,
            failed_models=self.failed_models,
            failures=len(failures),
            fill=self.fill,
            dependent=self.dependent,
            differed=self.differed,
        )
        write_beside(Path(self.output), ledger, failures)

    def report_nonfinite(self) -> None:
        """One line on stderr, if rows that were predicted are not finite."""
        if counts := nonfinite_text(self.ledger):
            click.echo(
                f"celeriac: {counts}; `predict --on-nonfinite fail` has them fail, `allow` says nothing", err=True
            )

    def check_no_model_failed(self) -> None:
        """Raise RowsFailedError if a model failed alone: the output is complete, and without it."""
        if self.failed_models:
            raise RowsFailedError(
                f"{failed_alone(self.failed_models)} of {self.output}, which is complete with the others"
            )


class PredictionFailedError(CeleriacError):
    """A job that began and did not end well; carries the summary beside the error."""

    def __init__(self, error: CeleriacError, summary: Summary) -> None:
        super().__init__(str(error))
        self.error = error
        self.summary = summary
