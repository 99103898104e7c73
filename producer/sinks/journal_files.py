r"""Where a journal's lines are: in a file that is locked, or in objects, of which each is written by one at a time.

    Journal --append: all of a line or none--> LocalJournalFile     OUT.journal, appended to
                                          \--> ObjectJournalFile    OUT.journal/00000, 00001, ...; the last one replaced

A journal of objects is beside the output in its store, so that any machine continues it. Stores have no locks: whoever
writes a line says which object gives way to it (its ETag, or none), so that of two who go on from one line, the first
goes on, and the other one ends with its next line.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import socket
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias, cast

from producer.sinks.output_place import place_of, taken
from tasks.outputs.temp_paths import not_continued, sync_folder
from tasks.storage import objects
from tasks.storage.objects import ObjectStamp
from tasks.transport.output_objects import as_output_errors
from worker_config.errors import (
    ObjectChangedError,
    ObjectExistsError,
    ObjectMissingError,
    OutputError,
    OutputInUseError,
)
from worker_config.object_urls import ObjectUrl, is_url, object_url

# A journal's last object is written anew with each line, until it is so large.
_OBJECT_BYTES = 256 * 2**10
_LOCK = "lock"


class LocalJournalFile:
    """A file, open and locked.

    Attributes:
        path: of the file.
        is_locked: whether nobody else can write it.
    """

    is_locked = True

    def __init__(self, output: Path, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            lock(output, self._descriptor)
        except BaseException:
            self.close()
            raise

    def read(self) -> bytes:
        """All of it."""
        return self.path.read_bytes()

    def cut(self, length: int) -> None:
        """Drop what is behind so many bytes."""
        os.ftruncate(self._descriptor, length)

    def append(self, line: bytes) -> None:
        """All of a line or none of it: half a line would make the next one unreadable."""
        end = os.fstat(self._descriptor).st_size
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
            os.fsync(self._descriptor)
        except BaseException:
            os.ftruncate(self._descriptor, end)
            raise
        if not end:
            sync_folder(self.path.parent)

    def close(self) -> None:
        """Unlock it, and leave it for the next run."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def remove(self) -> None:
        """Nothing is left to continue."""
        if self._descriptor >= 0:
            self.path.unlink(missing_ok=True)
        self.close()


class ObjectJournalFile:
    """Objects whose bytes, one after the other, are those of a journal. Its methods raise OutputError.

    Attributes:
        path: the URL beneath which they are.
        is_locked: whether nobody else can write it; else a line takes it from whoever wrote the line before.
    """

    is_locked = False

    def __init__(self, output: ObjectUrl, path: ObjectUrl) -> None:
        self.path = path
        self._output = output
        self._number, self._data = 0, b""
        self._stamp: ObjectStamp | None = None
        self._length, self._is_new, self._is_lost = 0, True, False

    def read(self) -> bytes:
        """All of them; what is appended then goes on from there."""
        whole = b""
        try:
            with as_output_errors(ObjectChangedError):
                found = {url for url, _ in objects.list_objects(self.path)}
                while (url := self._object(self._number)) in found:
                    self._stamp = objects.stat(url)
                    self._data = bytes(objects.read_range(url, self._stamp, 0, self._stamp.size))
                    self._number += 1
                    whole += self._data
        except ObjectChangedError:
            raise self._taken() from None
        self._number = max(0, self._number - 1)
        self._length, self._is_new = len(whole), not found
        return whole

    def cut(self, length: int) -> None:
        """Drop all; as there is never half a line, nothing else needs to be dropped."""
        if 0 < length < self._length:
            raise not_continued(self._output, f"{self.path} is damaged")
        if not length and not self._is_new:
            self._delete()

    def append(self, line: bytes) -> None:
        """All of a line or none of it, if nobody else has written meanwhile."""
        if self._is_lost:
            raise self._taken()
        is_full = len(self._data) >= _OBJECT_BYTES
        number = self._number + is_full
        data, stamp = (line, None) if is_full else (self._data + line, self._stamp)
        stamp = self._put(self._object(number), data, stamp)
        if is_full and not self._is_mine():
            with as_output_errors():
                objects.delete([self._object(number)])
            raise self._taken()
        self._number, self._data, self._stamp = number, data, stamp

    def close(self) -> None:
        """Nothing is held."""

    def remove(self) -> None:
        """Nothing is left to continue; what somebody else has begun is left alone."""
        if self._stamp:
            self._delete()

    def _put(self, url: ObjectUrl, data: bytes, expected: ObjectStamp | None) -> ObjectStamp:
        with as_output_errors():
            try:
                return objects.put(url, data, replace=False, expected=expected)
            except (ObjectChangedError, ObjectExistsError, ObjectMissingError) as error:
                if isinstance(error, ObjectMissingError) and not expected:
                    raise  # there is no bucket
            with suppress(ObjectChangedError, ObjectMissingError):  # the answer to an earlier try may have been lost
                stamp = objects.stat(url)
                if stamp.size == len(data) and objects.read_range(url, stamp, 0, stamp.size) == data:
                    return stamp
        raise self._taken()

    def _is_mine(self) -> bool:
        """Whether the last object that was written is still there: else somebody has begun anew."""
        with as_output_errors(), suppress(ObjectMissingError):
            return self._stamp is not None and objects.stat(self._object(self._number)).etag == self._stamp.etag
        return False

    def _delete(self) -> None:
        """The first one first: without it there is no journal."""
        with as_output_errors():
            objects.delete([self._object(0)])
            objects.delete([url for url, _ in objects.list_objects(self.path)])
        self._number, self._data, self._stamp = 0, b"", None

    def _object(self, number: int) -> ObjectUrl:
        return self.path / f"{number:05d}"

    def _taken(self) -> OutputInUseError:
        self._stamp, self._is_lost = None, True
        return taken(self._output)


