"""What `celeriac predict` is asked for, and who does it.

options --> PredictRequest --> open_data, open_system --> one use case: predict_to_output, predict_failed_rows,
dry_run or leave_job
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from producer.cli.manifest import check_names, model_digests, not_independent
from producer.client import Client
from producer.embedded import local
from producer.outputs.open_input import open_input
from producer.outputs.output_run import HeldModels
from producer.outputs.run_options import RunOptions
from producer.outputs.sidecar_files import OutputLedger
from producer.sinks.journal import JsonValue
from producer.sources import BatchSource, Source
from tasks.protocol.messages import OnError
from worker_config.errors import NoWorkerError, UnknownModelError


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

    `held` are the models as the workers hold them or will; where no worker is up to tell, as of `done`, the ledger of
    an output.
    """

    request: PredictRequest
    client: Client | None
    held: HeldModels
    done: OutputLedger | None = None

    def start(self) -> AbstractContextManager[Client]:
        """The client; with it the embedded system ends."""
        if self.client:
            return nullcontext(self.client)
        request = self.request
        return local(request.manifest, request.workers or 2, request.models, quiet=request.run.quiet)


@contextmanager
def open_system(request: PredictRequest, done: OutputLedger | None = None) -> Iterator[System]:
    """Look for the models, with the workers or in the manifest; nothing is started yet.

    Of a job that may be `done`, by the ledger of its output, no worker is waited for.
    """
    with request.connect() if request.broker_url else nullcontext() as client:
        names, manifest = request.models, request.manifest
        if client is None:
            held = HeldModels(*model_digests(names, manifest), not_independent(names, manifest))
        elif done and done.models.keys() == set(names) and not _are_held(request):
            yield System(request, client, HeldModels(done.models, done.sources, names if done.chunk_rows else []), done)
            return
        else:
            held = HeldModels.of(client.describe(names))
        yield System(request, client, held)


def _are_held(request: PredictRequest) -> bool:
    """Whether a worker holds the models at this moment."""
    with Client(request.broker_url, worker_timeout_seconds=0) as client:
        try:
            client.describe(request.models)
        except (NoWorkerError, UnknownModelError):
            return False
    return True


def open_data(request: PredictRequest) -> tuple[Source | BatchSource, dict[str, JsonValue]]:
    """The data set, and what tells it from others; the models of an embedded system are looked for first."""
    if not request.broker_url:
        check_names(request.models, request.manifest)
    return open_input(request.input_path, request.input_options)
