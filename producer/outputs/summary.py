"""How a run of `predict` or `fetch` went: ledger --> a line, JSON, and the two files beside the output."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from producer.outputs.sidecar_files import OutputLedger, RunRecord, failures_path, ledger_path, write_beside
from producer.sinks import JournalHead, output_path
from tasks.protocol.messages import FailureRecord
from worker_config.errors import CeleriacError
from worker_config.files import escaped


class Summary(RunRecord, frozen=True, kw_only=True):
    """How a run went: what its record says, and where its output is.

    Attributes:
        output: the path or URL, of an output that is complete.
        error: what the run has ended with, if not well.
        done_before: an earlier run of the same job had done all of it, and the rest is of that one.
        stages: the seconds of slots, by what they did.
    """

    output: str | None
    error: str | None
    done_before: bool = False
    stages: dict[str, float] = msgspec.field(default_factory=dict)

    @property
    def rows_per_second(self) -> float:
        """Rows that this run predicted, per second of the whole way."""
        rows = self.ledger["predicted"] - self.ledger["resumed"]
        return rows / self.seconds if self.seconds else 0.0

    @property
    def ledger_path(self) -> str | None:
        """The file beside the output that says the same, and of which data and models it is."""
        return None if self.output is None else str(ledger_path(output_path(self.output)))

    @property
    def failures_path(self) -> str | None:
        """The file beside the output with a record for each of `failures`; None where there are none."""
        return str(failures_path(output_path(self.output))) if self.output and self.failures else None

    def as_json(self) -> str:
        """The summary as one line."""
        plain = msgspec.structs.replace(self, output=_plain(self.output), error=_plain(self.error))
        return msgspec.json.encode(plain).decode()

    def as_line(self) -> str:
        """The summary of a run that went well, for people."""
        resumed, failed = self.ledger["resumed"], self.ledger["failed"]
        if self.done_before:
            return (
                f"nothing to do: {self.ledger['predicted']:,} rows were predicted before, and written to {self.output}"
            )
        earlier = f", after {resumed:,} by an earlier run" if resumed else ""
        without = f", {failed:,} failed (see {failures_path(output_path(str(self.output)))})" if failed else ""
        rows = self.ledger["predicted"] - resumed
        return (
            f"{rows:,} {'row' if rows == 1 else 'rows'} predicted in {self.seconds:.2f} s "
            f"({self.rows_per_second:,.0f} rows per second){earlier}{without}, written to {self.output}"
        )

    def write_beside(self, head: JournalHead, failures: Sequence[FailureRecord], path: Path | None = None) -> None:
        """Write beside the output, or another path, if it is complete, what became of its rows.

        Raises:
            OutputError: the disk refuses.
        """
        if self.output is None:
            return
        same = {name: getattr(self, name) for name in RunRecord.__struct_fields__}
        ledger = OutputLedger(
            **same,
            source=dict(head.source),
            models=dict(head.models),
            on_error=head.on_error,
            sources=dict(head.sources),
            keep=list(head.keep),
            chunk_rows=head.chunk_rows,
        )
        write_beside(path or output_path(self.output), ledger, failures)


def _plain(text: str | None) -> str | None:
    """Names of files in it as text that can be written anywhere."""
    return None if text is None else escaped(text)


class PredictionFailedError(CeleriacError):
    """A job that began and did not end well; carries the summary beside the error."""

    def __init__(self, error: CeleriacError, summary: Summary) -> None:
        super().__init__(str(error))
        self.error = error
        self.summary = summary
