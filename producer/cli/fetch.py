"""`celeriac fetch`: the predictions of a job that was left with the broker, into a file; or the files that it writes.

outputs, by way of Redis --> a sink --> OUTPUT                a fetch that was killed begins anew
parts that workers have written --> a sink --merged--> OUTPUT/    one that was killed is continued, by its journal
"""

from __future__ import annotations

import click

from producer.cli.options import json_option, required_broker_option, timeout_option
from producer.cli.reporting import ReportingCommand, report
from producer.client import Client
from producer.outputs.fetch_to_output import complete_output, fetch_to_output
from producer.sinks import FORMATS, output_path
from tasks.outputs.formats import IN_PARTS
from worker_config.errors import UnknownJobError, UsageError


@click.command(cls=ReportingCommand)
@click.argument("job")
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    help=f"The file to write: {', '.join(FORMATS)}; or, with a / at its end, a folder of files: "
    f"{', '.join(f'{suffix}/' for suffix in IN_PARTS)}. Not for a job that has an output.",
)
@required_broker_option
@timeout_option
@click.option("--force", is_flag=True, help="Replace an output that exists.")
@click.option("--quiet", is_flag=True, help="No progress bar and no summary.")
@json_option
def fetch(
    job: str,
    output: str | None,
    broker_url: str,
    worker_timeout_seconds: float,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write the output of JOB, which was left by `predict --detach`; waits until it is done.

    Its name or the beginning of its id will do. A job can be fetched again until it expires.

    Of a job whose workers write its output, the files are put in place, on a machine that reaches them: by one fetch at
    a time, and one that was killed is continued by the next.
    """
    with Client(broker_url, worker_timeout_seconds=worker_timeout_seconds) as client:
        try:
            left = client.attach(job)
        except UnknownJobError as error:
            lost = "if it is lost, parts that its workers have written go on by `celeriac predict` with --resume"
            raise UnknownJobError(f"{error}; {lost}") from None
        plan, own = left.record.plan, left.output
        if own is None:
            if output is None:
                raise click.UsageError("Missing option '-o' / '--output'.")
            summary = fetch_to_output(left, output_path(output), force, quiet, in_parts=output.endswith("/"))
        elif output is None or str(output_path(output)) == own.path:
            summary = complete_output(left, own, quiet)
        else:
            raise UsageError(f"job {left.id} writes its output to {own.path}/; leave -o out")
    line = (
        summary.as_line()
        if summary.done_before
        else (
            f"{summary.ledger['predicted']:,} rows of job {summary.job}, predicted in {summary.seconds:.2f} s, "
            f"written to {summary.output}"
        )
    )
    report(summary, line, quiet=quiet, as_json=as_json, on_nonfinite=plan.on_nonfinite if plan else "warn")
