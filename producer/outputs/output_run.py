"""A data set through models into one output, whoever asks for it: the command line or a program.

OutputRun --check--> what can be refused at once is --open_sink--> a sink, begun or continued --a job--> the output
"""

from __future__ import annotations

import logging
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from producer.job.job import Job
from producer.outputs.only_failed import Finished, predict_failed
from producer.outputs.predict_to_sink import JobClient, ending, finish, predict_to_sink
from producer.outputs.run_options import RunOptions, kept_columns
from producer.outputs.summary import Summary
from producer.rows.kept import KeptColumns
from producer.sinks import JournalHead, check_output, open_sink
from producer.sinks.journal import JsonValue
from producer.sources import BatchSource, Source
from tasks.protocol.messages import OnError
from tasks.protocol.records import ModelInfo
from worker_config.errors import OutputError, UsageError

logger: logging.Logger = logging.getLogger(__name__)

# Gives who does jobs, until the end of the block.
Start: TypeAlias = Callable[[], AbstractContextManager[JobClient]]


@dataclass(frozen=True)
class HeldModels:
    """Models in the versions that a job would get now.

    Attributes:
        digests: the SHA-256 of each model, by name.
        sources: that of each function, module and file that belongs to them.
        dependent: those whose rows are not independent.
    """

    digests: Mapping[str, str]
    sources: Mapping[str, str]
    dependent: Sequence[str]

    @classmethod
    def of(cls, infos: Sequence[ModelInfo]) -> HeldModels:
        """As workers that are up hold them."""
        return cls(
            {info.name: info.digest for info in infos},
            dict(ChainMap(*(info.sources for info in infos))),
            [info.name for info in infos if not info.independent_rows],
        )


@dataclass(frozen=True)
class OutputRun:
    """What is to be written, and how.

    Attributes:
        models: their names.
        source: the data set.
        described: what tells it from others, and from itself after a change.
        output: a file; or, with `in_parts`, a folder whose files workers write.
        on_error: what becomes of rows that fail; None for "raise", or, of an output that is mended, what it was.
        options: how rows travel.
        resume: continue what an earlier run has left, if it has left anything.
        accept_changes: also where the data set or a model has changed.
        force: replace an output that exists, or what an earlier run has left.
        can_resume: whether another run can continue this one; else one that does not end well leaves nothing.

    Raises:
        OutputError: the format has no place for the outputs of several models.
    """

    models: list[str]
    source: Source | BatchSource
    described: Mapping[str, JsonValue]
    output: Path
    in_parts: bool
    on_error: OnError | None
    options: RunOptions
    resume: bool = False
    accept_changes: bool = False
    force: bool = False
    can_resume: bool = True

    def __post_init__(self) -> None:
        if len(self.models) > 1 and self.output.suffix.lower() == ".npy":
            raise OutputError(
                f"{self.output}: one .npy file holds one array, but there are {len(self.models)} models: "
                f"{', '.join(self.models)}; use .npz, or one .npy for each"
            )

    def check(self) -> KeptColumns | None:
        """Refuse what can be refused before there is a system, which may take long to start; the columns that it keeps.

        Raises:
            OutputError: the output cannot be written.
            UsageError, InputError: as of `kept_columns`.
        """
        check_output(self.output, self.force, resume=self.resume, in_parts=self.in_parts)
        return kept_columns(self.source, self.options, self.models, self.output)

    def head(self, held: HeldModels, on_error: OnError = "raise") -> JournalHead:
        """What has to be the same where the output is continued; `on_error` where this has none."""
        return JournalHead(
            source=self.described,
            models=held.digests,
            sources=held.sources,
            keep=self.options.keep,
            on_error=self.on_error or on_error,
            chunk_rows=(self.options.chunk_rows or "default") if held.dependent else None,
            can_resume=self.can_resume,
        )

    def write(
        self,
        head: JournalHead,
        kept: KeptColumns | None,
        start: Start,
        begun: Callable[[Job], None] = lambda _: None,
    ) -> Summary:
        """Predict all rows, or those that an earlier run lacks.

        Args:
            head: as of `head`.
            kept: as of `check`.
            start: gives who does jobs; not called where there is nothing to predict.
            begun: is given the job when it has begun.

        Raises:
            PredictionFailedError: the job failed or was interrupted; nothing of it is left running.
            CeleriacError: it could not begin.
        """
        opened = open_sink(
            self.output,
            self.source.rows,
            self.force,
            journal=head,
            resume=self.resume,
            accept_changes=self.accept_changes,
            in_parts=self.in_parts,
        )
        with ending(opened) as sink:
            if sink.dropped_rows and not self.options.quiet:
                logger.warning("%d rows that an earlier run left beside %s are dropped", sink.dropped_rows, sink.path)
            if sink.folder and self.options.part_mib:
                sink.folder.part_bytes = self.options.part_mib * 2**20
            waits = sink.folder is not None and sink.folder.needs_workers
            if sink.done_rows and sink.done_rows == self.source.rows and not waits:
                return finish(sink, head, self.options.max_failed)
            with start() as client:
                return predict_to_sink(client, self.models, self.source, sink, head, self.options, kept, begun)

    def mend(self, finished: Finished, held: HeldModels, start: Start) -> Summary:
        """Predict the rows of a finished output that failed, and put them at their place.

        Raises:
            PredictionFailedError: the job failed or was interrupted, or no row went through; the output is as it was.
            CeleriacError: it could not begin.
        """
        if held.dependent:
            raise UsageError(
                f"--only-failed is for independent rows, which those of model {held.dependent[0]} are not, as the "
                "manifest says: their chunks would be others; predict all rows again with --force"
            )
        head = self.head(held, finished.sidecar.on_error)
        changes = finished.check_same(self.source, head, accept_changes=self.accept_changes)
        with start() as client:
            return predict_failed(client, self.models, self.source, finished, head, self.options, changes)
