"""One object as an output: made as a file of this machine, and sent when it is whole.

rows --Writer--> STAGING/RUN/.OUT.part --put beside the output, then under its name if nobody has that--> the object

The staging folder is in the temporary folder, one for each output (`journal_files.py`).
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from producer.sinks.output_place import place_of
from tasks.outputs.temp_paths import OutputTarget
from tasks.storage import objects
from tasks.transport.output_objects import as_output_errors
from worker_config.errors import ObjectChangedError, ObjectExistsError, ObjectMissingError, OutputError
from worker_config.object_urls import ObjectUrl, object_url


@dataclass(frozen=True, slots=True)
class ObjectTarget(OutputTarget):
    """The URL of an object, and a folder of this machine.

    Attributes:
        staging: the folder of the temporary files.
    """

    staging: Path = Path()

    @property
    def folder(self) -> Path:
        """Not beside it."""
        return self.staging

    @property
    def described(self) -> str:
        """Whose disk it is."""
        return f"{self.path}, which is made in {self.staging},"

    def placed(self, name: str) -> Path:
        """In that folder."""
        return self.staging / name

    def is_there(self) -> bool:
        """Whether there is such an object, or others beneath it."""
        return self._has(self._url) or bool(place_of(self.path).named())

    def check_replaceable(self) -> None:
        """An object, which may have any content."""
        if place_of(self.path).named():
            raise OutputError(f"{self.path}: is a folder of objects; end the name with a /, or choose another one")

    def publish(self, file: Path, suffix: str = "") -> None:
        """Send a file, if nobody else has the name of the output by now; again from anywhere."""
        if self.replaces:
            with as_output_errors():
                objects.put(self._beside(suffix), file)
        elif not suffix:
            self._put_new(file)
        elif self._has(self._url):
            raise self._exists()
        else:
            with as_output_errors():
                objects.put(self._beside(suffix), file)

    def clear(self) -> None:
        """Remove the folder, if nobody continues what is in it."""
        if not self.journalled:
            shutil.rmtree(self.staging, ignore_errors=True)

    @property
    def _url(self) -> ObjectUrl:
        return object_url(str(self.path))

    def _beside(self, suffix: str) -> ObjectUrl:
        return self._url.with_name(self._url.name + suffix)

    def _put_new(self, file: Path) -> None:
        with as_output_errors(ObjectExistsError, ObjectChangedError):
            try:
                objects.put_new(self._url, file, self._url.with_name(f".{self._url.name}.part") / self.staging.name)
            except (ObjectExistsError, ObjectChangedError):
                if not _is_same(self._url, file):  # else the answer to an earlier try was lost
                    raise self._exists() from None

    def _exists(self) -> OutputError:
        return OutputError(
            f"{self.path}: another object has come to its place meanwhile; replace that with --resume --force, or "
            "delete it and go on with --resume"
        )

    @staticmethod
    def _has(url: ObjectUrl) -> bool:
        try:
            with as_output_errors(ObjectMissingError):
                objects.stat(url)
        except ObjectMissingError as error:
            if "no bucket" in str(error):
                raise OutputError(str(error)) from None
            return False
        return True


def _is_same(url: ObjectUrl, file: Path) -> bool:
    stamp = objects.stat(url)
    if stamp.size != file.stat().st_size:
        return False
    with file.open("rb") as stream:
        for start in range(0, stamp.size, objects.PIECE_BYTES):
            data = stream.read(objects.PIECE_BYTES)
            if objects.read_range(url, stamp, start, start + len(data)) != data:
                return False
    return True
