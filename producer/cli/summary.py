"""How a run of `predict` or `fetch` went: ledger --> a line, JSON, and the two files beside the output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from producer.cli.sidecar_files import OutputLedger, RunRecord, failures_path, write_beside
from producer.records.failures import failed_alone
from producer.records.ledger import Ledger, nonfinite_text
from producer.sinks import JournalHead, output_path
from tasks.outputs.failed_mask import MASK_NAME, mask_path
from tasks.protocol.messages import FailureRecord, OnNonfinite
from worker_config.errors import CeleriacError, RowsFailedError
from worker_config.files import escaped


class Summary(RunRecord, frozen=True, kw_only=True):
    """How a run went: also where its output is, if it is complete, and the seconds of slots by what they did.

    `done_before` says that an earlier run of the same job had done all of it, and that the rest is of that one.
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
        return (
            f"{self.ledger['predicted'] - resumed:,} rows predicted in {self.seconds:.2f} s "
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

    def report(self, line: str, *, quiet: bool, as_json: bool, on_nonfinite: OnNonfinite) -> None:
        """Say how a run went whose output is complete, and what is to be known of that.

        Raises:
            ModelFailedAloneError: a model failed alone: the output is without it.
        """
        if not quiet:
            click.echo(escaped(line))
        if as_json:
            click.echo(self.as_json())
        if self.fill and self.fill.mark not in (MASK_NAME, escaped(mask_path(Path(str(self.output))).name)):
            name = f"an output or a model is named {MASK_NAME!r}"
            click.echo(f"celeriac: {name}: rows that failed are marked as {self.fill.mark!r}", err=True)
        if on_nonfinite != "allow" and (counts := nonfinite_text(self.ledger)):
            click.echo(
                f"celeriac: {counts}; `predict --on-nonfinite fail` has them fail, `allow` says nothing", err=True
            )
        if self.failed_models:
            raise ModelFailedAloneError(
                f"{failed_alone(self.failed_models)} of {self.output}, which is complete with the others"
            )


def _plain(text: str | None) -> str | None:
    """Names of files in it as text that can be written anywhere."""
    return None if text is None else escaped(text)


class ModelFailedAloneError(RowsFailedError):
    """What was done is complete with the other models, and was told before."""


class PredictionFailedError(CeleriacError):
    """A job that began and did not end well; carries the summary beside the error."""

    def __init__(self, error: CeleriacError, summary: Summary) -> None:
        super().__init__(str(error))
        self.error = error
        self.summary = summary


@contextmanager
def reporting_failure(as_json: bool) -> Iterator[None]:
    """A job in the block that does not end well ends with its own error, after its summary; so does what is no job."""
    try:
        yield
    except PredictionFailedError as failed:
        if as_json:
            click.echo(failed.summary.as_json())
        raise failed.error from None
    except ModelFailedAloneError:
        raise
    except (CeleriacError, click.ClickException, KeyboardInterrupt) as error:
        if as_json:
            text = error.format_message() if isinstance(error, click.ClickException) else str(error) or "interrupted"
            nothing = Summary(job=None, ledger=Ledger().as_dict(), seconds=0.0, output=None, error=text)
            click.echo(nothing.as_json())
        raise


class ReportingCommand(click.Command):
    """A command that with `--json` prints its object whatever it ends with, also if it could not begin."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's."""
        with reporting_failure("--json" in args):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """As click's."""
        with reporting_failure(ctx.params["as_json"]):
            return super().invoke(ctx)
