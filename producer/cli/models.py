"""`celeriac models`: manifest or workers --> what each model is, as a table or JSON; also queues, and the cache's room.

manifest --a process with TensorFlow--> Described -+ (and Inspected --> inspect_lines)
broker --read_all--> ModelInfo of each slot -------+--> models_table, models_values
manifest --keys of its snapshots stay; so does what a worker uses--> sweep of the cache --> prune_lines
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec

from producer.broker.jobs import workers as workers_of
from producer.broker.shard_clients import ask_each, open_shards
from producer.cli.describing import run_showing
from producer.cli.manifest import broken_entries, check_files
from producer.cli.options import broker_option, is_on_command_line, json_option, models_option
from producer.cli.tables import columns
from producer.scheduling.model_pinning import dependent, refs
from producer.scheduling.preparing_workers import in_words
from tasks.models.model_version import digest_or_error
from tasks.protocol import keys
from tasks.protocol.preparing import Preparing
from tasks.protocol.records import Described, Inspected, ModelInfo
from tasks.snapshots.built_set import place_of
from tasks.snapshots.cache import Swept, cache_folder, sweep
from tasks.snapshots.fetch_models import fetch_models, fetched_keys
from tasks.snapshots.installed import check_runtime, tensorflow_version
from tasks.transport.worker_registry import read_slots
from worker_config.broker import queue_of, redacted, shard_urls
from worker_config.decodable import decodable
from worker_config.environment import check_no_shadow
from worker_config.errors import ConfigError, ExitCode, ModelLoadError, NoWorkerError
from worker_config.manifest import ModelEntry, model_names, read_manifest
from worker_config.settings import Settings


@click.command()
@models_option
@broker_option
@click.option(
    "--prune",
    "is_pruning",
    is_flag=True,
    help="Remove the snapshots on this machine but those of this manifest, and those that a running worker uses: also "
    "what other manifests have there, which is then made anew.",
)
@click.option(
    "--inspect",
    "is_inspecting",
    is_flag=True,
    help="Name the operations of the models' files that touch files, the network or Python; no model is loaded.",
)
@click.option(
    "--build",
    "target",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Prepare the models here, and write all that serves them as a new folder DIR, at once when it is whole: to be "
    "copied to other machines, also such without TensorFlow. An existing DIR is refused.",
)
@click.option(
    "--queue",
    "is_queue",
    is_flag=True,
    help="Print the Redis list in which their chunks wait, of several servers with its URL, and no more.",
)
@json_option
@click.pass_context
def models(
    context: click.Context,
    manifest: Path,
    broker_url: str | None,
    is_pruning: bool,
    is_inspecting: bool,
    target: Path | None,
    is_queue: bool,
    as_json: bool,
) -> None:
    """List the models of the manifest, or, with a broker, those that workers hold."""
    # The variables may be set for all commands of a machine.
    is_elsewhere, is_named = map(partial(is_on_command_line, context), ("broker_url", "manifest"))
    if is_named and is_elsewhere and not (target or is_inspecting or is_pruning):
        raise click.UsageError("--models is for a manifest on this machine, --broker for what workers hold: give one")
    broker_url = None if is_named else broker_url
    if is_queue:
        click.echo("\n".join(queue_lists(manifest, broker_url)))
        return
    if target:
        if is_elsewhere:
            raise click.UsageError("--build is for the models of the manifest on this machine; leave out --broker")
        build(manifest, target, as_json)
    if is_inspecting:
        if is_elsewhere:
            raise click.UsageError("--inspect is for the files of the manifest on this machine; leave out --broker")
        inspected = inspect(manifest)
        click.echo(json.dumps({"models": msgspec.to_builtins(inspected)}) if as_json else inspect_lines(inspected))
        return
    if is_pruning:
        if is_elsewhere:
            raise click.UsageError("--prune is for the snapshots on this machine; leave out --broker")
        pruned = prune(manifest)
        click.echo(json.dumps(prune_values(*pruned)) if as_json else prune_lines(*pruned))
        return
    trials: dict[str, list[Any]] = {}
    broken: dict[str, str] = {}
    exit_code = 0
    preparing: dict[str, Preparing] = {}
    if broker_url:
        with open_shards(broker_url) as shards:
            workers, preparing, _ = workers_of(shards)
        for error in shards.away.values():
            click.echo(f"celeriac: {error}", err=True)
        slots = [slot for slots in workers.values() for slot in slots]
        # Workers may hold different versions of a model.
        infos = {str(ref): info for slot in slots for ref, info in zip(refs(slot.models), slot.models, strict=True)}
        counts = Counter(str(ref) for slot in slots for ref in refs(slot.models))
    else:
        described = describe(manifest)
        infos, counts = {name: model.info for name, model in described.items() if model.info}, Counter()
        trials = {name: model.trials for name, model in described.items()}
        broken = {name: model.error for name, model in described.items() if not model.info}
        exit_code = next((model.exit_code for model in described.values() if not model.info), 0)
    if as_json:
        coming = {worker: msgspec.to_builtins(one) for worker, one in preparing.items()}
        click.echo(json.dumps(models_values(infos, counts, trials) | {"broken": broken, "preparing": coming}))
    else:
        lines = [f"{name}  broken: {why}" for name, why in broken.items()]
        lines += [in_words(worker, one) for worker, one in preparing.items()]
        click.echo("\n".join(lines if preparing and not infos else [models_table(infos, counts), *lines]))
    context.exit(exit_code)


def models_table(infos: Mapping[str, ModelInfo], slots: Mapping[str, int]) -> str:
    """One line for each input and output of each model, then its note; `slots` counts who holds it, by the same keys,
    where known.
    """
    if not infos:
        return "no models: no worker is up"
    header = ["MODEL", "VERSION", "INPUTS", "OUTPUTS", "BATCH", "EXECUTOR", "RATE", "OWN", "SHARED"]
    header += ["ERROR", "GRAPH'S", "SLOTS"]
    rows, notes = [header], {}
    for key, info in infos.items():
        inputs = [f"from {function}" for function in (info.preprocess, info.function) if function]
        inputs += map(str, info.inputs)
        outputs = list(map(str, info.outputs)) + [f"to {info.postprocess}"] * bool(info.postprocess)
        first, rest = [info.name, info.digest[:8]], [*_run_of(info), str(slots.get(key, "-"))]
        for line, tensors in enumerate(zip_longest(inputs, outputs, fillvalue="")):
            rows.append(["", "", *tensors, *[""] * len(rest)] if line else [*first, *tensors, *rest])
        notes[len(rows) - 1] = "\n  ".join(filter(None, [info.note, dependent([info]).get(info.name)]))
    lines = columns(rows).splitlines()
    return "\n".join(f"{line}\n  {notes[n]}" if notes.get(n) else line for n, line in enumerate(lines))


def _run_of(info: ModelInfo) -> list[str]:
    """How it is run: batch, executor, rate of a child, own and shared memory, its error, the own graph's error."""
    rate = f"{info.batch_rows / info.batch_seconds:,.0f} rows/s" if info.batch_seconds else "-"
    # Where nothing is known in float64, the deviation from the own graph has to do.
    error = info.error if info.true_error is None else info.true_error
    errors = ["-" if one is None or info.executor == "plain" else f"{one:.1g}" for one in (error, info.own_error)]
    memory = [f"{size / 2**20:,.0f} MiB" for size in (info.memory_bytes, info.shared_bytes)]
    batches = ", ".join(map(str, [*info.small_batches, info.call_rows or info.batch_rows]))
    return [batches, info.executor, rate, *memory, *errors]


