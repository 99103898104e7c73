"""The prefix of a store in which workers leave a job's outputs: objects written once, each whole or not there.

worker: PartsReply.folder, a URL --beneath a root?--> OutputObjects --put--> PartRef --answer--> producer: delete

What `OutputFolder` is to files. Formats are written to a file of this machine first, as they go back to its beginning.
As a store has no folders that could be gone, an object of the producer says that outputs are still wanted there, and
that this is the producer's store.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import xxhash

from tasks.protocol.seal import Parts
from tasks.storage import objects
from tasks.storage.background import at_once
from tasks.transport import run_folder
from worker_config.errors import ConfigError, ObjectChangedError, ObjectError, ObjectMissingError, OutputError
from worker_config.object_urls import ObjectUrl, is_beneath_any, is_url, object_url

# Before the name of a folder of this machine in which one file is made; those of children that were killed go later.
_PREFIX = "celeriac-output-"
# Formats whose file is a folder of files.
_FOLDERS = (".zarr",)
# The object that says so, and for how long a worker that has seen it does not look again.
WANTED = "wanted"
_SEEN_SECONDS = 10.0
_seen: dict[str, float] = {}


class OutputObjects:
    """The objects beneath one URL; made by `output_objects`. Its methods raise OutputError.

    Attributes:
        path: as it was asked for.
    """

    def __init__(self, url: ObjectUrl) -> None:
        self.path = str(url)
        self._url = url

    def write(self, name: str, parts: Parts) -> None:
        """Make an object of this content, given in parts; it is there when all of it is safe."""
        self._check_wanted()
        with as_output_errors():
            objects.put(self._url / name, b"".join(parts))

    def read(self, name: str, size: int, checksum: int) -> memoryview:
        """The content of an object, which has this size and XXH3-64."""
        try:
            with as_output_errors(ObjectChangedError):
                data = objects.read_whole(self._url / name, size)
            whole = xxhash.xxh3_64_intdigest(data) == checksum
        except ObjectChangedError:
            whole = False
        if not whole:
            raise OutputError(f"{self._url / name} is not as it was written; continue with --resume")
        return data

    @contextmanager
    def new_file(self, name: str) -> Iterator[Path]:
        """Where a library makes a file, which is the object of this name after a block that ends well.

        The files of a folder in place of one are objects beneath the name; those directly in it come last.
        """
        folder = run_folder.make(_PREFIX)
        try:
            yield (path := folder / name)
            self._check_wanted()
            with as_output_errors():
                if path.is_dir():
                    self._put_folder(name, path)
                else:
                    objects.put(self._url / name, path)
        finally:
            run_folder.remove(folder)

    def content(self, name: str) -> memoryview:
        """The content of an object of which nobody has said what it should be."""
        with as_output_errors():
            data = objects.read_now(self._url / name)
        if data is None:
            raise OutputError(f"{self._url / name} is gone")
        return memoryview(data)

    def claim(self, name: str, new: str) -> None:
        """Give an object another name, under which whoever has made it does not delete it any more."""
        with as_output_errors():
            objects.copy(self._url / name, self._url / new)
        self.remove([name])

    def remove(self, names: Iterable[str]) -> None:
        """Delete objects, if they are there and can be deleted without a wait."""
        with suppress(OutputError), as_output_errors():
            delete_all([self._url / name for name in names], waits=False)

    def _put_folder(self, name: str, folder: Path) -> None:
        files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        for is_top in (False, True):
            some = [file for file in files if (len(file.parts) == 1) == is_top]
            at_once([partial(objects.put, self._url / name / file.as_posix(), folder / file) for file in some])

    def is_wanted(self) -> bool:
        """Whether the producer still looks after them, as far as the store can tell."""
        try:
            with as_output_errors(ObjectMissingError):
                objects.stat(self._url / WANTED)
        except ObjectMissingError:
            return False
        return True

    def _check_wanted(self) -> None:
        """Raise OutputError for a message that comes after the end of its job, or from a producer of another store."""
        if time.monotonic() - _seen.get(self.path, -_SEEN_SECONDS) < _SEEN_SECONDS:
            return
        if not self.is_wanted():
            raise OutputError(f"{self.path} is not in this worker's store, or no more; give it the producer's endpoint")
        _seen.clear()  # nobody needs those of jobs before
        _seen[self.path] = time.monotonic()


def output_objects(path: str, roots: Sequence[object]) -> OutputObjects:
    """The objects beneath a URL, if that is beneath one of the roots; nothing is asked of the store.

    Raises:
        OutputError: it is not, or is no URL that is taken.
    """
    if not is_beneath_any(path, [root for root in roots if isinstance(root, str | ObjectUrl) and is_url(root)]):
        raise OutputError(f"{path} is not under a URL of CELERIAC_OUTPUT_ROOTS on this worker")
    return OutputObjects(object_url(path))


def delete_all(urls: Sequence[ObjectUrl], *, waits: bool = True) -> None:
    """Delete objects, of formats that have a folder in place of one all that is beneath the name."""
    objects.delete([url for url in urls if url.suffix not in _FOLDERS], waits=waits)
    for url in urls:
        if url.suffix in _FOLDERS:
            delete_folder(url, waits=waits)


def delete_folder(url: ObjectUrl, *, waits: bool = True) -> None:
    """Delete all that is beneath a URL, what is directly in it first: a folder without such is not whole any more."""
    found, depth = [one for one, _ in objects.list_objects(url)], url.key.count("/") + 1
    for is_top in (True, False):
        objects.delete([one for one in found if (one.key.count("/") == depth) == is_top], waits=waits)


@contextmanager
def as_output_errors(*but: type[ObjectError]) -> Iterator[None]:
    """What a store refuses is an error of the output, except for these."""
    try:
        yield
    except but:
        raise
    except (ObjectError, ConfigError) as error:
        raise OutputError(str(error)) from None
