"""The order of the checks: with a broker, what lies between a producer and its workers; without one,
what the embedded system needs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from producer.broker.shards import on_shard
from producer.doctor import broker, collect_facts, folders, machine, rights, workers
from producer.doctor.findings import Finding, of_shard, raised
from producer.doctor.machine import ManifestFacts
from producer.doctor.workers import WorkerState
from producer.embedded.local import LEAST_MEMORY_BYTES, MEMORY_FOLDER
from producer.embedded.redis_server import find_redis_server
from tasks.protocol.records import versions_here
from tasks.snapshots.cache import cache_folder
from tasks.snapshots.installed import installed
from worker_config.broker import shard_urls
from worker_config.errors import BrokerError, BrokerRefusedError, ConfigError
from worker_config.settings import Settings, misspelt


def examine(broker_url: str | None, manifest: ManifestFacts, environ: Mapping[str, str] = os.environ) -> list[Finding]:
    """All findings, in the order in which a run would meet them."""
    settings, errors = collect_facts.read_settings(environ)
    embedded = not broker_url
    versions = versions_here()
    stray = collect_facts.stray_module(Path.cwd())
    findings = [machine.check_here(versions, len(os.sched_getaffinity(0)))]
    findings += machine.check_settings(errors, misspelt(environ))
    findings.append(machine.check_shadow(stray, embedded=embedded))
    tested = machine.supported(collect_facts.requirements())
    runtime = installed("ai-edge-litert") if installed("psutil") else ""
    tensorflow = machine.check_tensorflow(versions.get("tensorflow"), tested, embedded=embedded, runtime=runtime)
    if broker_url:
        findings += _of_broker(broker_url, settings, versions)
        findings.append(tensorflow)
    else:
        findings += _of_embedded(settings, environ)
        # It makes a spool folder of its own.
        findings.insert(-1, tensorflow)
    return [*findings, *machine.check_manifest(manifest, embedded=embedded)]


def _of_broker(url: str, settings: Settings, versions: Mapping[str, str]) -> list[Finding]:
    """Of several shards each is looked at, and their workers together; jobs go on without one that is away."""
    urls = shard_urls(url)
    findings, clocks, away = list[Finding](), list[Finding](), list[BrokerError]()
    states: list[WorkerState] = []
    for shard, one in enumerate(urls):
        try:
            allowed = rights.check_rights(collect_facts.ask_rights(one))
            facts, its = collect_facts.ask_broker(one)
        except BrokerRefusedError as error:
            findings.append(raised("broker", error))
            continue
        except BrokerError as error:
            away.append(error)
            continue
        its = [replace(state, name=on_shard(state.name, shard)) for state in its]
        about = [allowed, *broker.check_broker(facts)]
        clock = workers.check_clocks(facts.clock_ahead, [state for state in its if not state.preparing])
        if len(urls) > 1:
            about = [of_shard(finding, facts.address) for finding in about]
            clock = of_shard(clock, facts.address)
            if not any(state.slots for state in its):
                about.append(workers.no_slots(facts.address))
        findings, clocks, states = findings + about, [*clocks, clock], states + its
    findings += [raised("broker", error) if not clocks else broker.is_away(error) for error in away]
    if not clocks:
        return findings
    findings += workers.check_workers(states)
    if told := [state for state in states if not state.preparing]:
        findings += [*workers.check_versions(versions, told), *workers.check_threads(told)]
    findings += clocks
    holding = [state for state in states if state.slots]
    spool = collect_facts.look_at_spool(settings.spool) if settings.spool else None
    findings.append(folders.check_spool(spool, collect_facts.marks_seen(settings.spool, holding)))
    if holding:
        findings.append(folders.check_data_roots(holding, collect_facts.roots_here(holding)))
    return findings


def _of_embedded(settings: Settings, environ: Mapping[str, str]) -> list[Finding]:
    try:
        server = find_redis_server()
        redis = machine.check_redis_server(server, collect_facts.server_version(server))
    except ConfigError as error:
        redis = raised("redis", error)
    return [
        redis,
        folders.check_memory_folder(collect_facts.look_at(MEMORY_FOLDER), LEAST_MEMORY_BYTES),
        folders.check_temporary(collect_facts.temporary_folder()),
        folders.check_cache(collect_facts.look_at(cache_folder(settings, environ))),
    ]
