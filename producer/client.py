"""The front door for Python: connect to a Redis, submit data sets, take predictions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Literal, Unpack, overload

from producer.broker.shard_clients import for_each
from producer.detached.detached_job import DetachedJob
from producer.detached.named import find_left
from producer.detached.submit import check_can_be_left, leave
from producer.job.chunk_feeds import Feed
from producer.job.factory import make_job, make_spec, rows_of, stream_of
from producer.job.job import Job
from producer.outputs.predict_to import OutputClient
from producer.preflight.preflight import Preflight, try_out
from producer.records.job_names import find_named
from producer.requests.by_job import outputs_by_job
from producer.requests.find_models import ModelFinder
from producer.requests.forks import close_at_exit, tell_of_forks
from producer.requests.request_client import RequestClients
from producer.requests.small import NeedsJobError, failing_of, is_request
from producer.rows.part import OutputTree
from producer.rows.returned import Form, Frame, Returns
from producer.rows.source import BatchSource, Source, frame_of
from producer.scheduling.admission import ModelNames, check_first_row, check_names
from producer.scheduling.chunk_sizer import CHUNK_SECONDS, ChunkSizer
from producer.scheduling.error_budget import make_policy
from producer.scheduling.job_options import (
    MAX_WAITING_BYTES,
    DetachOptions,
    JobOptions,
    JobSpec,
    PredictOptions,
    SubmitOptions,
)
from producer.scheduling.priority import Priority
from producer.sources import open_source
from producer.sources.choose import for_models
from tasks.protocol.codec import Compression
from tasks.protocol.messages import OnError, OnNonfinite, StoreName
from tasks.protocol.records import ModelInfo
from tasks.protocol.rights import PRODUCER
from tasks.protocol.seal import Sealer
from tasks.transport.rights import check_rights
from worker_config.broker import check_broker_url
from worker_config.errors import ConfigError
from worker_config.retry_policy import WORKER_TIMEOUT_SECONDS
from worker_config.settings import Settings
from worker_config.telemetry import tracing


class Client(OutputClient):
    """A producer: sends data sets to the workers on one Redis, and joins what comes back.

    Args:
        broker_url: `redis://HOST:PORT/DB`, `rediss://...`, `unix:///PATH` or `sentinel://HOST:PORT,HOST:PORT/NAME/DB`,
            or those of several shards with commas between them; `CELERIAC_BROKER_URL` if left out.
        worker_timeout_seconds: how long to wait for a worker, where none is up; while one prepares the models, longer;
            and for Redis, where it is away when a job or a request begins.
        settings: all other settings; from the environment if left out.
        watch: is asked while something is waited for; raises if it will not come, as the system has ended.

    Raises:
        ConfigError: no broker was given, or not a Redis URL.
        BrokerError: Redis cannot be reached, or refuses what a producer needs.
    """

    def __init__(
        self,
        broker_url: str | None = None,
        *,
        worker_timeout_seconds: float = WORKER_TIMEOUT_SECONDS,
        settings: Settings | None = None,
        watch: Callable[[], None] = lambda: None,
    ) -> None:
        settings = settings or Settings.from_env()
        url = check_broker_url(broker_url, "broker_url") if broker_url else settings.broker_url
        if not url:
            raise ConfigError(
                "no broker; give Client a URL or set CELERIAC_BROKER_URL, for example to redis://HOST:6379/0; "
                "producer.local() needs none"
            )
        self.broker_url: str = url
        self._settings = replace(settings, broker_url=url)
        self._worker_timeout_seconds, self._watch = worker_timeout_seconds, watch
        self._find = ModelFinder(self._settings, worker_timeout_seconds, watch)
        self._requests = RequestClients(url, Sealer(settings.signing_key), self._find)
        self._jobs: dict[str, Job] = {}  # that run; each leaves at its end, so that its outputs go with who holds it
        tracing.start(settings.trace_exporters)  # before our own end is registered, so that it ends after it
        for_each(url, lambda one: check_rights(one, PRODUCER))
        tell_of_forks(self)
        self._end_before_exit = close_at_exit(self)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel the jobs that still run, and wait until nothing of them is left; what is asked later connects anew."""
        self._find.close()
        self._end_before_exit()
        self._requests.close()
        for job in (jobs := list(self._jobs.values())):
            job.cancel()
        for job in jobs:
            job.wait(timeout_seconds=5.0)

    @overload
    def predict(
        self, models: ModelNames, data: Frame, *, returns: Literal["frame"], **options: Unpack[PredictOptions]
    ) -> Frame: ...

    @overload
    def predict(
        self, models: ModelNames, data: object, *, returns: Literal["arrays"] = ..., **options: Unpack[PredictOptions]
    ) -> OutputTree: ...

    def predict(
        self,
        models: ModelNames,
        data: object,
        *,
        keep: str | Sequence[str] = (),
        returns: Returns = "arrays",
        timeout_seconds: float | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Any:
        """Predictions for all rows of `data`; see `submit` and `Job.result`: a model that fails alone is not in it.

        Args:
            models, data, options: as for `submit`.
            keep: columns of `data`, which can be read twice, that are given beside the outputs of their rows, in a dict
                then; "row" is the number of each row, "path" that of a file in a folder.
            returns: "frame" gives a DataFrame of pandas or polars, or a Table of Arrow, back with the predictions as
                more columns; rows that have none are left out, and an index stays.
            timeout_seconds: after which it is given up; what has not begun by then is not run.

        Rows in memory that fit into one batch are a request, no job: one message out, one answer back, in a batch with
        what others ask for at the same time.

        Raises:
            RequestTimeoutError, BusyError: the time was up; too many requests wait for the workers of this model.
        """
        until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        source, names = open_source(data), check_names(models)
        form = Form(returns, frame_of(source), keep)
        if not keep and is_request(data, options):
            with suppress(NeedsJobError):
                return self._requests.predict(names, source, make_policy(**failing_of(options)), until, form)
        if until is not None:
            self._find(names, until)  # a wait that `submit` would not end
        return outputs_by_job(partial(self.submit, names, source, **options), names, source, keep, until, form)

    @overload
    def submit(
        self, models: ModelNames, data: object, *, detach: Literal[False] = False, **options: Unpack[SubmitOptions]
    ) -> Job: ...

    @overload
    def submit(
        self, models: ModelNames, data: object, *, detach: Literal[True], **options: Unpack[DetachOptions]
    ) -> str: ...

    def submit(
        self,
        models: ModelNames,
        data: object,
        *,
        chunk_rows: int | None = None,
        chunk_seconds: float = CHUNK_SECONDS,
        store: StoreName | None = None,
        compression: Compression | None = None,
        first_row: int = 0,
        fail_together: bool = False,
        on_error: OnError = "raise",
        max_failed: int | str | None = None,
        on_nonfinite: OnNonfinite = "warn",
        ordered: bool = True,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
        priority: Priority | None = None,
        detach: bool = False,
        ttl_seconds: int | None = None,
        job: str | None = None,
    ) -> Job | str:
        """Begin a job and return at once; or, detached, put all of it into the system and return its id.

        Args:
            models: a model's name, or several; each chunk travels once and runs through all of them.
            data: an array with the rows on the first axis; a dict of arrays by input name, or a tuple in the order of
                the inputs; a DataFrame or a table of Arrow, whose columns are matched to inputs by name; an iterator
                over rows; a `tf.data.Dataset`; the path of a file, a folder or a pattern; or what a function of
                `producer.sources` gives.
            chunk_rows: rows of one chunk; measured if left out, or one batch where `independent_rows` is false.
            chunk_seconds: what a chunk shall take in a worker: longer ones cost less in all, shorter ones come sooner.
            store: "redis", "files" (spool folder) or "slices" (of the data's own file); the fastest one if left out.
            compression: "lz4" or "zstd" for payloads both ways; none if left out.
            first_row: rows before it are left out, for a job that continues another; parts still count from the
                data set's first row, and the ledger takes the rows before for predicted and written.
            fail_together: of several models, whether one that fails ends the job; else it is left out from then on, and
                the others go on.
            on_error: what a row that fails does: it ends the job; with "skip" it is left out of the outputs, with
                "fill" a filler stands in its place: NaN, -1 (signed integers), the largest value (unsigned ones),
                False, or an empty text. `Job.failed_mask` tells where, `Job.failures` which and why. A row fails if any
                of the models fails on it, if one's input cannot hold a value of it, or if it kills the child that runs
                it.
            max_failed: how many rows may fail, or what share of all, as "5%", before that ends the job; else any number
                but all.
            on_nonfinite: what a row does of which a model takes or gives a NaN or an infinity: it counts in the ledger
                (`nonfinite_inputs`, `nonfinite_outputs`), and with "warn" the end of the job logs how many there were;
                with "fail" it has failed, at the stage where that was seen.
            ordered: whether parts come in the data set's order; else as their chunks are answered, each once.
            max_waiting_bytes: of parts that are not taken; while more wait, no more chunks are sent.
            priority: "interactive", "normal", "bulk" or a weight against other jobs; "normal", or "bulk" if detached.
            detach: the job needs this process no more: `attach` has its outputs, anywhere. They must fit Redis and
                `CELERIAC_DETACHED_MIB`, as must rows that workers do not read in slices. `local` ends with it.
            ttl_seconds: how long Redis keeps a detached job after its last answer and the last time that somebody
                waited for it; at least 60, `CELERIAC_JOB_TTL_SECONDS` if left out.
            job: of a detached job its name, by which it is left once: where it runs, or is done, its id is returned.

        Raises:
            InputError: the data set cannot be read, or does not fit the models.
            UsageError: workers do not reach the store; `first_row` is no row of the data set, nor its end; an option is
                out of bounds; or the job is too large to be left, or its name is that of other work.
            ConfigError: the compression is not installed.
            UnknownModelError, NoWorkerError: no worker holds the models.
            BrokerError: Redis cannot be reached.
        """
        names = check_names(models)
        options = JobOptions(
            chunk_rows=chunk_rows,
            chunk_seconds=chunk_seconds,
            store=store,
            compression=compression,
            first_row=first_row,
            fail_together=fail_together,
            policy=make_policy(on_error, max_failed, on_nonfinite),
            ordered=ordered,
            max_waiting_bytes=max_waiting_bytes,
            priority=priority,
            detach=detach,
            ttl_seconds=ttl_seconds,
            job=job,
        )
        if detach and job and (left := find_left(self._settings, job, data, names)):
            return left
        source = open_source(data)
        return self._leave_job(names, source, options, data) if detach else self._begin_job(names, source, options)

    def describe(self, models: ModelNames) -> list[ModelInfo]:
        """What is known of the models, in the versions that a job would get now; raises as `submit` does."""
        return self._find(check_names(models))[0]

    def try_out(self, models: ModelNames, data: object, options: JobOptions | None = None) -> Preflight:
        """Send the first batch of `data` through every stage, and forecast the whole job; nothing of it stays.

        All is as for `submit`, with its defaults where `options` is left out.

        Raises:
            CeleriacError: whatever `submit` raises, or the job ends with at its first chunk.
        """
        names, options = check_names(models), options or JobOptions()
        source = open_source(data)
        infos, slots = self._find(names)
        source = for_models(source, infos)
        check_can_be_left(infos, options)
        return try_out(self._settings, source, infos, slots, options, self._start)

    def digests(self, models: ModelNames) -> dict[str, str]:
        """The SHA-256 of each model's files by name, in the versions that a job would get now; raises as `describe`."""
        return {info.name: info.digest for info in self.describe(models)}

    def find(self, name: str) -> str | None:
        """The id of the detached job that was submitted by this name; None where there is none, or it has expired."""
        return find_named(self.broker_url, name)

    def attach(self, job_id: str) -> DetachedJob:
        """A job that was submitted with `detach`, by its name or the beginning of its id.

        Raises:
            UnknownJobError: there is no such job, or it has expired.
            UsageError: it was not detached.
            BrokerError: Redis cannot be reached.
        """
        return DetachedJob(self._settings, job_id, self._worker_timeout_seconds, self._watch)

    def stream(
        self,
        models: ModelNames,
        rows: Iterable[Any],
        *,
        chunk_rows: int | None = None,
        max_delay: float = 0.05,
        on_nonfinite: OnNonfinite = "warn",
        max_waiting_bytes: int = MAX_WAITING_BYTES,
    ) -> Iterator[Any]:
        """Predictions for the rows of an iterable that may never end: one for each row, in order.

        Args:
            models, on_nonfinite, max_waiting_bytes: as for `submit`; what fails, ends the stream.
            rows: single rows: arrays, or dicts or tuples of arrays for several inputs.
            chunk_rows: rows of a full chunk; the model's batch if left out.
            max_delay: seconds after which a chunk leaves that is not full.

        Closing the iterator cancels what is in flight. Of a model with `independent_rows = false` it is a UsageError.
        """
        options = JobOptions(policy=make_policy("raise", None, on_nonfinite), max_waiting_bytes=max_waiting_bytes)
        yield from self._begin_stream(check_names(models), rows, chunk_rows, max_delay, options).rows()

    def _begin_stream(
        self, names: list[str], rows: Iterable[Any], chunk_rows: int | None, max_delay: float, options: JobOptions
    ) -> Job:
        infos, slots = self._find(names)
        return self._start(*stream_of(self._settings, rows, infos, slots, options, chunk_rows, max_delay))

    def _begin_job(self, models: list[str], source: Source | BatchSource, options: JobOptions) -> Job:
        spec, source = self._spec_of(models, source, options)
        return self._start(spec, *rows_of(spec, source))

    def _leave_job(self, models: list[str], source: Source | BatchSource, options: JobOptions, data: object) -> str:
        spec, source = self._spec_of(models, source, options)
        return leave(self._settings_of(options), source, spec, data)

    def _spec_of(
        self, names: list[str], source: Source | BatchSource, options: JobOptions
    ) -> tuple[JobSpec, Source | BatchSource]:
        check_first_row(options.first_row, source)
        infos, slots = self._find(names)
        check_can_be_left(infos, options)
        return make_spec(self._settings_of(options), for_models(source, infos), infos, slots, options, source)

    def _settings_of(self, options: JobOptions) -> Settings:
        """Of a detached job without a spool folder, which nobody would tidy."""
        return replace(self._settings, spool=None) if options.detach else self._settings

    def after_fork(self) -> None:
        """In a process that was forked, jobs are the parent's."""
        self._jobs = {}

    def _start(self, spec: JobSpec, feed: Feed, chunk_sizer: ChunkSizer) -> Job:
        job = make_job(self._settings, spec, feed, chunk_sizer, self._worker_timeout_seconds, self._watch)
        self._jobs[job.id] = job
        job.start(lambda: self._jobs.pop(job.id, None))  # which keeps this client until then
        return job