class StagedJournalFile(ObjectJournalFile):
    """That of an output which is made in a folder of this machine, and is in the store when it is whole.

    The folder is locked, as a process that goes on would write the files of the one that still lives. What a run has
    left is in it under a name that the journal's first line has: what another run has left there is of no use.

    Raises:
        OutputInUseError: another process of this machine writes the output.
        OutputError: the folder is somebody else's.
    """

    def __init__(self, output: ObjectUrl, path: ObjectUrl) -> None:
        super().__init__(output, path)
        self._folder = _staging_folder(output)
        self._run = ""
        self._descriptor = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            lock(output, self._descriptor)
        except BaseException:
            self.close()
            raise

    @property
    def staging(self) -> Path:
        """Where the files of this run are, made if need be; those of others go."""
        for entry in self._folder.iterdir():
            if entry.name not in (self._run, _LOCK):
                shutil.rmtree(entry, ignore_errors=True)
        (folder := self._folder / self._run).mkdir(exist_ok=True)
        return folder

    def read(self) -> bytes:
        """All of it."""
        data = super().read()
        self._run = _name_of(data)
        return data

    def cut(self, length: int) -> None:
        """As of any; what stays is continued, which can be where the rows are."""
        if length and not (self._folder / self._run).is_dir():
            raise not_continued(
                self._output,
                f"its rows so far are on the machine where it began, and not in {self._folder} of "
                f"{socket.gethostname()}; continue it there",
            )
        super().cut(length)

    def append(self, line: bytes) -> None:
        """As of any."""
        super().append(line)
        self._run = self._run or _name_of(line)

    def close(self) -> None:
        """Unlock the folder, and leave it for the next run."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def remove(self) -> None:
        """Nothing is left to continue."""
        if self._stamp:
            place_of(cast("Path", self._output)).remove_working("")
        super().remove()
        if self._descriptor >= 0:
            shutil.rmtree(self._folder, ignore_errors=True)
        self.close()

    def _delete(self) -> None:
        super()._delete()
        self._run = ""


JournalFile: TypeAlias = LocalJournalFile | ObjectJournalFile


def open_journal_file(output: Path, path: Path, *, is_staged: bool) -> JournalFile:
    """The journal of an output, made where there is none; OutputInUseError where another process has locked it.

    With `is_staged` an output behind a URL is made on this machine.
    """
    if is_url(output):
        kind = StagedJournalFile if is_staged else ObjectJournalFile
        return kind(object_url(str(output)), object_url(str(path)))
    return LocalJournalFile(output, path)


def read_journal(output: Path, path: Path) -> bytes:
    """What a journal has, whoever writes it; nothing where there is none."""
    if is_url(output):
        return ObjectJournalFile(object_url(str(output)), object_url(str(path))).read()
    return path.read_bytes() if path.exists() else b""


def is_journal(path: Path) -> bool:
    """Whether there is a journal of this name."""
    if not is_url(path):
        return path.exists()
    with as_output_errors(ObjectMissingError), suppress(ObjectMissingError):
        objects.stat(object_url(str(path)) / f"{0:05d}")
        return True
    return False


def lock(path: Path | ObjectUrl, descriptor: int) -> None:
    """Lock an output by an open file beside it until that is closed; OutputInUseError if another process has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        in_use = not os.fstat(descriptor).st_nlink  # finished, and removed, since we opened it
    except BlockingIOError:
        in_use = True
    if in_use:
        raise OutputInUseError(f"{path}: another process is writing it; wait for that one, or choose another name")


def _staging_folder(output: ObjectUrl) -> Path:
    """Where an output is made, in the temporary folder, a folder of this user alone."""
    folder = Path(tempfile.gettempdir()) / f"celeriac-staging-{os.geteuid()}-{_name_of(str(output).encode())}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise OutputError(f"{output}: {folder} is not a folder of this user; remove it, or set TMPDIR to another place")
    return folder


def _name_of(data: bytes) -> str:
    """By the first line; empty of nothing."""
    line = data.partition(b"\n")[0]
    return hashlib.sha256(line).hexdigest()[:16] if line else ""
