"""A PredictRequest --> an output with all rows, by whom a name lets; or with those that had failed in it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from producer.cli.named_job import NamedJob
from producer.cli.request import PredictRequest, open_data, open_system
from producer.cli.terminal import say
from producer.job.job import Job
from producer.outputs.only_failed import finished_output
from producer.outputs.output_run import OutputRun
from producer.outputs.sidecar_files import ledger_of_whole
from producer.outputs.summary import Summary
from producer.sinks import output_path
from worker_config.errors import OutputError


def predict_to_output(
    request: PredictRequest,
    output: Path,
    *,
    resume: bool,
    force: bool,
    accept_changes: bool = False,
    in_parts: bool = False,
) -> Summary:
    """Predict all rows into `output`, or with `resume` those that it lacks; the other options as of `open_sink`.

    A request with a name is done once (`NamedJob`), and continued as with `resume`, unless `force` says otherwise.
    Whatever can be refused is, before the embedded system is started, which takes seconds.

    Raises:
        PredictionFailedError: the job failed or was interrupted; nothing of it is left running.
        CeleriacError: it could not begin.
    """
    source, described = open_data(request)
    run = OutputRun(
        request.models,
        source,
        described,
        output,
        in_parts,
        request.on_error,
        request.run,
        resume,
        accept_changes,
        # With a name, an output that is there is one that is being replaced, or has been looked at.
        force=force or request.job is not None,
    )
    kept = run.check()
    done = None
    if request.job and not force:
        with suppress(OutputError):  # which is told once it is known whether another process writes it
            done = ledger_of_whole(output_path(output))
    with open_system(request, done) as system:
        head = run.head(system.held)
        if request.job is None:
            return run.write(head, kept, system.start)

        def run_named(begun: Callable[[Job], None], resume: bool) -> Summary:
            return replace(run, resume=resume).write(head, kept, system.start, begun)

        named = NamedJob(
            name=request.job,
            broker_url=system.client.broker_url if system.client else None,
            output=output_path(output),
            head=head,
            force=force,
            accept_changes=accept_changes,
            quiet=request.run.quiet,
        )
        summary = named.run_once(run_named)
        if system.done:
            say("celeriac: no worker holds the models: whether they have changed since is not known")
        return summary


def predict_failed_rows(request: PredictRequest, output: Path, *, accept_changes: bool = False) -> Summary:
    """Predict the rows of a finished `output` that failed, and put them at their place; raises as `OutputRun.mend`.

    With `accept_changes` also where their cause was mended in the data set, or in a model.
    """
    run = OutputRun(
        request.models, *open_data(request), output, False, request.on_error, request.run, accept_changes=accept_changes
    )
    with finished_output(output) as finished, open_system(request) as system:
        return run.mend(finished, system.held, system.start)
