"""`celeriac fetch`: the predictions of a job that was left with the broker, into a file."""

from __future__ import annotations

import click

from producer.cli.options import json_option, required_broker_option, timeout_option
from producer.cli.reporting import ReportingCommand, report
from producer.client import Client
from producer.outputs.fetch_to_output import fetch_to_output
from producer.sinks import FORMATS, output_path
from tasks.outputs.formats import IN_PARTS


@click.command(cls=ReportingCommand)
@click.argument("job")
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    required=True,
    help=f"The file to write: {', '.join(FORMATS)}; or, with a / at its end, a folder of files: "
    f"{', '.join(f'{suffix}/' for suffix in IN_PARTS)}.",
)
@required_broker_option
@timeout_option
@click.option("--force", is_flag=True, help="Replace an output that exists.")
@click.option("--quiet", is_flag=True, help="No progress bar and no summary.")
@json_option
def fetch(
    job: str,
    output: str,
    broker_url: str,
    worker_timeout_seconds: float,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write the output of JOB, which was left by `predict --detach`; waits until it is done.

    The first characters of its id are enough. A job can be fetched again until it expires.
    """
    with Client(broker_url, worker_timeout_seconds=worker_timeout_seconds) as client:
        left = client.attach(job)
        plan = left.record.plan
        summary = fetch_to_output(left, output_path(output), force, quiet, in_parts=output.endswith("/"))
    line = (
        f"{summary.ledger['predicted']:,} rows of job {summary.job}, predicted in {summary.seconds:.2f} s, "
        f"written to {summary.output}"
    )
    report(summary, line, quiet=quiet, as_json=as_json, on_nonfinite=plan.on_nonfinite if plan else "warn")
