"""Outputs that workers write: a system that may write them, its models, rows that fail or are dropped, and a run.

What the outputs are held against is in `tests.output_sets`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from producer import Client
from producer.outputs.predict_to_sink import ending, predict_to_sink
from producer.outputs.run_options import RunOptions, kept_columns
from producer.outputs.summary import Summary
from producer.rows.part import Part
from producer.sinks import JournalHead, Sink, open_sink
from producer.sources import open_source
from tasks.protocol.messages import OnError
from tests.manifests import write_manifest
from tests.systems import System, serving
from tests.waiting import wait_until
from worker_config.errors import OutputError

ROWS = 3_000
CHUNK_ROWS = 256
# Rows of which column 0 is so, do so.
RAISES, DROPPED = 1, 2

STEPS = """
import ml_dtypes
import numpy as np


def meet(rows):
    if (rows[:, 0] == 1).any():
        raise ValueError("a bad row")
    return [None if row[0] == 2 else row for row in rows]


def all_kinds(rows):
    rows = np.asarray(rows)
    return {
        "double": rows * 2,
        "matrix": rows[:, :6].reshape(-1, 2, 3).astype(np.int16),
        "text": np.array([f"row {row[1]:.0f}" for row in rows], object),
        "narrow": rows[:, 1].astype(ml_dtypes.bfloat16),
        "flag": rows[:, 1] > 5,
    }


def one(rows):
    return np.asarray(rows)[:, 1:4].copy()


def bytes_of(rows):
    return np.array([b"\\x00\\xff" * int(row[1] % 3) for row in rows], object)


def unwritable(rows):
    return np.asarray(rows).astype(np.complex64)
"""


def stepped(*names: str, **more: Any) -> dict[str, Any]:
    """Manifest entries of models in `steps.py`, whose `meet` fails or drops rows before them."""
    options = {"batch_rows": 64, "preprocess": "steps:meet", "drops_rows": True, **more}
    return {name: {"path": f"steps:{name}", **options} for name in names}


@contextmanager
def writing(
    folder: Path, entries: Mapping[str, Any], steps: str = STEPS, environ: Mapping[str, str] | None = None
) -> Iterator[System]:
    """A system whose worker may write beneath `out`, unless the environment names another root."""
    (folder / "steps.py").write_text(steps)
    (folder / "out").mkdir()
    roots = {"CELERIAC_OUTPUT_ROOTS": str(folder / "out")}
    with serving(folder, write_manifest(folder, entries), environ={**roots, **(environ or {})}) as system:
        yield system


def rows_with(raising: Any = (), dropped: Any = (), rows: int = ROWS) -> np.ndarray:
    data = np.random.default_rng(5).random((rows, 8)).astype(np.float32) * 10
    data[:, 0] = 0
    data[list(raising), 0] = RAISES
    data[list(dropped), 0] = DROPPED
    return data


def predict(
    client: Client,
    model: str,
    data: Any,
    output: Path | str,
    *,
    on_error: OnError = "raise",
    in_parts: bool = True,
    part_bytes: int = 40_000,
    keep: Sequence[str] = (),
    **opening: Any,
) -> Summary:
    source = open_source(data)
    head = JournalHead(source={"name": "data"}, models=client.digests([model]), on_error=on_error, keep=keep)
    sink = open_sink(output, source.rows, opening.pop("force", False), journal=head, in_parts=in_parts, **opening)
    if sink.folder:
        sink.folder.part_bytes = part_bytes
    run = RunOptions(chunk_rows=CHUNK_ROWS, quiet=True, keep=keep)
    with ending(sink):
        kept = kept_columns(source, run, [model], sink.path)
        return predict_to_sink(client, [model], source, sink, head, run, kept)


write_part = Sink.write


def stops(sink: Sink, part: Part) -> None:
    """In the place of `Sink.write`: about two thirds of the rows, then an end when the first of the files is there."""
    folder = sink.folder
    if part.stop > 2_000 and folder:
        if folder.part_bytes < 10**6:
            wait_until(lambda: folder.sync() or folder.files, "a file is merged")
        raise OutputError("stopped")
    write_part(sink, part)
