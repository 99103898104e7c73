"""The folder in which workers leave a job's outputs: files written once, each under a name that nobody else takes.

worker: PartsReply.folder --under a root?--> OutputFolder --write, to the disk--> PartRef --answer--> producer: remove

The one place that creates, reads and removes such files, or `output_objects.py` where the folder is a URL. It needs no
rename and no common listing: a file counts since an answer, or the producer's journal, names it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import xxhash

from tasks.protocol.seal import Parts
from tasks.transport.file_slices import open_folder
from tasks.transport.output_objects import OutputObjects, output_objects
from worker_config.errors import NoSpaceError, OutputError
from worker_config.files import Root, is_full, split_root
from worker_config.object_urls import is_url

# The system takes no more parts of one write.
_PARTS_AT_ONCE = 512
# By which the files of an open folder can be named, whatever becomes of the way to it.
_OPEN_FILES = Path("/proc/self/fd")


class OutputFolder:
    """One folder, held open; made by `open_output_folder`. Its methods raise OutputError.

    Attributes:
        path: as it was asked for.
    """

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def write(self, name: str, parts: Parts) -> None:
        """Make a file of this content, given in parts, and bring it and its name to the disk."""
        with self._telling(name):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(name, flags, 0o666, dir_fd=self._descriptor)
            try:
                _write_all(fd, parts)
                os.fsync(fd)
            except OSError:
                self.remove([name])
                raise
            finally:
                os.close(fd)
            os.fsync(self._descriptor)

    def read(self, name: str, size: int, checksum: int) -> memoryview:
        """The content of a file, which has this size and XXH3-64; in memory of its own."""
        data = np.empty(size, np.uint8).data  # unlike other memory, not cleared first
        with self._telling(name), self._opened(name) as fd:
            done = 0
            while done < size and (more := os.preadv(fd, [data[done:]], done)):
                done += more
            whole = done == size == os.fstat(fd).st_size
        if not whole or xxhash.xxh3_64_intdigest(data) != checksum:
            raise OutputError(f"{self.path}/{name} is not as it was written; continue with --resume")
        return data

    def content(self, name: str) -> memoryview:
        """The content of a file of which nobody has said what it should be."""
        with self._telling(name), self._opened(name) as fd, os.fdopen(os.dup(fd), "rb") as file:
            return memoryview(file.read())

    def claim(self, name: str, new: str) -> None:
        """Give a file another name, under which whoever has made it does not remove it any more."""
        with self._telling(name):
            os.rename(name, new, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
            os.fsync(self._descriptor)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, or folders that a format has in place of one, if they are there and can be."""
        for name in names:
            with suppress(OSError):
                try:
                    os.unlink(name, dir_fd=self._descriptor)
                except IsADirectoryError:
                    shutil.rmtree(name, dir_fd=self._descriptor)

    def is_wanted(self) -> bool:
        """Whether the producer still looks after it: one that is there is."""
        return True

    @contextmanager
    def new_file(self, name: str) -> Iterator[Path]:
        """By which a library can make a file of this folder, and of no other that has come to its place.

        After a block that ends well, its name is on the disk.
        """
        folder = _OPEN_FILES / str(self._descriptor)
        yield (folder if folder.exists() else Path(self.path)) / name
        with self._telling(name):
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)

    @contextmanager
    def _opened(self, name: str) -> Iterator[int]:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._descriptor)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def _telling(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise cannot_write(self.path if is_full(error) else f"{self.path}/{name}", error) from error


@contextmanager
def open_output_folder(path: str, roots: Sequence[Root]) -> Iterator[OutputFolder | OutputObjects]:
    """Open a folder that the producer has made, or a URL, if it is under one of the roots.

    Raises:
        OutputError: it is not, or is not there.
    """
    if is_url(path):
        yield output_objects(path, roots)
        return
    place = split_root(path, roots)
    if place is None:
        raise OutputError(f"{path} is not under a folder of CELERIAC_OUTPUT_ROOTS on this worker")
    try:
        descriptor = open_folder(*place, listed=True)
    except FileNotFoundError as error:
        raise OutputError(f"{path} is not on this worker: let it share the folder with the producer") from error
    except OSError as error:
        raise cannot_write(path, error) from error
    folder = OutputFolder(path, descriptor)
    try:
        yield folder
    finally:
        folder.close()


def forget_files(path: str, names: Sequence[str], roots: Sequence[Root], *, is_sure: bool = True) -> None:
    """Remove files that do not count, if they are there and can be removed.

    Those of which that is not sure are left to the producer, which removes the whole folder at its end.
    """
    with suppress(OutputError), open_output_folder(path, roots) as folder:
        if is_sure or not folder.is_wanted():
            folder.remove(names)


def attempt_name(*numbers: int, suffix: str) -> str:
    """A name that no other attempt has, as `PartRef` wants it."""
    return f"{'-'.join(map(str, numbers))}-{secrets.token_hex(8)}{suffix}"


def cannot_write(path: object, error: OSError) -> OutputError:
    """What a disk refuses, in one line; a NoSpaceError where it is full."""
    if is_full(error):
        return no_space(path)
    why = error.strerror or str(error)
    return OutputError(f"{path}: cannot be written: {why}; check the folder, the disk and its limits")


def no_space(path: object) -> NoSpaceError:
    """What to say of a disk that is full."""
    return NoSpaceError(f"no space left on {socket.gethostname()} under {path}")


def _write_all(fd: int, parts: Parts) -> None:
    left = [memoryview(part).cast("B") for part in parts if len(part)]
    while left:
        written = os.writev(fd, left[:_PARTS_AT_ONCE])
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if written:
            left[0] = left[0][written:]
