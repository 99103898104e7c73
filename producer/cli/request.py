"""What `celeriac predict` is asked for, and who does it.

options --> PredictRequest --> open_input, open_system --> one use case: predict_to_output, predict_failed_rows,
dry_run or leave_job
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from producer.cli.manifest import check_names, model_digests, not_independent
from producer.client import Client
from producer.embedded import local
from producer.rows.kept import ROW, KeptColumns
from producer.scheduling.priority import Priority
from producer.sinks.journal import JsonValue
from producer.sources import BatchSource, Source, fingerprint, open_source
from tasks.protocol.codec import Array, Compression
from tasks.protocol.messages import OnError, OnNonfinite, StoreName
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


@dataclass(frozen=True)
class PredictRequest:
    """A data set through models, on the workers of a broker or of an embedded system.

    Attributes:
        models: their names.
        input_options: what `open_source` takes besides the path.
        workers: children of the embedded worker; None for two.
        on_error: None where it was left out.
        job: the name by which it is done once; None where it has none.
    """

    models: list[str]
    input_path: Path | str
    input_options: dict[str, Any]
    manifest: Path
    workers: int | None
    broker_url: str | None
    worker_timeout_seconds: float
    on_error: OnError | None
    run: RunOptions
    as_json: bool
    job: str | None = None

    def connect(self) -> Client:
        """A client of the broker."""
        return Client(self.broker_url, worker_timeout_seconds=self.worker_timeout_seconds)


@dataclass(frozen=True)
class System:
    """Who runs a request: the client of its broker, or an embedded system, which is started as late as can be.

    `digests` are the SHA-256 of each model, by name, as the workers hold it or will; `sources` those of the functions
    and files that belong to them.
    """

    request: PredictRequest
    client: Client | None
    digests: dict[str, str]
    sources: dict[str, str]

    def start(self) -> AbstractContextManager[Client]:
        """The client; with it the embedded system ends."""
        if self.client:
            return nullcontext(self.client)
        request = self.request
        return local(request.manifest, request.workers or 2, request.models, quiet=request.run.quiet)

    def not_independent(self) -> list[str]:
        """Those of the models of which the manifest says that their rows are not independent."""
        return not_independent(self.request.models, self.client, self.request.manifest)


@contextmanager
def open_system(request: PredictRequest) -> Iterator[System]:
    """Look for the models, with the workers or in the manifest; nothing is started yet."""
    with request.connect() if request.broker_url else nullcontext() as client:
        names = request.models
        yield System(request, client, *(_held(client, names) if client else model_digests(names, request.manifest)))


def _held(client: Client, names: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """As of `model_digests`, of workers that are up."""
    infos = client.describe(names)
    return {info.name: info.digest for info in infos}, dict(ChainMap(*(info.sources for info in infos)))


def open_input(request: PredictRequest) -> tuple[Source | BatchSource, dict[str, JsonValue]]:
    """The data set, and what tells it from others; the models of an embedded system are looked for first."""
    if not request.broker_url:
        check_names(request.models, request.manifest)
    seen = fingerprint(request.input_path)  # before it is opened, so that a change after this is never missed
    return open_source(request.input_path, **request.input_options), {**seen, **request.input_options}


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
