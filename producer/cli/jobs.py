"""`celeriac jobs`, `status`, `failures`, `cancel`, `priority`: Redis --job_store--> records --tables--> lines, JSON."""

from __future__ import annotations

import json
from contextlib import suppress

import click
import msgspec

from producer.broker import jobs as job_reads
from producer.broker.shard_clients import ShardClients, open_shards
from producer.cli import tables
from producer.cli.options import json_option, required_broker_option
from producer.cli.viewing import viewing
from producer.records import job_store
from producer.records.store_waits import of_job, waits_in
from producer.scheduling.model_pinning import refs
from producer.scheduling.preparing_workers import in_words, will_hold
from producer.scheduling.priority import priority_name, weight_of
from tasks.protocol.records import JobRecord
from worker_config.errors import MessageError, SealError, UnknownJobError

# What fits a screen.
MOST_LINES = 20


@click.command()
@required_broker_option
@click.option(
    "--limit", type=click.IntRange(0), help=f"How many; 0 for all.  [default: {MOST_LINES}, or with --json all]"
)
@click.option("--state", type=click.Choice([state.value for state in job_store.JobState]), help="Those in this state.")
@click.option("--model", help="Those of this model.")
@json_option
def jobs(broker_url: str, limit: int | None, state: str | None, model: str | None, as_json: bool) -> None:
    """List the jobs that Redis remembers, the newest first.

    Small predictions in memory, which are requests and no jobs, are not among them.

    SHARE is what a running job may have of its workers' slots, AHEAD how many chunks wait there before its next one.
    """
    with viewing() as viewer, open_shards(broker_url) as shards:
        found, wrong = job_reads.read_all(shards, viewer)
        asked = [job for job in reversed(found) if _is_asked_for(*job, state, model)]
        most = (0 if as_json else MOST_LINES) if limit is None else limit
        found = asked[: most or None]
        turns = job_reads.turns(shards, [record.id for now, record in found if now is job_store.JobState.RUNNING])
    _tell_away(shards)
    if as_json:
        values = [tables.job_values(*job, **tables.turn_values(turns.get(job[1].id))) for job in found]
        click.echo(json.dumps({"jobs": values}))
    else:
        click.echo(tables.jobs_table(found, turns))
        if more := len(asked) - len(found):
            click.echo(f"celeriac: {more} older than these; --limit 0 lists all", err=True)
    for error in wrong[1:]:
        click.echo(f"celeriac: {error}", err=True)
    if wrong:
        raise wrong[0]


def _is_asked_for(now: job_store.JobState, record: JobRecord, state: str | None, model: str | None) -> bool:
    names = [one.partition("@")[0] for one in record.models]
    return state in (None, now.value) and (model is None or model in names)


@click.command()
@click.argument("job")
@required_broker_option
@json_option
def status(job: str, broker_url: str, as_json: bool) -> None:
    """Show one job; its name or the beginning of its id will do."""
    with viewing() as viewer, open_shards(broker_url) as shards:
        parts = job_reads.read_parts(shards, job_reads.find(shards, job), viewer)
        state, record = parts.whole()
        expires_at = job_reads.expires_at(shards, parts)
        workers, preparing, facts = job_reads.workers(shards)
    # A detached job's record is nobody's to write meanwhile.
    waits = of_job(waits_in(facts), record.id) if state is job_store.JobState.RUNNING else ""
    record = msgspec.structs.replace(record, waits=waits)
    held = [set(map(str, refs(slot.models))) for slots in workers.values() for slot in slots]
    slots = sum(set(record.models) <= models for models in held)
    wanted = {name: digest for name, _, digest in (model.partition("@") for model in record.models)}
    found = None if slots else will_hold(wanted, preparing)
    coming = in_words(*found) if found else ""
    if as_json:
        click.echo(json.dumps(tables.job_values(state, record, slots=slots, preparing=coming, expires_at=expires_at)))
    else:
        click.echo(tables.job_lines(state, record, slots, expires_at, coming))


@click.command()
@click.argument("job")
@required_broker_option
@json_option
def failures(job: str, broker_url: str, as_json: bool) -> None:
    """List the rows of JOB that have no prediction, and why; its name or the beginning of its id will do."""
    with viewing() as viewer, open_shards(broker_url) as shards:
        parts = job_reads.read_parts(shards, job_reads.find(shards, job), viewer)
        state, record = parts.whole()
        records = job_reads.read_failures(shards, parts, viewer)
    _tell_away(shards)
    click.echo(
        json.dumps(tables.failures_values(state, record, records))
        if as_json
        else tables.failures_table(record, records)
    )


@click.command()
@click.argument("job")
@required_broker_option
def cancel(job: str, broker_url: str) -> None:
    """End a running job; its queued chunks are never run. Of a detached one, also a done one, nothing is kept.

    Parts of an output that workers have written go too, where this machine reaches them; an output that is complete
    stays.
    """
    with viewing() as viewer, open_shards(broker_url) as shards:
        record = None
        with suppress(SealError, MessageError, UnknownJobError):  # which `cancel` does not need, or will tell
            _, record = job_reads.read(shards, job, viewer)
        ended = job_reads.cancel(shards, job)
    running = ended.state is job_store.JobState.RUNNING
    left = ""
    if record and record.plan and record.plan.output:
        from producer.detached.left_output import discard_left  # writers of formats, for the few jobs that have one

        left = discard_left(record.plan)
    if ended.detached and (running or ended.state is job_store.JobState.DONE):
        click.echo(f"job {ended.id} is cancelled; its rows and outputs are gone{left and '; ' + left}")
    else:
        so = "is being cancelled" if running else f"{tables.in_state(ended.state)} already"
        click.echo(f"job {ended.id} {so}")
    job_reads.check_reached(shards, f"job {ended.id} is cancelled")


@click.command()
@click.argument("job")
@click.argument("priority", metavar="CLASS")
@required_broker_option
def priority(job: str, priority: str, broker_url: str) -> None:
    """Change the share that a running JOB has of workers, beside other jobs.

    CLASS is interactive (16), normal (4), bulk (1), or a number: jobs on the same workers share them by these weights.
    Whatever the others are, the jobs of a class together have at least a tenth. JOB's name, or the first characters of
    its id, are enough.
    """
    weight = weight_of(priority)
    with open_shards(broker_url) as shards:
        job_id = job_reads.set_weight(shards, job, weight)
    click.echo(f"job {job_id} is {priority_name(weight)} now")
    job_reads.check_reached(shards, f"job {job_id} has its new priority")


def _tell_away(shards: ShardClients) -> None:
    for error in shards.away.values():
        click.echo(f"celeriac: {error}", err=True)
