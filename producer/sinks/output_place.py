"""Where an output that workers write is: in folders, or in a store of objects.

    OUT/            files under their final names, which come one after the other
    .OUT.part/TOKEN what workers have written; `name` gives it a final name in one step
    OUT.SUFFIX      what is told of the output

A store cannot rename: it copies an object to its final name, whole or not at all, and what it was copied from goes
later. A run that was killed between the two copies it once more. What the producer writes beside files of workers waits
for room on the disk as these do.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from tasks.outputs.temp_paths import OutputTarget, check_parent, sync_folder
from tasks.storage import objects
from tasks.transport.output_folder import no_space, open_output_folder
from tasks.transport.output_objects import WANTED, as_output_errors, delete_all
from worker_config.errors import ObjectMissingError, OutputError, OutputInUseError
from worker_config.files import is_full, write_whole
from worker_config.object_urls import ObjectUrl, is_url, object_url
from worker_config.retry_policy import LEAST_BACKOFF_SECONDS, REFUSED_WAIT_SECONDS, STORE_BACKOFF_SECONDS

logger: logging.Logger = logging.getLogger(__name__)


class LocalPlace:
    """Folders of this machine."""

    def __init__(self, path: Path) -> None:
        self._path, self._working = path, OutputTarget(path, None, "").temporary()
        self._made = False

    def folder(self, token: str) -> str:
        """Where workers write."""
        return str(self._working / token)

    def create(self, token: str) -> None:
        """Make the folders."""
        self._made |= not self._path.exists()
        self._path.mkdir(exist_ok=True)
        (self._working / token).mkdir(parents=True, exist_ok=True)
        sync_folder(self._working)
        sync_folder(self._path.parent)

    def written(self, token: str) -> dict[str, int]:
        """The bytes of each file that workers have written; FileNotFoundError where their folder is gone."""
        return {entry.name: entry.stat().st_size for entry in os.scandir(self._working / token)}

    def named(self) -> dict[str, int]:
        """The bytes of each file that has its name, or of whatever else is there."""
        if not self._path.exists():
            check_parent(self._path)
            return {}
        if not self._path.is_dir():
            raise OutputError(f"{self._path}: is a file; leave the / at the end out, or choose another name")
        return {entry.name: entry.stat().st_size for entry in os.scandir(self._path)}

    def name(self, token: str, name: str, final: str, size: int) -> None:
        """Give a file its final name."""
        (self._working / token / name).rename(self._path / final)

    def end_names(self, token: str, names: Sequence[str]) -> None:
        """All of these files have their final names."""
        sync_folder(self._path)

    def remove_named(self, finals: Sequence[str]) -> None:
        """Remove files, one after the other."""
        for final in finals:
            (self._path / final).unlink(missing_ok=True)
        sync_folder(self._path)

    def remove_written(self, token: str, names: Collection[str]) -> None:
        """Remove files that do not count, if they can be."""
        with suppress(OutputError), open_output_folder(self.folder(token), [self.folder(token)]) as folder:
            folder.remove(names)

    def write_beside(self, suffix: str, data: bytes) -> None:
        """Write a file beside the output, whole."""
        write_whole(self._path.with_name(self._path.name + suffix), data)

    def read_beside(self, suffix: str) -> bytes:
        """Such a file; OSError where there is none, or it cannot be read."""
        return self._path.with_name(self._path.name + suffix).read_bytes()

    def remove_beside(self, suffix: str) -> None:
        """Remove such a file, if there is one."""
        self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def remove_working(self, token: str) -> None:
        """Remove what workers have written."""
        for _ in range(3):  # a worker that is late may write into it meanwhile
            shutil.rmtree(self._working, ignore_errors=True)

    def unmake(self) -> None:
        """Remove the folder of the output, if it was made here and is empty."""
        if self._made:
            with suppress(OSError):
                self._path.rmdir()


class ObjectPlace:
    """Prefixes of a store; methods raise OutputError where it refuses, or does not answer."""

    def __init__(self, url: ObjectUrl) -> None:
        self._url, self._working = url, url.with_name(f".{url.name}.part")

    def folder(self, token: str) -> str:
        """Where workers write."""
        return str(self._working / token)

    def create(self, token: str) -> None:
        """Tell workers that outputs are wanted there."""
        with as_output_errors():
            objects.put(self._working / token / WANTED, b"by its producer")

    def written(self, token: str) -> dict[str, int]:
        """The bytes of each object that workers have written, or of all in a folder in place of one, if it is whole."""
        written, whole = defaultdict[str, int](int), set[str]()
        for name, size in _sizes(self._working / token).items():
            top, _, inside = name.partition("/")
            written[top] += size
            if "/" not in inside:  # see `delete_folder`
                whole.add(top)
        return {name: size for name, size in written.items() if name in whole - {WANTED}}

    def named(self) -> dict[str, int]:
        """The bytes of each object that has its name, or of whatever else is beneath it."""
        return _sizes(self._url)

    def name(self, token: str, name: str, final: str, size: int) -> None:
        """Give an object its final name; one that has it already, by somebody else who went on, is enough."""
        with as_output_errors():
            with suppress(ObjectMissingError):
                objects.copy(self._working / token / name, self._url / final)
            if objects.stat(self._url / final).size != size:
                raise OutputError(f"{self._url / final}: has not the {size} bytes that were written; use --resume")

    def end_names(self, token: str, names: Sequence[str]) -> None:
        """All of these objects have their final names."""
        with as_output_errors():
            objects.delete([self._working / token / name for name in names])

    def remove_named(self, finals: Sequence[str]) -> None:
        """Delete objects, one after the other."""
        with as_output_errors():
            for final in finals:
                objects.delete([self._url / final])

    def remove_written(self, token: str, names: Collection[str]) -> None:
        """Delete objects that do not count, if they can be."""
        with suppress(OutputError), as_output_errors():
            delete_all([self._working / token / name for name in names])

    def write_beside(self, suffix: str, data: bytes) -> None:
        """Write an object beside the output."""
        with as_output_errors():
            objects.put(self._url.with_name(self._url.name + suffix), data)

    def read_beside(self, suffix: str) -> bytes:
        """Such an object; FileNotFoundError where there is none."""
        url = self._url.with_name(self._url.name + suffix)
        with as_output_errors():
            data = objects.read_now(url)
        if data is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(url))
        return data

    def remove_beside(self, suffix: str) -> None:
        """Delete such an object, if there is one."""
        with as_output_errors():
            objects.delete([self._url.with_name(self._url.name + suffix)])

    def remove_working(self, token: str) -> None:
        """Delete what workers have written into the folder of this token; of any, if it is empty."""
        prefix = self._working / token if token else self._working
        with suppress(OutputError), as_output_errors():
            objects.delete([prefix / WANTED])
            objects.delete([url for url, _ in objects.list_objects(prefix)])

    def unmake(self) -> None:
        """Prefixes need not be removed."""


OutputPlace: TypeAlias = LocalPlace | ObjectPlace


def place_of(path: Path) -> OutputPlace:
    """Where an output is that has this name."""
    return ObjectPlace(object_url(str(path))) if is_url(path) else LocalPlace(path)


def taken(output: object) -> OutputInUseError:
    """Another process has gone on with an output behind a URL, which no lock keeps from it."""
    return OutputInUseError(f"{output}: another process writes it by now; let that one go on, or stop it")


def when_there_is_room(path: Path, write: Callable[[], None]) -> None:
    """Write once there is room beside `path`, with pauses that grow; `write` leaves nothing where it raises.

    Raises:
        OSError: there was none for long, or it is another one.
    """
    since, pause = time.monotonic(), LEAST_BACKOFF_SECONDS
    while True:
        try:
            write()
        except OSError as error:
            if not is_full(error) or time.monotonic() - since > REFUSED_WAIT_SECONDS:
                raise
            if pause == LEAST_BACKOFF_SECONDS:
                logger.warning("%s; waiting", no_space(path.parent))
            time.sleep(pause)
            pause = min(2 * pause, STORE_BACKOFF_SECONDS)
        else:
            return


def _sizes(prefix: ObjectUrl) -> dict[str, int]:
    with as_output_errors():
        skipped = len(prefix.key) + 1
        return {url.key[skipped:]: stamp.size for url, stamp in objects.list_objects(prefix)}
