"""A program of its own: it prepares a manifest's models as a worker would, and prints what they are.

    manifest --prepare, load where only that tells--> Described of each model, as JSON on stdout

`python -m tasks.describe MANIFEST [--inspect]`; the producer, which never imports TensorFlow, runs it for
`celeriac models`. What is in the cache already is told without TensorFlow; with --inspect nothing is loaded.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import msgspec

from tasks.models.error_text import telling_line
from tasks.models.model_version import digest_or_error
from tasks.models.tensorflow_import import import_tensorflow
from tasks.preparation.context import PreparationContext
from tasks.preparation.prepare import prepare
from tasks.preparation.serving_spec import ServingSpec, describe
from tasks.preparation.trials import known_trials, record_path
from tasks.protocol.records import Described, FileOperation, Inspected, ModelInfo
from tasks.snapshots.fetch_models import fetch_models, use_fetched
from tasks.snapshots.forked_call import ForkedError, run_forked
from worker_config.errors import CeleriacError, ModelLoadError
from worker_config.manifest import ModelEntry, is_function, model_names, read_manifest
from worker_config.settings import Settings


def main(manifest: Path, *, inspects: bool = False, loads: bool = False) -> int:
    """Print the models' descriptions, or what they touch, on stdout; an error on stderr if there is none that can.

    With `loads` each is loaded from its own file, and no snapshot is made.
    """
    try:
        settings = Settings.from_env()
        cores = len(os.sched_getaffinity(0))
        say = partial(print, file=sys.stderr, flush=True)
        # As a worker with a child for each core.

        def tell(doing: str) -> None:
            say(f"step: {doing}")  # for whoever waits for it

        context = PreparationContext.of(settings, settings.intra_op_threads or 1, cores, say, tell)
        described: list[Described | Inspected] = []
        broken: list[CeleriacError] = []
        for name in model_names(manifest):
            try:
                entries = fetch_models(read_manifest(manifest, [name]), context.cache, say)
                context.held.extend(use_fetched(entries, context.cache))
                entry = entries[name]
                if loads:
                    tell(f"loading {name}")
                    described.append(_plain(name, entry))
                else:
                    described.append(_inspected(name, entry) if inspects else _described(name, entry, context))
            except CeleriacError as error:
                broken.append(error)
                described.append(
                    Inspected(name, refused=str(error))
                    if inspects
                    else Described(name, error=str(error), exit_code=int(error.exit_code))
                )
        if len(broken) == len(described):
            raise broken[0]
    except CeleriacError as error:
        print(f"celeriac: {error}", file=sys.stderr)
        return int(error.exit_code)
    print(msgspec.json.encode(described).decode())
    return 0


def _described(name: str, entry: ModelEntry, context: PreparationContext) -> Described:
    served = prepare(name, entry, digest_or_error(name, entry), context)
    folder = Path(served.folder)
    record = record_path(folder, entry, context.threads, context.gpus)
    trials = known_trials(folder, record) if served.trial else None
    info = describe(served) or _loaded(served)
    return Described(name, info, msgspec.to_builtins(trials.trials) if trials else [])


def _inspected(name: str, entry: ModelEntry) -> Inspected:
    entries = [entry, *entry.members.values()]
    named = [function for one in entries for function in (one.preprocess, one.path, one.postprocess)]
    found: list[FileOperation] = []
    refused = ""
    for one in entries:
        if not one.has_file:
            continue
        import_tensorflow()
        from tasks.models.formats import inspect_model
        from tasks.models.formats.file_operations import check_operations

        try:
            operations = inspect_model(one)
        except (OSError, ValueError) as error:
            cause = getattr(error, "strerror", None) or telling_line(error)
            raise ModelLoadError(f"model {name} cannot be loaded from {one.path}: {cause}") from None
        try:
            check_operations(operations, one)
        except ValueError as error:
            refused = refused or str(error)
        found += operations
    modules = [module for one in entries for module in one.imports]
    return Inspected(name, found, [*filter(is_function, named), *modules], refused)


def _plain(name: str, entry: ModelEntry) -> Described:
    served = ServingSpec(name, digest_or_error(name, entry), entry, batch_rows=entry.batch_rows)
    import_tensorflow()
    return Described(name, _loaded(served))


def _loaded(served: ServingSpec) -> ModelInfo:
    """Of a model without a snapshot, which only loading can describe."""

    def load() -> ModelInfo:
        from tasks.child.load_model import load_model

        return load_model(served).info

    try:
        return run_forked(load, ModelInfo, Path(os.devnull))
    except ForkedError as error:
        raise ModelLoadError(str(error).partition(": ")[2] or str(error)) from None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), inspects="--inspect" in sys.argv[2:], loads="--load" in sys.argv[2:]))