def models_values(
    infos: Mapping[str, ModelInfo], slots: Mapping[str, int], trials: Mapping[str, Sequence[Any]]
) -> dict[str, Any]:
    """The same, as plain values, and with the trials of executors, where known."""
    models = [
        {**msgspec.to_builtins(info), "slots": slots.get(key), "trials": trials.get(key)} for key, info in infos.items()
    ]
    return {"models": models}


def check_tensorflow() -> None:
    """Raise ConfigError unless TensorFlow is there; it is not imported."""
    if not tensorflow_version():
        raise ConfigError(
            "TensorFlow is not installed, which looks into models and makes them ready: "
            "pip install 'celeriac[worker]'; or ask the workers, with --broker"
        )


def queue_lists(manifest: Path, broker_url: str | None) -> list[str]:
    """The Redis lists in which chunks wait for the workers that are up, or for one that starts with this manifest.

    Of several shards each line has the URL of its shard, too.
    """
    if broker_url:
        urls = shard_urls(broker_url)
        seen = {shard: {slot.queue for slot in slots} for shard, slots in ask_each(broker_url, read_slots).items()}
        if not any(seen.values()):
            raise NoWorkerError("no worker is up, whose queue it would be")
        if len(urls) > 1:
            return [
                f"{keys.queue(one)} {redacted(urls[at])}" for at, its in sorted(seen.items()) for one in sorted(its)
            ]
        queues = seen[0]
    else:
        entries = read_manifest(manifest, Settings.from_env().model_set)
        queues = {queue_of({name: digest_or_error(name, entry) for name, entry in entries.items()})}
    return sorted(map(keys.queue, queues))


