"""`Client.predict_to`: predictions into files, folders and objects, with a journal, as `celeriac predict` writes them.

data, options --> OutputRun --> Summary, or the error of the job, in which options have the names that Python gives them
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from producer.job.job import Job
from producer.outputs.only_failed import finished_output
from producer.outputs.open_input import input_options, open_input
from producer.outputs.output_run import HeldModels, OutputRun
from producer.outputs.predict_to_sink import InterruptedHereError
from producer.outputs.run_options import RunOptions
from producer.outputs.summary import PredictionFailedError, Summary
from producer.rows.source import BatchSource, Source
from producer.scheduling.admission import ModelNames, check_names
from producer.scheduling.error_budget import make_policy
from producer.scheduling.job_options import JobOptions
from producer.scheduling.priority import Priority
from producer.sinks import output_path
from producer.sources.choose import ColumnNames
from tasks.protocol.codec import Compression
from tasks.protocol.messages import OnError, OnNonfinite, StoreName
from tasks.protocol.records import ModelInfo
from worker_config.errors import CeleriacError, UsageError

# Options of the command line, as errors name them.
_FLAG = re.compile(r"(?<![^\s(])--(resume|force|accept-changes|only-failed)\b")
_OPTION = re.compile(r"(?<![^\s(])--(keep|on-error|chunk-rows) ")


class OutputClient(ABC):
    """What a client does whose predictions are to be written; the rest of it is abstract here."""

    @abstractmethod
    def describe(self, models: ModelNames) -> list[ModelInfo]:
        """What is known of the models."""

    @abstractmethod
    def _begin_job(self, models: list[str], source: Source | BatchSource, options: JobOptions) -> Job:
        """Begin an attached job."""

    def predict_to(
        self,
        output: str | Path,
        models: ModelNames,
        data: object,
        *,
        columns: ColumnNames | None = None,
        array: str | None = None,
        dtype: str | None = None,
        contents: bool = False,
        keep: str | Sequence[str] = (),
        chunk_rows: int | None = None,
        store: StoreName | None = None,
        compression: Compression | None = None,
        on_error: OnError | None = None,
        max_failed: int | str | None = None,
        on_nonfinite: OnNonfinite = "warn",
        priority: Priority | None = None,
        part_mib: int | None = None,
        resume: bool = False,
        only_failed: bool = False,
        accept_changes: bool = False,
        force: bool = False,
        show_progress: bool = False,
    ) -> Summary:
        """Write the predictions for all rows of `data`, and wait for that; the options are those of `celeriac predict`.

        The output takes its name when it is whole; beside it are then its ledger and, where rows failed, the records of
        these. Until then the rows that are done are kept beside it, with a journal, whatever ends the run: the same
        call with `resume=True`, or the command with `--resume`, goes on after them.

        Args:
            output: a file: .npy, .npz, .parquet, .feather, .csv, .jsonl or .zarr. Or, as a text with a / at its end, a
                folder whose files workers write: all of these but .npz; it may be behind a URL, but for .zarr.
            models: a model's name, or several.
            data: as for `submit`. What is read in order and has no path, such as an iterator, a stream or a loader,
                cannot be told from other rows: such a run leaves nothing when it does not end well, and is not resumed.
            columns, array, dtype, contents: how a path is opened, as by `producer.sources.open_source`; `columns` also
                chooses those of a frame.
            keep: columns of `data`, which can be read twice, that stand beside the predictions of their rows; "row" is
                the number of each row, "path" that of a file in a folder.
            chunk_rows, store, compression, on_error, max_failed, on_nonfinite, priority: as for `submit`.
            part_mib: the size of each file in a folder, about.
            resume: continue what an earlier run has left, if it has left anything.
            only_failed: with `resume`, predict the rows of a finished output that failed, and put them at their place.
            accept_changes: with `resume`, also where the data set or a model is another one since; the ledger says so.
            force: replace an output that exists, or what an earlier run has left.
            show_progress: a bar on stderr while it runs, or lines in a log.

        A model of several that fails alone is in `Summary.failed_models`, and not in an .npz or a .zarr; in other
        outputs it ends the job. An interrupt (Ctrl-C) is a KeyboardInterrupt that says which rows are safe.

        Raises:
            OutputError: the output exists, cannot be written, or cannot be continued with these data and models.
            UsageError: options do not go together, or workers may not write there.
            InputError: the data cannot be read, has no column to keep, or does not fit the models.
            UnknownModelError, NoWorkerError: no worker holds the models.
            RowsFailedError: rows failed, with "raise", or more than may.
            JobCancelledError: somebody has cancelled the job.
            BrokerError: Redis cannot be reached.
        """
        names = check_names(models)
        make_policy(on_error or "raise", max_failed, on_nonfinite)  # which is refused if it is none
        if (accept_changes or only_failed) and not resume:
            raise UsageError("accept_changes and only_failed are for resume=True: they go on with what is there")
        if only_failed and (force or max_failed is not None):
            raise UsageError("only_failed goes on with the output that is there: leave force and max_failed out")
        if part_mib is not None and part_mib < 1:
            raise UsageError(f"part_mib is {part_mib}; the least is 1")
        options = RunOptions(
            chunk_rows=chunk_rows,
            store=store,
            compression=compression,
            max_failed=max_failed,
            on_nonfinite=on_nonfinite,
            priority=priority,
            quiet=not show_progress,
            keep=keep.split(",") if isinstance(keep, str) and keep else keep,
            part_mib=part_mib,
        )
        with _errors_as_of_python():
            source, described = open_input(data, input_options(columns, array, dtype, contents), options.keep)
            can_resume = isinstance(data, str | Path) or isinstance(source, Source)
            if resume and not can_resume:
                raise UsageError(
                    f"{source.label}: cannot be resumed: it is read in order and has no path, so nobody knows whether "
                    "its rows are the same; give its path or URL, an array or a frame, or leave resume out"
                )
            path, in_parts = output_path(output), os.fspath(output).endswith("/")
            run = OutputRun(
                names,
                source,
                described,
                path,
                in_parts,
                on_error,
                options,
                resume,
                accept_changes,
                force,
                can_resume=can_resume,
            )
            if only_failed:
                with finished_output(path) as finished:
                    return run.mend(finished, HeldModels.of(self.describe(names)), lambda: nullcontext(self))
            kept = run.check()
            head = run.head(HeldModels.of(self.describe(names)))
            return run.write(head, kept, lambda: nullcontext(self))


@contextmanager
def _errors_as_of_python() -> Iterator[None]:
    """An error of a job is that which it ended with, names options as Python does, and an interrupt is an interrupt."""
    try:
        yield
    except CeleriacError as caught:
        error = caught.error if isinstance(caught, PredictionFailedError) else caught
        text = _FLAG.sub(lambda match: f"{match[1].replace('-', '_')}=True", str(error))
        text = _OPTION.sub(lambda match: f"{match[1].replace('-', '_')} ", text)
        if isinstance(error, InterruptedHereError):
            raise KeyboardInterrupt(text) from None
        error.args = (text, *error.args[1:])
        raise error from error.__cause__
