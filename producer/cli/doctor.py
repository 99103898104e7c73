"""`celeriac doctor`: options, manifest --examine--> findings --> lines or JSON, and an exit code."""

from __future__ import annotations

import json
from pathlib import Path

import click
from click.core import ParameterSource

from producer.broker.shard_clients import for_each
from producer.cli.manifest import broken_entries
from producer.cli.options import broker_option, json_option, models_option
from producer.doctor import rights
from producer.doctor.collect_facts import ask_rights
from producer.doctor.findings import exit_code, lines, values
from producer.doctor.machine import ManifestFacts
from producer.doctor.run_checks import examine
from worker_config.errors import CeleriacError
from worker_config.manifest import model_names


@click.command()
@broker_option
@models_option
@click.option("--acl", is_flag=True, help="Tell instead which rights users of Redis need, and which this one lacks.")
@json_option
@click.pass_context
def doctor(context: click.Context, broker_url: str | None, manifest: Path, acl: bool, as_json: bool) -> None:
    """Check this set-up before a run: one line for each check, and what to do where something is wrong.

    With a broker: Redis (version, what it keeps and throws away, room), the workers on it, their models, versions,
    threads and clocks, and the folders that both sides share. Without one: what the embedded system needs here.

    Nothing is changed or started. A warning is for what makes a run slower or less safe, an error for what makes it
    fail; the exit code is 0, or that with which a run would end by the first error.

    With --acl: for workers, producers and those who only look the `ACL SETUSER` line of a user that may do just that.
    """
    if acl:
        # Of several shards the one whose user lacks most.
        known = for_each(broker_url, ask_rights).values() if broker_url else ()
        facts = max(known, key=lambda one: sum(map(len, one.missing.values())), default=None)
        click.echo(json.dumps(rights.values(facts)) if as_json else rights.report(facts))
        return
    asked_for = context.get_parameter_source("manifest") is not ParameterSource.DEFAULT
    findings = examine(broker_url, _look_into(manifest, asked_for))
    click.echo(json.dumps(values(findings)) if as_json else lines(findings))
    context.exit(exit_code(findings))


def _look_into(path: Path, asked_for: bool) -> ManifestFacts:
    try:
        return ManifestFacts(path, asked_for, sorted(model_names(path)), list(broken_entries(path).values()))
    except CeleriacError as error:
        return ManifestFacts(path, asked_for, errors=[error])