def describe(manifest: Path) -> dict[str, Described]:
    """Load the models in a process of its own, and return what they say of themselves, or what is wrong, by name."""
    models = {model.name: model for model in msgspec.json.decode(_described(manifest), type=decodable(list[Described]))}
    # In the words that name the manifest.
    told = {name: str(error) for name, error in broken_entries(manifest).items()}
    return {name: msgspec.structs.replace(model, error=told.get(name, model.error)) for name, model in models.items()}


def inspect(manifest: Path) -> list[Inspected]:
    """Look into the models' files in a process of its own, without loading them."""
    return msgspec.json.decode(_described(manifest, "--inspect"), type=decodable(list[Inspected]))


def loaded(manifest: Path) -> list[Described]:
    """Load the models in a process of its own, each once, without a snapshot: what they say of themselves."""
    return msgspec.json.decode(_described(manifest, "--load"), type=decodable(list[Described]))


def inspect_lines(inspected: Sequence[Inspected]) -> str:
    """A line for each thing that a model touches, and one for why it is not loaded."""
    lines = []
    for one in inspected:
        found = [f"{function} is Python" for function in one.functions] + list(map(str, one.operations))
        lines += [f"{one.name}: {text}" for text in found or ["touches neither files, nor the network, nor Python"]]
        if one.refused:
            lines.append(f"{one.name} is not loaded: {one.refused}")
    return "\n".join(lines)


def _described(manifest: Path, *options: str) -> str:
    """What `python -m tasks.describe` prints."""
    broken = broken_entries(manifest)
    if len(broken) == len(model_names(manifest)):
        raise next(iter(broken.values()))
    if "--inspect" in options:
        check_tensorflow()
    check_runtime()
    check_no_shadow(Path.cwd())  # where `-m` looks first
    command = [sys.executable, "-m", "tasks.describe", str(manifest), *options]
    described = run_showing(command)
    if described.returncode:
        words = [line for line in described.stderr.splitlines() if line.startswith("celeriac: ")]
        error = ModelLoadError if described.returncode == ExitCode.MODEL else ConfigError
        raise error(words[-1].removeprefix("celeriac: ") if words else described.stderr.strip()[-500:])
    return described.stdout


def build(manifest: Path, target: Path, as_json: bool) -> NoReturn:
    """Build a model set, by a program that takes this process's place, and its signals."""
    check_files(read_manifest(manifest, Settings.from_env().model_set), manifest)
    check_tensorflow()
    check_no_shadow(Path.cwd())
    names = ",".join(Settings.from_env().model_set)
    words = ["-m", "tasks.build", str(manifest), str(target), "--models", names, *["--json"] * as_json]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *words])  # noqa: S606 - it takes this process's place


def prune(manifest: Path) -> tuple[Path, list[Swept]]:
    """Remove all snapshots that neither the manifest nor a worker needs; return the cache's folder and what is gone."""
    entries = read_manifest(manifest)
    check_files(entries, manifest)
    cache = cache_folder(Settings.from_env())
    entries = fetch_models(entries, cache, lambda text: None)
    keys = {_key(name, entry) for name, entry in entries.items() if entry.has_file} | fetched_keys(entries, cache)
    try:
        return cache, sweep(cache, keys)
    except OSError as error:
        raise ConfigError(
            f"the cache {cache} cannot be pruned: {error.filename}: {error.strerror}; name another with CELERIAC_CACHE"
        ) from None


def _key(name: str, entry: ModelEntry) -> str:
    digest = digest_or_error(name, entry)
    try:
        return place_of(name, entry, digest).name
    except OSError as error:
        raise ModelLoadError(f"model {name} cannot be loaded from {entry.path}: {error.strerror}") from None


def prune_lines(cache: Path, swept: list[Swept]) -> str:
    """One line for each, and a total."""
    lines = [f"{_mib(one.bytes)}  {one.source or 'leftover'}  ({one.key[:8]})" for one in swept]
    return "\n".join([*lines, f"{_mib(sum(one.bytes for one in swept))}  in all, removed from {cache}"])


def prune_values(cache: Path, swept: list[Swept]) -> dict[str, Any]:
    """The same, as plain values."""
    return {"cache": str(cache), "removed": msgspec.to_builtins(swept), "bytes": sum(one.bytes for one in swept)}


def _mib(size: int) -> str:
    return f"{size / 2**20:9.1f} MiB"
