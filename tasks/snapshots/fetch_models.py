"""Models behind URLs --a copy in the cache, by what the store says of their objects--> models in files.

    s3://models/digits.keras       one file
    s3://models/resnet/3/          a SavedModel
    s3://models/resnet/            a tree of versions, of which the one that is served is copied

A copy is made in a folder of its own, beside a record of its files' digests, and takes its name when it is whole; the
key is the SHA-256 of the URL and of every object's name, size and ETag, so that what has changed is another copy.
Who is to be forked again never asks a store itself: a process of its own does.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import msgspec

from tasks.snapshots import cache
from tasks.snapshots.forked_call import ForkedError, run_forked, with_stderr
from tasks.storage.objects import ObjectStamp, download, list_objects, stat
from worker_config.decodable import decodable
from worker_config.errors import ConfigError, ModelLoadError, ObjectChangedError, UsageError
from worker_config.foreign_errors import UNDECODABLE
from worker_config.manifest import ModelEntry
from worker_config.model_paths import SAVED_MODEL, SUFFIXES
from worker_config.object_urls import ObjectUrl, is_url, object_url
from worker_config.settings import variable_of

# Beside the model: size and SHA-256 of each of its files.
_RECORD = "fetched.json"
_MODEL = "model"
# Of a model that is overwritten as it is copied.
_TRIES = 3


def fetch_models(entries: Mapping[str, ModelEntry], folder: Path, say: Callable[[str], None]) -> dict[str, ModelEntry]:
    """The same entries, with the paths of copies in place of URLs.

    Raises:
        ConfigError: a URL is none that is taken.
        ModelLoadError: a model cannot be copied; the text says why.
    """
    return {name: _fetched(name, entry, folder, say) for name, entry in entries.items()}


def use_fetched(entries: Mapping[str, ModelEntry], folder: Path) -> list[int]:
    """Keep the copies from being removed, as `cache.use` does.

    Raises:
        ModelLoadError: one was removed just now, to make room for another.
    """
    try:
        return [cache.use(folder / key) for key in fetched_keys(entries, folder)]
    except FileNotFoundError:
        raise ModelLoadError(
            f"{folder}: a model that was fetched has been removed to make room; raise {variable_of('cache_mib')}"
        ) from None


def fetched_keys(entries: Mapping[str, ModelEntry], folder: Path) -> set[str]:
    """The names of the copies in the cache that entries have their models in."""
    paths = [Path(one.path) for entry in entries.values() for one in (entry, *entry.members.values()) if one.has_file]
    return {path.relative_to(folder).parts[0] for path in paths if path.is_relative_to(folder)}


def _fetched(name: str, entry: ModelEntry, folder: Path, say: Callable[[str], None]) -> ModelEntry:
    members = {link: _fetched(link, member, folder, say) for link, member in entry.members.items()}
    entry = msgspec.structs.replace(entry, members=members)
    if not is_url(entry.path):
        return entry
    try:
        url = object_url(entry.path)
    except UsageError as error:
        raise ConfigError(f"models.{name}.path: {error}") from None
    stderr = os.dup(2)  # waits for the store are told there
    try:
        fetch = partial(with_stderr, stderr, partial(_copy, url, entry.version, folder))
        copy = run_forked(fetch, str, Path(os.devnull))
    except ForkedError as error:
        cause = str(error).partition(": ")[2] or str(error)  # without the name of a class
        raise ModelLoadError(f"model {name} cannot be fetched: {cause}") from None
    finally:
        os.close(stderr)
    say(f"model {name}: {url} is in {copy}")
    return msgspec.structs.replace(entry, path=copy)


def _copy(url: ObjectUrl, version: int, folder: Path) -> str:
    """The path of the model in the copy, which is made if there is none."""
    for left in reversed(range(_TRIES)):
        found = _objects(url, version)
        key = _key(url, found)
        with cache.locked(folder, key):
            try:
                if not _is_whole(folder / key):
                    _make(folder, key, url, found)
                os.close(cache.use(folder / key))  # so that it is not the first that goes
                return str(folder / key / _MODEL / (url.name if url in found else ""))
            except ObjectChangedError:
                if not left:
                    raise
    raise AssertionError  # the last try has returned or raised


def _make(folder: Path, key: str, url: ObjectUrl, found: Mapping[ObjectUrl, ObjectStamp]) -> None:
    with cache.making(folder, key) as making:
        for one, stamp in found.items():
            path = making / _MODEL / (url.name if one == url else one.key.removeprefix(f"{url.key}/"))
            path.parent.mkdir(parents=True, exist_ok=True)
            download(one, stamp, path)
        files = cache.fingerprints(making / _MODEL)
        (making / _RECORD).write_bytes(msgspec.json.encode(files))


def _is_whole(copy: Path) -> bool:
    try:
        files = msgspec.json.decode((copy / _RECORD).read_bytes(), type=decodable(dict[str, tuple[int, str]]))
        cache.check_files(copy / _MODEL, files)
    except (OSError, ValueError, *UNDECODABLE):
        return False
    return True


def _objects(url: ObjectUrl, version: int) -> dict[ObjectUrl, ObjectStamp]:
    """The object of a file, or those of a folder, of a tree of versions those of the one that is served."""
    if url.name.endswith(SUFFIXES) and not url.is_folder:
        if url.name.endswith(".meta"):
            raise ModelLoadError(f"{url}: a checkpoint is several files; name a SavedModel, or copy it to a folder")
        return {url: stat(url)}
    within = len(url.key) + 1 if url.key else 0
    found = {one: stamp for one, stamp in list_objects(url) if not one.key.endswith("/")}
    if not found:
        raise ModelLoadError(f"{url}: no objects there; check the URL")
    tops = {one.key[within:].split("/")[0] for one in found if "/" in one.key[within:]}
    versions = {int(top): top for top in tops if top.isascii() and top.isdigit()}
    if versions and not any(one.key[within:] == SAVED_MODEL for one in found):
        if version and version not in versions:
            raise ModelLoadError(f"{url}: no version {version}; there are: {', '.join(map(str, sorted(versions)))}")
        top = versions[version or max(versions)]
        found = {one: stamp for one, stamp in found.items() if one.key[within:].startswith(f"{top}/")}
    elif version:
        raise ModelLoadError(f"{url}: no version {version}: it is no tree of versions")
    return found


def _key(url: ObjectUrl, found: Mapping[ObjectUrl, ObjectStamp]) -> str:
    digest = hashlib.sha256(f"fetched\0{url}\0".encode())
    for one, stamp in sorted(found.items()):
        digest.update(f"{one}\0{stamp.size}\0{stamp.etag or stamp.mtime_ns}\0".encode())
    return digest.hexdigest()[:32]
