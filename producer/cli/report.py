"""`celeriac report`: a job's traces in Redis --> one page of HTML, which then needs neither Redis nor a network."""

from __future__ import annotations

import os
from pathlib import Path

import click

from producer.broker.jobs import find
from producer.broker.shard_clients import open_shards
from producer.cli.options import required_broker_option
from producer.cli.viewing import viewing
from producer.report import gather, make_page
from tasks.outputs.temp_paths import check_parent, check_regular_file, one_line_errors
from worker_config.errors import OutputError
from worker_config.files import write_whole
from worker_config.foreign_errors import import_optional

ENDINGS = (".html", ".htm")


@click.command()
@click.argument("job")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The file to write: .html.")
@required_broker_option
@click.option("--force", is_flag=True, help="Replace an output that exists.")
def report(job: str, output: Path, broker_url: str, force: bool) -> None:
    """Draw how JOB went, or goes, as one page for any browser; its name or the beginning of its id will do.

    What each slot did when, rows per second, the share of each stage, the slowest chunks, what failed and what was sent
    again, the ledger, and where the job ran: models, versions, settings. The page holds all of it, and asks nobody.
    """
    path = Path(os.path.realpath(output))
    _check_output(path, force)
    script: str = import_optional("plotly.offline", "report", str(path)).get_plotlyjs()
    with viewing() as viewer, open_shards(broker_url) as shards:
        facts = gather(shards, find(shards, job), viewer)
    with one_line_errors(path):
        write_whole(path, make_page(facts, script).encode())
    running = "; it still runs, so this is how far it is" if facts.state.value == "running" else ""
    click.echo(f"report of job {facts.record.id} written to {path}{running}")


def _check_output(path: Path, force: bool) -> None:
    with one_line_errors(path):
        if path.suffix.lower() not in ENDINGS:
            kind = path.suffix or "(none)"
            raise OutputError(f"{path}: files of type {kind!r} cannot be written; use {' or '.join(ENDINGS)}")
        check_parent(path)
        if path.exists():
            check_regular_file(path)
            if not force:
                raise OutputError(f"{path}: exists; use --force to replace it")
