"""A PredictRequest --> a sink that is begun or continued, by whom the name lets --> all rows in one output."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from producer.cli.named_job import NamedJob
from producer.cli.predict_to_sink import ending, finish, predict_to_sink
from producer.cli.request import PredictRequest, kept_columns, open_input, open_system
from producer.cli.summary import Summary
from producer.job.job import Job
from producer.sinks import JournalHead, check_output, open_sink, output_path


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
    source, described = open_input(request)
    check_output(output, force or request.job is not None, resume=resume, in_parts=in_parts)
    kept = kept_columns(source, request.run, request.models, output)
    with open_system(request) as system:
        head = JournalHead(
            source=described,
            models=system.digests,
            sources=system.sources,
            keep=request.run.keep,
            on_error=request.on_error or "raise",
            chunk_rows=(request.run.chunk_rows or "default") if system.not_independent() else None,
        )

        def run(begun: Callable[[Job], None], resume: bool, force: bool) -> Summary:
            opened = open_sink(
                output,
                source.rows,
                force,
                journal=head,
                resume=resume,
                accept_changes=accept_changes,
                in_parts=in_parts,
            )
            with ending(opened) as sink:
                if sink.dropped_rows and not request.run.quiet:
                    click.echo(
                        f"celeriac: {sink.dropped_rows} rows that an earlier run left beside {sink.path} are dropped",
                        err=True,
                    )
                if sink.folder and request.run.part_mib:
                    sink.folder.part_bytes = request.run.part_mib * 2**20
                waits = sink.folder is not None and sink.folder.needs_workers
                if sink.done_rows and sink.done_rows == source.rows and not waits:
                    return finish(sink, head, request.run.max_failed)
                with system.start() as client:
                    return predict_to_sink(client, request.models, source, sink, head, request.run, kept, begun)

        if request.job is None:
            return run(lambda _: None, resume, force)
        named = NamedJob(
            name=request.job,
            broker_url=system.client.broker_url if system.client else None,
            output=output_path(output),
            head=head,
            force=force,
            accept_changes=accept_changes,
            quiet=request.run.quiet,
        )
        # An output that is there is one that is being replaced, or has been looked at.
        return named.run_once(partial(run, force=True))
