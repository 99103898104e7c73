"""The files of a Zarr store by their names in it, wherever that is: in a folder, or as objects of a store.

files of a merged store --take: a rename, or copies--> the same files by other names in the output
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeAlias

from producer.sinks.output_place import taken
from tasks.outputs.temp_paths import sync_folder
from tasks.outputs.zarr import METADATA
from tasks.storage import objects
from tasks.storage.background import at_once
from tasks.storage.objects import ObjectStamp
from tasks.transport.output_objects import as_output_errors, delete_folder
from worker_config.errors import ObjectChangedError, ObjectExistsError, ObjectMissingError
from worker_config.files import sync_file
from worker_config.object_urls import ObjectUrl, is_url, object_url


class LocalFiles:
    """Files of a folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where there is none."""
        with suppress(FileNotFoundError):
            return (self._path / name).read_bytes()
        return None

    def folders(self, name: str) -> list[str]:
        """The names of what is in a folder, and is one itself."""
        return [entry.name for entry in os.scandir(self._path / name) if entry.is_dir(follow_symlinks=False)]

    def replace(self, name: str, data: bytes, merged: StoreFiles) -> None:
        """Write a file, whole; what is written before it has its name is among those of the merged store."""
        new, path = Path(str(merged)) / f"{name}.new", self._path / name
        new.write_bytes(data)
        sync_file(new)
        new.rename(path)
        sync_folder(path.parent)

    def become(self, merged: StoreFiles) -> bool:
        """Have all files of the merged store at once, where that can be, and none before."""
        Path(str(merged)).rename(self._path)
        sync_folder(self._path.parent)
        return True

    def take(self, merged: StoreFiles, names: Mapping[str, str], inner: str) -> int:
        """Give chunks of the merged store the names that they have here, again from anywhere; gives their bytes.

        Either name is that of a chunk in the first axis, `inner` what follows it. A chunk of zeros has no file.
        """
        parent = None
        for name, here in names.items():
            path = self._path / here
            if parent != path.parent:
                parent = path.parent
                parent.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):
                (Path(str(merged)) / name).rename(path)
        if parent:
            sync_folder(parent)
        return self.bytes_of(names.values(), inner)

    def bytes_of(self, names: Iterable[str], inner: str) -> int:
        """Of chunks, as of `take`."""
        total = 0
        for name in names:
            with suppress(FileNotFoundError):
                total += (self._path / name / inner).lstat().st_size
        return total

    def remove(self) -> None:
        """Remove all files."""
        shutil.rmtree(self._path, ignore_errors=True)


class ObjectFiles:
    """Objects beneath a prefix. Its methods raise OutputError.

    What metadata say is replaced on the condition that they say what they did when they were read: who has lost the
    output to another process since then ends here.

    Args:
        url: the prefix.
        sizes: the bytes of each object, where they are known; else they are asked for when they are needed.
    """

    def __init__(self, url: ObjectUrl, sizes: Mapping[str, int] | None = None) -> None:
        self._url = url
        self._sizes = sizes
        self._stamps: dict[str, ObjectStamp] = {}

    def __str__(self) -> str:
        return str(self._url)

    def read(self, name: str) -> bytes | None:
        """The content of an object; None where there is none."""
        url = self._url / name
        self._stamps.pop(name, None)
        with as_output_errors(ObjectChangedError, ObjectMissingError):
            while True:
                try:
                    stamp = objects.stat(url)
                    data = bytes(objects.read_range(url, stamp, 0, stamp.size))
                except ObjectMissingError:
                    return None
                except ObjectChangedError:
                    continue
                self._stamps[name] = stamp
                return data

    def folders(self, name: str) -> list[str]:
        """The names of arrays and groups in a group; stores may list folders too in which nothing is any more."""
        with as_output_errors():
            names = objects.list_folder(self._url / name if name else self._url)
        return [one for one in names if self.read(_joined(_joined(name, one), METADATA[0])) is not None]

    def replace(self, name: str, data: bytes, merged: StoreFiles) -> None:
        """Write an object in the place of the one that was read, or of none."""
        url, before = self._url / name, self._stamps.get(name)
        with as_output_errors(ObjectChangedError, ObjectExistsError, ObjectMissingError):
            try:
                self._stamps[name] = objects.put(url, data, replace=False, expected=before)
            except (ObjectChangedError, ObjectExistsError, ObjectMissingError):
                if self.read(name) != data:  # else it is our own, and the answer was lost
                    raise taken(self._url) from None

    def become(self, merged: StoreFiles) -> bool:
        """Objects come one after the other."""
        return False

    def take(self, merged: StoreFiles, names: Mapping[str, str], inner: str) -> int:
        """Copy chunks, a few at once; their bytes."""
        source, total, copies = object_url(str(merged)), 0, []
        for name, here in names.items():
            chunk = _joined(name, inner)
            if size := merged.bytes_of([name], inner):
                total += size
                copies.append(partial(objects.copy, source / chunk, self._url / _joined(here, inner)))
        with as_output_errors(ObjectMissingError):
            try:
                at_once(copies)
            except ObjectMissingError:  # by whom it is here already
                raise taken(self._url) from None
        return total

    def bytes_of(self, names: Iterable[str], inner: str) -> int:
        """Of chunks."""
        if self._sizes is None:
            with as_output_errors():
                skipped = len(self._url.key) + 1
                self._sizes = {url.key[skipped:]: stamp.size for url, stamp in objects.list_objects(self._url)}
        return sum(self._sizes.get(_joined(name, inner), 0) for name in names)

    def remove(self) -> None:
        """Delete all; what says that it is a store first."""
        with as_output_errors():
            delete_folder(self._url)


StoreFiles: TypeAlias = LocalFiles | ObjectFiles


def store_files(place: str, sizes: Mapping[str, int] | None = None) -> StoreFiles:
    """The files of the store that has this path or URL; `sizes` are of objects alone."""
    return ObjectFiles(object_url(place), sizes) if is_url(place) else LocalFiles(Path(place))


def _joined(name: str, inner: str) -> str:
    return "/".join(filter(None, (name, inner)))
