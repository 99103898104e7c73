"""A program of its own: it prepares a manifest's models as a worker would, and writes them as a folder.

manifest --copy--> .DIR.building --prepare--> snapshots, trials --> built.json --one rename--> DIR

`python -m tasks.build MANIFEST DIR [--models NAME,NAME] [--json]`; `celeriac models --build` runs it. What it makes is
read by `tasks/snapshots/built_set.py`.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from tasks.models.model_version import digest_or_error
from tasks.models.tensorflow_import import mentions_tensorflow
from tasks.preparation.choice import choose_without_tensorflow
from tasks.preparation.context import PreparationContext
from tasks.preparation.prepare import prepare_all
from tasks.preparation.serving_spec import ServingSpec
from tasks.preparation.trials import trials_here
from tasks.snapshots import cache
from tasks.snapshots.built_set import RECORD, SNAPSHOTS, BuiltSet, Layout
from tasks.snapshots.copied_manifest import copy_manifest
from tasks.snapshots.fetch_models import fetch_models
from tasks.snapshots.installed import tensorflow_version
from tasks.snapshots.record import to_file
from worker_config.errors import CeleriacError, ConfigError, ExitCode
from worker_config.files import sync_file
from worker_config.manifest import read_manifest
from worker_config.model_paths import MANIFEST
from worker_config.settings import Settings


def build(manifest: Path, target: Path, names: list[str]) -> dict[str, Any]:
    """Write the set; return what people want to know of it.

    Raises:
        ConfigError: there is something at the target, or no TensorFlow here.
        CeleriacError: a model cannot be prepared.
    """
    settings = Settings.from_env()
    say = partial(print, file=sys.stderr, flush=True)
    entries = fetch_models(read_manifest(manifest, names), cache.cache_folder(settings), say)
    digests = {name: digest_or_error(name, entry) for name, entry in entries.items()}
    with _written_whole(target) as folder:
        installed = copy_manifest(manifest, entries, folder)
        entries = read_manifest(folder / MANIFEST)
        copied = {name: digest_or_error(name, entry) for name, entry in entries.items()}
        if changed := [name for name in digests if copied[name] != digests[name]]:
            raise ConfigError(f"model {changed[0]} has changed while it was copied; begin again")
        # As a worker with a child for each core.
        cores, threads = len(os.sched_getaffinity(0)), settings.intra_op_threads or 1
        context = PreparationContext.of(settings, threads, cores, say)
        context = replace(context, cache=folder / SNAPSHOTS, limit_bytes=sys.maxsize, is_for_others=True)
        (folder / SNAPSHOTS).mkdir()
        served = prepare_all(entries, copied, context, at_once=cores // threads)
        told = {name: _told(one, context) for name, one in served.items()}
        for descriptor in context.held:
            os.close(descriptor)
        _tidy(folder)
        layout = Layout(version("celeriac"))
        record = to_file(BuiltSet(layout, tensorflow_version(), copied, cache.fingerprints(folder)))
        (folder / RECORD).write_bytes(record)
        size = cache.size_of(folder)
    digest = json.loads(record)["sha256"]
    return {"built": str(target), "digest": digest, "bytes": size, "models": told, "installed": installed}


def _told(served: ServingSpec, context: PreparationContext) -> dict[str, Any]:
    """Of one model: by what it is run here, and by what without TensorFlow, or why not."""
    if served.members:
        members = [_told(member, context) for member in served.members]
        why = "; ".join(filter(None, (member["needs"] for member in members)))
        return {
            "digest": served.digest,
            "executor": "chain",
            "without": "chain" if not why else "",
            "needs": why,
        }
    without, why = served.executor, ""
    if mentions_tensorflow(served.entry, imports=False):
        without, why = "", "a function of its own imports it"
    elif served.snapshot and served.trial:
        folder = Path(served.folder)
        trials = trials_here(served.name, folder, served.snapshot, served.entry, context)  # which are known
        trial, note = choose_without_tensorflow(trials, [], served.entry)
        without, why = (trial.executor, "") if trial else ("", note)
    elif served.needs_tensorflow:
        without, why = "", f"its own file is loaded, {served.note}"
    return {"digest": served.digest, "executor": served.executor, "without": without, "needs": why}


@contextmanager
def _written_whole(target: Path) -> Iterator[Path]:
    """A folder to write into, which takes its name at the end; removed if something is raised."""
    if target.is_symlink() or target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise ConfigError(f"{target} exists already, and workers may read it; name another folder, or remove it first")
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.with_name(f".{target.name}.building")
    folder.mkdir(exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"another process builds {target} now") from None
    for leftover in folder.iterdir():  # whoever made it is dead, since we hold the lock
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    try:
        yield folder
        for path in [*folder.rglob("*"), folder]:
            sync_file(path)
        folder.rename(target)
        sync_file(target.parent)
    finally:
        children = psutil.Process().children(recursive=True)  # which may write yet, where this was interrupted
        for child in children:
            child.kill()
        psutil.wait_procs(children)
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _tidy(folder: Path) -> None:
    """Remove what workers alone need beside snapshots, and let others read the rest, as usual here."""
    for path in [*(folder / SNAPSHOTS).glob("*.lock"), *(folder / SNAPSHOTS).glob("*/in-use")]:
        path.unlink()
    mask = os.umask(0)
    os.umask(mask)
    for path in [*folder.rglob("*"), folder]:
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def _lines(told: dict[str, Any]) -> str:
    """For people: a line for each model, and one for the set."""
    lines = []
    for name, one in told["models"].items():
        how = f"without TensorFlow by {one['without']}" if one["without"] else f"needs TensorFlow: {one['needs']}"
        lines.append(f"{name}@{one['digest'][:8]}  by {one['executor']}; {how}")
    lines += [f"{name} is installed here, and must be where the set is served" for name in told["installed"]]
    lines.append(f"{told['built']}: {told['bytes'] / 2**20:,.1f} MiB, digest {told['digest'][:12]}")
    return "\n".join([*lines, f"celeriac worker --models {told['built']}"])


def main(words: list[str]) -> int:
    """Build, and tell; an error is one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m tasks.build")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--models", default="")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(words)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        told = build(given.manifest, given.target.absolute(), [name for name in given.models.split(",") if name])
    except CeleriacError as error:
        print(f"celeriac: {error}", file=sys.stderr)
        return int(error.exit_code)
    except OSError as error:
        print(f"celeriac: {given.target} cannot be built: {error.filename}: {error.strerror}", file=sys.stderr)
        return int(ExitCode.USAGE)
    except KeyboardInterrupt:
        print("celeriac: interrupted; nothing was written", file=sys.stderr)
        return int(ExitCode.CANCELLED)
    print(json.dumps(told) if given.json else _lines(told))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
