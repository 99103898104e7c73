"""How `predict` and `fetch` say how they went: Summary --> a line, JSON, and the error that gives the exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from producer.outputs.summary import PredictionFailedError, Summary
from producer.records.failures import failed_alone
from producer.records.ledger import Ledger, nonfinite_text
from tasks.outputs.failed_mask import MASK_NAME, mask_path
from tasks.protocol.messages import OnNonfinite
from worker_config.errors import CeleriacError, RowsFailedError
from worker_config.files import escaped


def report(summary: Summary, line: str, *, quiet: bool, as_json: bool, on_nonfinite: OnNonfinite) -> None:
    """Say how a run went whose output is complete, and what is to be known of that.

    Raises:
        ModelFailedAloneError: a model failed alone: the output is without it.
    """
    if not quiet:
        click.echo(escaped(line))
    if as_json:
        click.echo(summary.as_json())
    if summary.fill and summary.fill.mark not in (MASK_NAME, escaped(mask_path(Path(str(summary.output))).name)):
        name = f"an output or a model is named {MASK_NAME!r}"
        click.echo(f"celeriac: {name}: rows that failed are marked as {summary.fill.mark!r}", err=True)
    if on_nonfinite != "allow" and (counts := nonfinite_text(summary.ledger)):
        click.echo(f"celeriac: {counts}; `predict --on-nonfinite fail` has them fail, `allow` says nothing", err=True)
    if summary.failed_models:
        raise ModelFailedAloneError(
            f"{failed_alone(summary.failed_models)} of {summary.output}, which is complete with the others"
        )


class ModelFailedAloneError(RowsFailedError):
    """What was done is complete with the other models, and was told before."""


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
