"""The workers: whether they are up, what they hold, and whether they fit together and to us.

WorkerState, for each --check_workers, check_versions, check_threads, check_clocks--> findings
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from producer.doctor.findings import Finding, count_of, error, ok, warning
from producer.scheduling.model_pinning import RESUME, START, refs, they_drain
from producer.scheduling.preparing_workers import in_words
from tasks.protocol.preparing import Preparing
from tasks.protocol.records import SlotRecord, WorkerFacts
from worker_config.errors import ExitCode
from worker_config.foreign_errors import some_of

# Of clocks: what a network, a busy machine and a second that is cut off make of equal ones is less.
MOST_SECONDS_APART = 2.0
# What has to be the same everywhere, and up to which part of the version.
_PARTS = {"celeriac": 9, "tensorflow": 3, "python": 2}


@dataclass(frozen=True)
class WorkerState:
    """A worker that gave a sign of life lately; `facts` is None where it tells none.

    `preparing` says how far one is that has no slot yet since it prepares its models.
    """

    name: str
    slots: Sequence[SlotRecord]
    facts: WorkerFacts | None = None
    preparing: Preparing | None = None


def short_names(workers: Iterable[str]) -> dict[str, str]:
    """What workers are called in a line, by their full name: without the token at its end, where that is enough."""
    names = list(workers)
    short = [name.rpartition(":")[0] or name for name in names]
    return {full: cut if short.count(cut) == 1 else full for full, cut in zip(names, short, strict=True)}


def check_workers(workers: Sequence[WorkerState]) -> list[Finding]:
    """Who is up, the models that they hold, and in which sets."""
    if not workers:
        return [error("workers", "no worker is up", START, ExitCode.NO_WORKER)]
    draining = [worker.name for worker in workers if worker.facts and worker.facts.draining]
    workers = [worker for worker in workers if worker.name not in draining]
    if draining and not workers:
        return [error("workers", they_drain(draining), RESUME, ExitCode.NO_WORKER)]
    drains = [warning("workers", they_drain(draining), RESUME)] if draining else []
    return [*_check_taking(workers), *drains]


def _check_taking(workers: Sequence[WorkerState]) -> list[Finding]:
    """Of those that do not drain."""
    slots = [slot for worker in workers for slot in worker.slots]
    coming = [
        warning("workers", in_words(worker.name, worker.preparing), "a run for its models alone waits for it")
        for worker in workers
        if worker.preparing
    ]
    if coming and not slots:
        return coming
    workers = [worker for worker in workers if not worker.preparing]
    if not slots:
        found = f"{some_of(worker.name for worker in workers)} up, without a child that holds its models"
        return [error("workers", found, "look at the worker's output", ExitCode.NO_WORKER)]
    up = ok("workers", some_of(f"{worker.name} with {count_of(len(worker.slots), 'slot')}" for worker in workers))
    if empty := [worker.name for worker in workers if not worker.slots]:
        found = f"{some_of(empty)} has no child that holds its models, or is of another version of Celeriac"
        up = warning("workers", found, "look at its output")
    return [up, *coming, *_models(workers), *_dependent(workers), _sets(workers)]


def no_slots(address: str) -> Finding:
    """Of a shard, beside others."""
    found = f"{address}: none of its workers has a slot, so that it gets no chunks"
    return warning("workers", found, "start some more: each belongs to the shard that has the fewest")


def _models(workers: Sequence[WorkerState]) -> list[Finding]:
    held: dict[str, dict[str, dict[str, int]]] = {}
    for worker in workers:
        for slot in worker.slots:
            for ref in refs(slot.models):
                count = held.setdefault(ref.name, {}).setdefault(ref.digest, {})
                count[worker.name] = count.get(worker.name, 0) + 1
    return [_model(name, versions) for name, versions in sorted(held.items())]


def _dependent(workers: Sequence[WorkerState]) -> list[Finding]:
    """Models whose rows are not independent, unless that is meant."""
    infos = {(info.name, info.digest): info for worker in workers for slot in worker.slots for info in slot.models}
    advice = "if that is meant, say independent_rows = false in the manifest"
    return [
        warning("model", f"{info.name}@{info.digest[:8]}: {info.dependent}", advice)
        for info in infos.values()
        if info.dependent and info.independent_rows
    ]


def _model(name: str, versions: Mapping[str, Mapping[str, int]]) -> Finding:
    held = [
        f"{name}@{digest[:8]} in {count_of(sum(count.values()), 'slot')} of {some_of(count)}"
        for digest, count in versions.items()
    ]
    if len(versions) == 1:
        return ok("model", held[0])
    advice = (
        "a job runs on the one that most slots hold: give all workers the same file, then "
        "`celery -A tasks control reload_models`"
    )
    return warning("model", f"{len(versions)} versions: {some_of(held)}", advice)


def _sets(workers: Sequence[WorkerState]) -> Finding:
    sets: dict[str, tuple[str, int]] = {}
    for slot in (slot for worker in workers for slot in worker.slots):
        names, count = sets.get(slot.queue, (",".join(sorted(info.name for info in slot.models)), 0))
        sets[slot.queue] = (names, count + 1)
    listed = some_of(f"{names} ({count_of(count, 'slot')})" for names, count in sets.values())
    return ok("model sets", f"{len(sets)}: {listed}" if len(sets) > 1 else "one: all workers hold the same")


def check_versions(here: Mapping[str, str], workers: Sequence[WorkerState]) -> list[Finding]:
    """The same here and on all workers; what is not installed here, as TensorFlow may be, is not missed."""
    silent = [worker.name for worker in workers if worker.facts is None]
    findings = [_same(name, here.get(name), workers) for name in _PARTS if len(silent) < len(workers)]
    has = {worker.name: "tensorflow" in worker.facts.versions for worker in workers if worker.facts}
    if len(set(has.values())) > 1:
        found = f"tensorflow is not installed on {some_of(name for name, is_there in has.items() if not is_there)}"
        advice = (
            "rows that are not for their executors fail there, and not on the others; give them models of their own"
        )
        findings.append(warning("versions", found, advice))
    if silent:
        found = f"{some_of(silent)} has not told its versions: it has just started, or is of an older Celeriac"
        findings.append(warning("versions", found, "look again in a few seconds, or install the same version there"))
    return findings


def _same(name: str, here: str | None, workers: Sequence[WorkerState]) -> Finding:
    found: dict[str, list[str]] = {}
    if here:
        found.setdefault(here, []).append("here")
    for worker in workers:
        if worker.facts and (version := worker.facts.versions.get(name)):
            found.setdefault(version, []).append(worker.name)
    where = some_of(f"{version} on {some_of(places)}".replace("on here", "here") for version, places in found.items())
    if len({tuple(version.split(".")[: _PARTS[name]]) for version in found}) > 1:
        return warning("versions", f"{name} {where}", "install the same version everywhere")
    return ok("versions", f"{name} " + (f"{next(iter(found))} everywhere" if len(found) == 1 else where or "not told"))


def check_threads(workers: Sequence[WorkerState]) -> list[Finding]:
    """Children and their threads against cores, and GPUs, as workers tell them."""
    findings = []
    for worker, facts in ((worker.name, worker.facts) for worker in workers if worker.facts):
        devices = f"GPUs {', '.join(facts.gpus)}" if facts.gpus else "no GPU"
        children = f"{facts.children} {'child' if facts.children == 1 else 'children'}"
        found = f"{worker}: {children} of {count_of(facts.threads, 'thread')} on {facts.cores} cores, {devices}"
        if facts.children * facts.threads > facts.cores and not facts.gpus:
            advice = "start fewer children (-c), or leave CELERIAC_INTRA_OP_THREADS at 0: they take turns on the cores"
            findings.append(warning("devices", found, advice))
        else:
            findings.append(ok("devices", found))
    return findings


def check_clocks(ahead_here: float, workers: Sequence[WorkerState]) -> Finding:
    """Everybody's clock against that of Redis."""
    ahead = {"this machine": ahead_here, **{one.name: one.facts.clock_ahead for one in workers if one.facts}}
    apart = {name: seconds for name, seconds in ahead.items() if abs(seconds) > MOST_SECONDS_APART}
    if apart:
        apart_by = some_of(
            f"{name} is {abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} Redis's machine"
            for name, seconds in apart.items()
        )
        return warning("clocks", apart_by, "let all machines take their time from the same server (NTP)")
    most = max(map(abs, ahead.values()))
    return ok("clocks", f"{len(ahead)} compared with that of Redis, at most {most:.1f} s apart")
