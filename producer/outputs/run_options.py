"""How rows travel on their way into an output, and which columns of the data set stand there beside the predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from producer.rows.kept import ROW, KeptColumns
from producer.scheduling.priority import Priority
from producer.sources import BatchSource, Source
from tasks.protocol.codec import Array, Compression
from tasks.protocol.messages import OnNonfinite, StoreName
from worker_config.errors import UsageError

# A number of rows, or a share of them such as "5%"; None for any number.
MaxFailed: TypeAlias = int | str | None


@dataclass(frozen=True)
class RunOptions:
    """How rows travel and what those that fail, or are not finite, do; as in `Client.submit`. Quiet: no progress.

    `keep` are columns of the data set that are written beside the predictions; `part_mib` is the size of a file, where
    workers write several.
    """

    chunk_rows: int | None = None
    store: StoreName | None = None
    compression: Compression | None = None
    max_failed: MaxFailed = None
    on_nonfinite: OnNonfinite = "warn"
    priority: Priority | None = None
    quiet: bool = False
    keep: Sequence[str] = ()
    part_mib: int | None = None


def kept_columns(
    source: Source | BatchSource, run: RunOptions, models: Sequence[str], output: Path, numbers: Array | None = None
) -> KeptColumns | None:
    """What stands beside the predictions in `output`; None where that is nothing, or what the format has anyway.

    Raises:
        UsageError, InputError: as of `KeptColumns`; or the format has no place for it.
    """
    suffix = output.suffix.lower()
    if run.keep and suffix in (".npy", ".zarr"):
        raise UsageError(
            f"{output}: {suffix} has no place for columns beside the predictions; "
            "use .parquet, .feather, .csv, .jsonl or .npz"
        )
    names = [name for name in run.keep if name != ROW or suffix == ".npz"]
    kept = KeptColumns(source, names, models, numbers) if names else None
    if kept and suffix == ".npz":
        kept.fix_width()
    return kept
