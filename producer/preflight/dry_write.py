"""Whether an output can be written: one part of it, in a temporary folder, in the same format.

part --open_sink, write, commit--> a file elsewhere, gone again --> errors, bytes of a row
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from producer.rows.part import Part
from producer.sinks.opening import open_sink, output_path
from tasks.outputs.temp_paths import check_free, one_line_errors
from tasks.protocol.codec import leaves_of
from tasks.protocol.messages import FailureRecord
from worker_config.errors import OutputError
from worker_config.object_urls import is_url

# Of the whole output, what is on the disk at a time, where that is looked at before the first row is written.
_AT_A_TIME = {".npy": 1, ".npz": 2}


@dataclass(frozen=True)
class DryWrite:
    """What an output will take, about, None where nobody knows how many rows there are; and what its disk has free."""

    bytes: int | None
    free: int


def rehearse(path: Path, part: Part, rows: int | None, dropped: Mapping[str, FailureRecord]) -> DryWrite:
    """Write the first part of an output of `rows` rows, None where unknown, without the `dropped` models, to nowhere.

    Raises:
        OutputError: the format cannot hold such outputs, the folder cannot be written to, or the disk is too small.
    """
    path = output_path(path)
    # What goes to a store is made in the temporary folder, by whoever makes it.
    made_in = Path(tempfile.gettempdir()) if is_url(path) else path.parent
    with one_line_errors(path), tempfile.TemporaryFile(dir=made_in):
        pass
    with tempfile.TemporaryDirectory(prefix="celeriac-") as folder:
        elsewhere = Path(os.path.realpath(folder)) / path.name
        try:
            with open_sink(elsewhere, part.stop - part.start, force=False) as sink:
                for model, record in dropped.items():
                    sink.drop(model, record)
                sink.write(part)
                sink.commit()
        except OutputError as error:
            raise OutputError(str(error).replace(str(elsewhere), str(path))) from error
        written = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    free = shutil.disk_usage(made_in).free
    if rows is None or not part.rows:
        return DryWrite(None if rows is None else written, free)
    needed = round(rows * _row_bytes(part, written, path.suffix.lower()))
    if times := _AT_A_TIME.get(path.suffix.lower()):
        check_free(path, times * needed, made_in)
    return DryWrite(needed, free)


def _row_bytes(part: Part, written: int, suffix: str) -> float:
    """Of what is packed nobody knows before how small it becomes: as it is in memory, but for text."""
    arrays = [array for _, array in leaves_of(part.outputs) if isinstance(array, np.ndarray)]
    as_text = suffix in (".jsonl", ".csv") or any(array.dtype.hasobject for array in arrays)
    return (written if as_text else sum(array.nbytes for array in arrays)) / part.rows
