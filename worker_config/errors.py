"""Every error that Celeriac raises, and the exit code that each ends a command with; docs/errors.md has the tree."""

from __future__ import annotations

import traceback
from enum import IntEnum
from pathlib import Path
from typing import ClassVar


class ExitCode(IntEnum):
    """How a `celeriac` command, or a worker that cannot start, ends."""

    OK = 0  # all rows predicted
    INTERNAL = 1  # a bug in Celeriac
    USAGE = 2  # bad option, setting, manifest or output
    INPUT = 3  # the data set cannot be read or does not fit the model
    ROWS_FAILED = 4  # rows have no prediction
    MODEL = 5  # unknown model, one that cannot be loaded, or one of which wrong outputs were handed over
    NO_WORKER = 6  # no worker holds the model, none came up, or they are of another release
    BROKER = 7  # Redis cannot be reached
    CANCELLED = 130  # by Ctrl-C, SIGTERM or `celeriac cancel`


class CeleriacError(Exception):
    """Base of all errors; the text is one line that says what is wrong, where, and what to do."""

    exit_code: ClassVar[ExitCode] = ExitCode.INTERNAL

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the text, and which of the user's own lines it is about; all of it, if it is a bug."""
        if self.exit_code is ExitCode.INTERNAL:
            return traceback.format_exception(self)
        ours = Path(__file__).parents[1]
        packages = tuple(f"{ours / name}/" for name in ("producer", "tasks", "worker_config"))
        frames = traceback.extract_tb(self.__traceback__)
        depth = next((at for at, frame in enumerate(frames) if frame.filename.startswith(packages)), len(frames))
        place = [f"  line {frame.lineno}: {frame.line}" for frame in frames[:depth][-1:]]
        return [f"{type(self).__name__}: {self}", *place]


class UsageError(CeleriacError):
    """The caller asked for what cannot be."""

    exit_code = ExitCode.USAGE


class ConfigError(UsageError):
    """A setting or the manifest is wrong."""


class OutputError(UsageError):
    """The output cannot be written."""


class NoSpaceError(OutputError):
    """The disk of an output is full: what was to be written may be when there is room."""


class OutputInUseError(OutputError):
    """Another process is writing the output."""


class UnknownLengthError(UsageError, TypeError):
    """Nobody knows how many batches there are; a TypeError, as of whatever has no length."""


class InputError(CeleriacError):
    """The data set cannot be read, or does not fit the model."""

    exit_code = ExitCode.INPUT


class OutOfRangeError(InputError):
    """A row has a value that the dtype of a model's input cannot hold."""


class ObjectError(InputError):
    """An object behind a URL cannot be read or written."""


class ObjectMissingError(ObjectError):
    """There is no such object, or no such bucket."""


class ObjectExistsError(ObjectError):
    """There is an object already where none was to be."""


class ObjectChangedError(ObjectError):
    """It is another object than the one that was looked at."""


class ObjectDeniedError(ObjectError):
    """This machine's credentials give no right to it, or there are none."""


class StoreUnavailableError(ObjectError):
    """Its store does not answer, or asks to wait for longer than we do."""


class NonFiniteError(CeleriacError):
    """A row has a NaN or an infinity, in what a model takes or gives, where the caller wants none."""

    exit_code = ExitCode.ROWS_FAILED


class PayloadError(CeleriacError):
    """Bytes that are no payload, or a value that cannot become one."""

    exit_code = ExitCode.INPUT


class SealError(PayloadError):
    """Bytes that were damaged on their way, moved, or not signed by whom they should be."""


class MessageError(CeleriacError):
    """A task message or a result that is not of our form."""


class VersionError(MessageError):
    """A message of another version than the one that is understood here."""

    exit_code = ExitCode.NO_WORKER


class ModelError(CeleriacError):
    """A model cannot be used."""

    exit_code = ExitCode.MODEL


class RowCountError(ModelError):
    """A function gave another number of rows than it got."""


class UnknownModelError(ModelError):
    """No model of that name."""


class ModelLoadError(ModelError):
    """A model of the manifest cannot be loaded."""


class TensorFlowNeededError(ModelLoadError):
    """A model, or its own graph for some rows, needs TensorFlow, which is not installed where it runs."""


class ExecutorDifferedError(ModelError):
    """An executor was found to give other outputs than its model, and some were handed over already.

    Submitted again the job ends right: by then the workers use the model's own graph.
    """


class InfrastructureError(CeleriacError):
    """Something between producer and model is missing."""

    exit_code = ExitCode.NO_WORKER


class BrokerError(InfrastructureError):
    """Redis cannot be reached."""

    exit_code = ExitCode.BROKER


class BrokerFullError(BrokerError):
    """Redis has no memory left for what was to be written; nothing of what it has is lost."""


class BrokerRefusedError(BrokerError):
    """Redis refuses the user, the password or a right; trying again does not help."""


class WorkerStartError(InfrastructureError):
    """A worker did not come up."""


class NoWorkerError(InfrastructureError):
    """No worker holds the model."""


class RowsFailedError(CeleriacError):
    """Rows have no prediction; the text names them and the cause."""

    exit_code = ExitCode.ROWS_FAILED


class RequestTimeoutError(CeleriacError, TimeoutError):
    """The caller's time limit was up before there was an answer."""

    exit_code = ExitCode.CANCELLED


class BusyError(InfrastructureError):
    """So many requests wait for the workers that no more are taken; the text says how long they would wait."""


class JobCancelledError(CeleriacError):
    """The job was cancelled; the text says what was done until then."""

    exit_code = ExitCode.CANCELLED


class UnknownJobError(UsageError):
    """No job of that id in this Redis."""
