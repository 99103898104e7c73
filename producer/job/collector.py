"""This module takes a job's answers: checks each, reads its outputs, judges its failures, and joins what is good.

    answer --duplicate? of other models? failed? --> outputs read from their store --> join --> parts in order

An answer that is no use yet (its rows or outputs are gone, its child was killed) names its chunk for another delivery.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn, cast

import msgspec
import numpy as np

from producer.job.broker_channel import BrokerChannel
from producer.job.dispatcher import Dispatcher, OpenChunk
from producer.records.failures import Failures
from producer.records.ledger import Ledger
from producer.rows.assemble import Gathered, Join
from producer.rows.drop_rows import blank_like, count_rows, drop_rows
from producer.rows.part import OutputTree, Part, flatten, unflatten, without
from producer.scheduling.job_options import Terms
from tasks.protocol import codec
from tasks.protocol.messages import Answer, ChunkMessage, Differed, Failure, FailureRecord, FileRef, ModelRef, Outputs
from tasks.transport.files import ReusableBuffer
from worker_config.errors import ExecutorDifferedError, MessageError, PayloadError, RowsFailedError
from worker_config.retry_policy import MAX_SENDS, MAX_SENDS_OF_KILLERS

logger = logging.getLogger(__name__)

# Checksums of first answers that are remembered, for duplicates to be held against.
MOST_CHECKSUMS = 65_536


# As `Gathered` gives it where no row shows what outputs look like.
_NOTHING = np.empty((0,), np.float32)


class Collector:
    """The answers of one job, one by one; used by the job's thread.

    Args:
        likely_form: outputs of no rows, as the models announce them; for a job none of whose rows shows it.
        differed: models of which an executor was found to differ from their own graphs; those found are added.
        first_index: that of the job's first chunk; parts count from 0.
        terms: whether parts come in the order of their chunks, or as these are answered; and what failures do.

    Attributes:
        gathered: the whole arrays, if the caller wants them: large outputs then go straight to their place.
        stages: what slots did in all seconds up to their last answers.
    """

    def __init__(
        self,
        channel: BrokerChannel,
        dispatcher: Dispatcher,
        job: str,
        models: Sequence[ModelRef],
        ledger: Ledger,
        failures: Failures,
        terms: Terms,
        rows: int | None,
        likely_form: OutputTree | None = None,
        differed: dict[str, Differed] | None = None,
        first_index: int = 0,
    ) -> None:
        self.gathered: Gathered | None = None
        self.stages: dict[str, float] = {}
        self._started = time.monotonic()
        self._channel = channel
        self._dispatcher = dispatcher
        self._job = job
        self._several = len(models) > 1
        self._ledger = ledger
        self._failures = failures
        self._policy = terms.policy
        self._rows = rows
        self._join = Join(ordered=terms.ordered)
        self._scratch = ReusableBuffer()
        self._checksums: OrderedDict[int, int] = OrderedDict()
        # Chunks of which every row has failed, until another one shows what outputs look like.
        self._formless: list[Part] = []
        self._form: OutputTree | None = None
        self._likely_form = likely_form
        self._differed = {} if differed is None else differed
        self._first_index = first_index
        # Models of which outputs were joined that are void should their executor be found to differ.
        self._unproven: set[str] = set()

    @property
    def waiting(self) -> int:
        """Chunks that are answered, and held back for an earlier one."""
        return self._join.waiting

    def pop_ready(self) -> list[Part]:
        """The parts that are next in order, or that there are."""
        return self._join.pop_ready()

    def count_stages(self, answer: Answer) -> None:
        """Add the seconds of an answer that was taken; a slot that waited before the job began did not wait for it."""
        self._dispatcher.timeline.answered(answer, is_open=answer.index in self._dispatcher.open)
        for stage, seconds in answer.stages.items():
            if stage == "wait":
                seconds = min(seconds, time.monotonic() - self._started)
            self.stages[stage] = round(self.stages.get(stage, 0.0) + seconds, 6)

    def take(self, answer: Answer) -> bool:
        """Take an answer; False if its chunk must be sent again. Harmless when repeated after a lost connection.

        Raises:
            RowsFailedError: rows failed, and that ends the job.
            ExecutorDifferedError: outputs that were joined are void; the job must begin again.
            MessageError: the answer does not fit its chunk, or cannot be read.
            BrokerError: Redis cannot be reached.
        """
        with self._channel.measures.joining():
            return self._take(answer)

    def _take(self, answer: Answer) -> bool:
        if answer.job != self._job:
            raise MessageError(f"an answer of job {answer.job} on the list of job {self._job}")
        self._note_differed(answer)
        opened = self._dispatcher.open.get(answer.index)
        if opened is None:
            self._drop(answer)
            return True
        if not self._differed.keys().isdisjoint(answer.by_executor):  # of a worker that Redis has not told
            if isinstance(answer, Outputs):
                self._channel.release([answer.ref])
            return self._again(opened, f"the answer to {opened.message} is of an executor that differs")
        if isinstance(answer, Failure):
            return self._take_failure(answer, opened)
        message = opened.message
        if (answer.start, answer.stop) != (message.start, message.stop):
            raise MessageError(f"the answer to {message} is for rows {answer.start}-{answer.stop}")
        if answer.models and answer.models != message.models:
            ran = ", ".join(map(str, answer.models))
            logger.warning("job %s: an answer of %s is not joined: %s", self._job, ran, message)
            self._channel.release([answer.ref])
            return self._again(opened, f"the answer to {message} is of {ran}")
        if last := self._failures.judge(answer.failed):
            self._channel.release([answer.ref])
            self._fail(last)
        self._dispatcher.leave_out(self._failures.models)
        loaded = (None, 0) if answer.is_blank else self._load(answer, opened)
        if loaded is None:
            return False
        outputs, size = loaded
        self._failures.keep(answer.failed)
        self._checksums[answer.index] = answer.checksum
        if len(self._checksums) > MOST_CHECKSUMS:
            self._checksums.popitem(last=False)
        self._close(answer, opened, answer.seconds, size, answer.failed_rows, outputs, tuple(answer.dropped))
        return True

    def end(self) -> None:
        """All chunks are answered.

        Raises:
            RowsFailedError: not one row of the data set has a prediction, or more have failed than may.
        """
        if self._formless and not self._failures.records:  # all rows were dropped
            self._form = _NOTHING if self._likely_form is None else self._likely_form
            self._flush()
        if self._formless and self._ledger.predicted:  # by an earlier run
            self._form = self._likely_form
            self._flush()
        if self._formless:
            raise RowsFailedError(f"no row was predicted; {self._failures.in_order()[0]}")
        self._policy.check(self._ledger.failed, self._ledger.rows)

    def _note_differed(self, answer: Answer) -> None:
        new = {one.model: one for one in answer.differed if one.model not in self._differed}
        for name, one in new.items():
            logger.warning("job %s: model %s: %s", self._job, name, one)
        self._channel.measures.executors_differed += len(new)
        self._differed.update(new)
        if void := self._unproven & new.keys():
            first = new[min(void)]
            raise ExecutorDifferedError(
                f"job {self._job}: {first.executor} {first.what} of model {first.model} ({first.text}): rows that were "
                "predicted before are not the model's own, and some were handed over; submit the job again: the "
                "workers use the own graph now"
            )

    def _drop(self, answer: Answer) -> None:
        self._ledger.duplicates += 1
        if isinstance(answer, Outputs):
            first = self._checksums.get(answer.index, answer.checksum)
            self._ledger.duplicates_differing += first != answer.checksum
            self._channel.release([answer.ref])

    def _take_failure(self, answer: Failure, opened: OpenChunk) -> bool:
        message, record = opened.message, answer.record
        if self._policy.goes_on and answer.failed_rows:
            self._close(answer, opened, 0.0, 0, answer.failed_rows)
            return True
        if record.stage == "fetch" and opened.times_sent < MAX_SENDS:
            return False
        if self._policy.goes_on and record.stage == "worker" and opened.times_sent < MAX_SENDS_OF_KILLERS:
            return False
        if self._policy.goes_on and record.stage != "model":
            self._close(answer, opened, 0.0, 0, [record])
            return True
        # Those that had failed before are not why the job ends.
        last = self._failures.judge(answer.failed) if self._failures.models else None
        self._fail(last if last and last.model else self._named(record, message))

    def _close(
        self,
        answer: Answer,
        opened: OpenChunk,
        seconds: float,
        size: int,
        failed: Sequence[FailureRecord],
        outputs: OutputTree | None = None,
        dropped: tuple[tuple[int, int], ...] = (),
    ) -> None:
        """The chunk is answered: first what may be wrong with it, then all that must happen once."""
        message = opened.message
        count = count_rows(failed)
        part = Part(
            message.index - self._first_index,
            message.start,
            message.stop,
            {} if outputs is None else outputs,
            tuple(failed),
            dropped=_checked(dropped, message),
            nonfinite=(answer.nonfinite_inputs, answer.nonfinite_outputs) if isinstance(answer, Outputs) else (0, 0),
        )
        if max(part.nonfinite) > part.predicted_rows:
            raise MessageError(f"the answer to {message} counts more rows that are not finite than it has")
        if outputs is not None:
            part = self._formed(part)
        self._failures.keep(failed)
        self._unproven.update(answer.by_executor)
        self._dispatcher.answered(answer.index, seconds, size)
        if opened.times_sent == 1:
            self._channel.measures.answered(answer, opened.sent_at)
        self._ledger.chunks_answered += 1
        self._ledger.predicted += part.predicted_rows
        self._ledger.failed += count
        self._ledger.skipped += part.dropped_rows
        self._ledger.nonfinite_inputs += part.nonfinite[0]
        self._ledger.nonfinite_outputs += part.nonfinite[1]
        if outputs is None:
            self._formless.append(part)
        else:
            self._join.add(part)
        self._flush()
        if count:
            self._policy.check(self._ledger.failed, self._rows)

    def _flush(self) -> None:
        """Hand on the chunks of which every row has failed, once it is known what outputs look like."""
        if self._form is not None:
            formless, self._formless = self._formless, []
            for one in formless:
                self._join.add(self._formed(replace(one, outputs=blank_like(self._form, one.stop - one.start))))

    def _formed(self, part: Part) -> Part:
        """The part as it is handed over; raises MessageError if it has not one output for each row."""
        arrays = flatten(part)
        if self._form is None:
            self._form = unflatten({key: array[:0].copy() for key, array in arrays.items()})
        with_failed = self._policy.on_error == "skip"
        lacks_rows = part.dropped or (part.failed and with_failed)
        return drop_rows(part, with_failed=with_failed) if lacks_rows else part

    def _load(self, answer: Outputs, opened: OpenChunk) -> tuple[OutputTree, int] | None:
        """An answer's outputs, and the bytes that they were in the store; None if they are gone."""
        message = opened.message
        # Rows that are left out have no place.
        gathered = None if answer.failed_rows or answer.dropped else self.gathered
        name = self._last_model(message)
        if gathered and isinstance(answer.ref, FileRef):
            room = gathered.room(answer.start, answer.stop)
            form = room[name] if name and isinstance(room, dict) else room
            parts = [] if form is None else codec.encode_parts(cast("codec.Tree", form))
            if room is not None and self._channel.load_into(answer.ref, parts):
                return room, sum(map(len, parts))
        payload = self._channel.load(answer.ref, self._scratch if gathered else None)
        if payload is None and opened.times_sent < MAX_SENDS:
            return None
        try:
            outputs = cast("OutputTree", codec.decode(payload or b"", borrow=True))  # the join looks at it
        except PayloadError as error:
            raise MessageError(f"the answer to {message} cannot be read: {error}") from None
        outputs = without({name: outputs} if name else outputs, self._failures.models)
        if gathered and isinstance(payload, memoryview):  # the next answer is read into the same memory
            outputs = gathered.place(Part(answer.index, answer.start, answer.stop, outputs)).outputs
        return outputs, len(payload or b"")

    def _again(self, opened: OpenChunk, why: str) -> bool:
        if opened.times_sent >= MAX_SENDS:
            raise MessageError(f"{why}, {opened.times_sent} times")
        return False

    def _last_model(self, message: ChunkMessage) -> str:
        """The model that is left of several, empty for other messages: its outputs and failures come without a name."""
        return message.models[0].name if len(message.models) == 1 and self._several else ""

    def _named(self, record: FailureRecord, message: ChunkMessage) -> FailureRecord:
        whole_chunk = record.stage in ("fetch", "worker", "killed")
        return record if whole_chunk else msgspec.structs.replace(record, model=self._last_model(message))

    def _fail(self, record: FailureRecord) -> NoReturn:
        self._failures.keep([record])
        self._ledger.failed += record.stop - record.start
        self._ledger.chunks_answered += 1
        raise RowsFailedError(str(record))


def _checked(dropped: tuple[tuple[int, int], ...], message: ChunkMessage) -> tuple[tuple[int, int], ...]:
    """Runs of rows, if they are of the chunk, in order and apart; raises MessageError."""
    bounds = [message.start, *(bound for run in dropped for bound in run), message.stop]
    if bounds != sorted(bounds):
        raise MessageError(f"the answer to {message} drops the rows {dropped}")
    return dropped
