"""A model set that was built elsewhere, as a folder: the manifest, and what a worker would have prepared of its models.

DIR/models.toml        the manifest; what it names, and modules of functions, beside it
DIR/snapshots/KEY/     snapshots, with what executors need and their trials, as in the cache
DIR/built.json         BuiltSet: what it was built with, the models' digests, size and SHA-256 of every file

DIR/snapshots/KEY --copied, held to its hashes--> CACHE/KEY', which then is a snapshot like any other

A worker only reads the folder: it may be part of an image, or be replaced while children run.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec

from tasks.snapshots import cache
from tasks.snapshots.installed import tensorflow_version
from tasks.snapshots.record import from_file
from worker_config.errors import ModelLoadError
from worker_config.manifest import ModelEntry
from worker_config.model_paths import MANIFEST

RECORD = "built.json"
SNAPSHOTS = "snapshots"
# Another layout of the folder is never read.
FORMAT_VERSION = 1
_AGAIN = "build it anew: celeriac models --build"


class Layout(msgspec.Struct, frozen=True):
    """What tells whether this release reads a set: the versions of its folder and of its snapshots."""

    celeriac: str
    version: int = FORMAT_VERSION
    snapshots: int = cache.FORMAT_VERSION


class BuiltSet(msgspec.Struct, frozen=True):
    """What a built set says of itself.

    Attributes:
        layout: by which release it was built.
        tensorflow: the version that made its snapshots.
        models: the digest of each model.
        files: size and SHA-256 of every file but its own, by its path in the folder.
    """

    layout: Layout
    tensorflow: str
    models: dict[str, str]
    files: dict[str, tuple[int, str]]

    def of_snapshot(self, key: str) -> dict[str, tuple[int, str]]:
        """The files of a snapshot, by their paths in it; none where the set has no such snapshot."""
        place = f"{SNAPSHOTS}/{key}/"
        return {name.removeprefix(place): mark for name, mark in self.files.items() if name.startswith(place)}


@dataclass(frozen=True)
class Place:
    """Where a model's snapshot is kept, and where it comes from.

    Attributes:
        name: of its folder in the cache.
        built: its folder in a set that was built elsewhere; None where it is made here.
        files: of that set: size and SHA-256 of each of its files; None where its own record alone has them.
        note: why one of a set is not used, for people.
    """

    name: str
    built: Path | None = None
    files: dict[str, tuple[int, str]] | None = None
    note: str = ""


def set_of(model: str, entry: ModelEntry, digest: str) -> BuiltSet | None:
    """The built set that an entry is from; None where it is from another manifest.

    Raises:
        ModelLoadError: the set is damaged, or was built with other functions than are here.
    """
    folder = Path(entry.folder)
    built = read_built_set(folder) if entry.folder else None
    if built and built.models.get(model, digest) != digest:
        check(folder, built)
        named = ", ".join(one for one in (entry.path, entry.preprocess, entry.postprocess, *entry.imports) if one)
        raise ModelLoadError(
            f"model {model} of the built model set {folder} has another version here: what is installed of {named} "
            f"is not what was there when it was built; install that, or {_AGAIN}"
        )
    return built


def place_of(model: str, entry: ModelEntry, digest: str) -> Place:
    """Where the snapshot of a model with a file is kept here.

    One of a set has a name of its own in the cache, by its very files: workers may have made another of the same key.

    Raises:
        OSError: the calibration file, or the model's, cannot be read.
        ModelLoadError: as `set_of`.
    """
    built, here = set_of(model, entry, digest), tensorflow_version()
    key = cache.cache_key(digest, entry, here or (built.tensorflow if built else ""))
    if built is None:
        return Place(key)
    files = built.of_snapshot(key)
    if not files:
        check(Path(entry.folder), built)
        return Place(key, note=f"its set was built with TensorFlow {built.tensorflow}, and {here or 'none'} is here")
    name = hashlib.sha256(msgspec.json.encode([key, sorted(files.items())])).hexdigest()[:32]
    return Place(name, Path(entry.folder) / SNAPSHOTS / key, files)


class _OfAnyRelease(msgspec.Struct, frozen=True):
    layout: Layout


def read_built_set(folder: Path) -> BuiltSet | None:
    """What a folder says of itself; None where it is no built set.

    Raises:
        ModelLoadError: another release has built it, or it is damaged.
    """
    try:
        data = (folder / RECORD).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ModelLoadError(f"the built model set {folder}: {RECORD} cannot be read ({error.strerror})") from None
    try:
        made = from_file(data, _OfAnyRelease).layout
        if made != Layout(made.celeriac):
            raise ModelLoadError(
                f"the model set {folder} was built by Celeriac {made.celeriac}, whose snapshots are of another form; "
                f"{_AGAIN}, with the release that serves it"
            )
        built = from_file(data, BuiltSet)
    except ValueError as error:
        raise damaged(folder, f"{RECORD}: {error}") from None
    if outside := [name for name in built.files if not _is_inside(name)]:
        raise damaged(folder, f"{RECORD} names the file {outside[0]!r}")
    check(folder, built, MANIFEST)
    for name in _outside_snapshots(built):  # the digests of models tell whether they have the right bytes
        if not (folder / name).is_file():
            raise damaged(folder, f"{name} is missing")
    return built


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _outside_snapshots(built: BuiltSet) -> list[str]:
    return [name for name in built.files if not name.startswith(f"{SNAPSHOTS}/")]


def check(folder: Path, built: BuiltSet, *names: str) -> None:
    """Make sure that files of a set are as they were built; without names, all but those of snapshots.

    Raises:
        ModelLoadError: one is damaged, or missing.
    """
    try:
        cache.check_files(folder, {name: built.files[name] for name in names or _outside_snapshots(built)})
    except ValueError as error:
        raise damaged(folder, str(error)) from None


def damaged(folder: Path, what: str) -> ModelLoadError:
    """The error for whoever starts a worker."""
    return ModelLoadError(
        f"the built model set {folder} is not what was built: {what}; copy it anew from where it was built, or {_AGAIN}"
    )


def copy_to_cache(place: Place, root: Path) -> None:
    """Put a snapshot of a set into the cache, whose lock for it the caller holds.

    Raises:
        ModelLoadError: the set is damaged.
        OSError: the cache cannot be written.
    """
    assert place.built is not None and place.files is not None  # noqa: S101, PT018 - callers have asked
    folder, within = place.built.parents[1], f"{SNAPSHOTS}/{place.built.name}"
    with cache.making(root, place.name) as made:
        for name in place.files:
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(place.built / name, made / name)
            except OSError as error:
                if error.filename != str(place.built / name):
                    raise  # then it is the cache
                raise damaged(folder, f"{within}/{name} cannot be read ({error.strerror})") from None
        try:
            cache.check_files(made, place.files)
        except ValueError as error:
            raise damaged(folder, f"{within}/{error}") from None
