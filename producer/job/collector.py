"""Collects a job's answers: checks each, reads its outputs, judges its failures, and joins what is good.

    answer --duplicate? of other models? failed? --> outputs read from their store --> join --> parts in order

An answer that is of no use (its rows or outputs are gone, its child was killed) has its chunk sent again: `Outcome`.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import replace
from typing import NoReturn, cast

import msgspec
import numpy as np

from producer.job.dispatcher import Dispatcher
from producer.job.job_context import JobContext
from producer.records.timeline import Outcome
from producer.rows.assemble import Join, ResultArrays
from producer.rows.drop_rows import blank_like, drop_rows
from producer.rows.part import OutputTree, Part, flatten, unflatten, without
from producer.rows.read_answer import part_of, read_outputs, stored_of, stored_part
from producer.scheduling import model_pinning
from producer.scheduling.open_chunk import OpenChunk
from tasks.protocol import codec
from tasks.protocol.messages import (
    Answer,
    ChunkMessage,
    Failure,
    FailureRecord,
    FileRef,
    MergeReply,
    Outputs,
    PartRef,
    PartsReply,
)
from tasks.transport.spool import ReusableBuffer
from worker_config.errors import (
    ExecutorDifferedError,
    MessageError,
    OutputError,
    RowsFailedError,
    SealError,
    VersionError,
)
from worker_config.retry_policy import MAX_SENDS, MAX_SENDS_OF_KILLERS

logger: logging.Logger = logging.getLogger(__name__)

# First answers that are remembered, for duplicates to be held against.
MOST_FIRSTS = 16_384


# As `ResultArrays` gives it where no row shows what outputs look like.
_NOTHING = np.empty((0,), np.float32)


class Collector:
    """The answers of one job, one by one; used by the job's thread.

    Attributes:
        result_arrays: the whole arrays, where somebody has asked for them: large outputs go straight to their place.
        join: parts that are answered, and wait for an earlier one or for being handed over.
    """

    join: Join

    def __init__(self, context: JobContext, dispatcher: Dispatcher) -> None:
        self.result_arrays: ResultArrays | None = None
        self._context = context
        self._channel = context.channel
        self._dispatcher = dispatcher
        self._ledger = context.ledger
        self._failures = context.failures
        self._policy = context.spec.options.policy
        self._write_to = context.spec.options.write_to
        self.join = Join(ordered=context.spec.options.ordered)
        self._buffer = ReusableBuffer()
        self._firsts: OrderedDict[int, tuple[int, str]] = OrderedDict()  # checksums, and names of parts
        # Chunks of which every row has failed, until another one shows what outputs look like.
        self._formless: list[Part] = []
        self._form: OutputTree | None = None
        # Where workers write them: whether one has, and the index after those of all chunks.
        self._is_known, self._next_index = False, 0
        # Models of which outputs were joined that are void should their executor be found to differ.
        self._unproven: set[str] = set()

    def gather(self) -> ResultArrays:
        """The whole arrays, in which outputs are placed from the first asking on; the caller's thread adds parts."""
        if self.result_arrays is None:
            feed = self._context.feed
            self.result_arrays = ResultArrays(feed.rows, feed.first_row, self._failures.models)
        return self.result_arrays

    def collect(self, answer: Answer) -> tuple[Outcome, RowsFailedError | None]:
        """Join an answer; what became of it, and the error that it ends the job with, if rows of it failed.

        Harmless when repeated after a lost connection.

        Raises:
            ExecutorDifferedError: outputs that were joined are void; the job must begin again.
            MessageError: the answer does not fit its chunk, or cannot be read.
            VersionError: the worker is of another release.
            BrokerError: Redis cannot be reached.
        """
        with self._channel.measures.joining():
            if answer.job != self._context.id:
                raise MessageError(f"an answer of job {answer.job} on the list of job {self._context.id}")
            self._note_differed(answer)
            chunk = self._dispatcher.open.get(answer.index)
            if chunk is None:
                self._drop(answer)
                return Outcome.DUPLICATE, None
            closed = Outcome.FAILED if isinstance(answer, Failure) else Outcome.JOINED
            try:
                return (closed if self._close(answer, chunk) else Outcome.RESEND), None
            except RowsFailedError as error:
                return closed, error

    def _close(self, answer: Answer, chunk: OpenChunk) -> bool:
        """Close the answer's chunk; False if it must be sent again."""
        if not self._context.differed.keys().isdisjoint(answer.by_executor):  # of a worker that Redis has not told
            return self._refuse(answer, chunk, f"the answer to {chunk.message} is of an executor that differs")
        if isinstance(answer, Failure):
            return self._close_failed(answer, chunk)
        message = chunk.message
        part = part_of(answer, message, answer.failed_rows)
        if answer.models and answer.models != message.models:
            others = ", ".join(map(str, answer.models))
            logger.warning("job %s: an answer of %s is not joined: %s", self._context.id, others, message)
            return self._refuse(answer, chunk, f"the answer to {message} is of {others}")
        if last := self._failures.judge(answer.failed):
            self._channel.release([answer.ref])
            self._fail(last)
        self._dispatcher.leave_out(self._failures.models)
        loaded: tuple[OutputTree | None, int] | None
        if self._write_to:
            part = replace(part, stored=stored_of(answer, message))
            loaded = None, answer.ref.bytes if isinstance(answer.ref, PartRef) else 0
        else:
            loaded = (None, 0) if answer.is_blank else self._load(answer, chunk)
        if loaded is None:
            return False
        self._failures.keep(answer.failed)
        self._firsts[answer.index] = answer.checksum, answer.ref.name if isinstance(answer.ref, PartRef) else ""
        if len(self._firsts) > MOST_FIRSTS:
            self._firsts.popitem(last=False)
        self._join_part(answer, chunk, part, *loaded)
        return True

    def end(self) -> None:
        """All chunks are answered.

        Raises:
            RowsFailedError: not one row of the data set has a prediction, or more have failed than may.
        """
        likely_form = model_pinning.blank_outputs(self._context.spec.infos)
        if self._formless and not self._failures.records:  # all rows were dropped
            self._form = _NOTHING if likely_form is None else likely_form
            self._flush()
        if self._formless and self._ledger.predicted:  # by an earlier run
            self._form = likely_form
            self._flush()
        is_unknown = isinstance(self._write_to, PartsReply) and not self._is_known and not self._ledger.predicted
        if is_unknown and not self._failures.records:
            end = self._context.feed.next_row
            form = _NOTHING if likely_form is None else likely_form
            self.join.add(Part(self._next_index, end, end, blank_like(form, 0)))
        elif self._formless or is_unknown:
            raise RowsFailedError(f"no row was predicted; {self._failures.in_order()[0]}")
        self._policy.check(self._ledger.failed, self._ledger.rows)

    def _note_differed(self, answer: Answer) -> None:
        differed = self._context.differed
        new = {one.model: one for one in answer.differed if one.model not in differed}
        for name, one in new.items():
            logger.warning("job %s: model %s: %s", self._context.id, name, one)
        self._channel.measures.executors_differed += len(new)
        differed.update(new)
        if void := self._unproven & new.keys():
            first = new[min(void)]
            raise ExecutorDifferedError(
                f"job {self._context.id}: {first.executor} {first.what} of model {first.model} ({first.text}): rows "
                "that were predicted before are not the model's own, and some were handed over; submit the job again: "
                "the workers use the own graph now"
            )

    def _drop(self, answer: Answer) -> None:
        self._ledger.duplicates += 1
        if isinstance(answer, Outputs):
            first, part = self._firsts.get(answer.index, (answer.checksum, ""))
            self._ledger.duplicates_differing += first != answer.checksum
            # The part of an answer that came twice counts; one of which nobody knows goes with its folder.
            if not isinstance(answer.ref, PartRef) or part not in ("", answer.ref.name):
                self._channel.release([answer.ref])

    def _close_failed(self, answer: Failure, chunk: OpenChunk) -> bool:
        record, message, goes_on = answer.record, chunk.message, self._policy.goes_on
        if record.stage == "message":
            raise VersionError(record.text)
        if record.stage == "write":
            raise OutputError(record.text)
        if record.stage == "full":
            return False
        if goes_on and answer.failed_rows:
            self._join_part(answer, chunk, part_of(answer, message, answer.failed_rows))
            return True
        if record.start == record.stop:  # whoever could not read the message, or the answer, knows no rows
            record = msgspec.structs.replace(record, start=message.start, stop=message.stop)
        self._channel.damaged_elsewhere += record.type == SealError.__name__ and bool(answer.slot)
        if record.stage == "fetch" and _may_be_missing(chunk):
            return False
        if goes_on and record.stage == "worker" and chunk.times_sent < MAX_SENDS_OF_KILLERS:
            return False
        if goes_on and record.stage != "model":
            self._join_part(answer, chunk, part_of(answer, message, [record]))
            return True
        # Those that had failed before are not why the job ends.
        last = self._failures.judge(answer.failed) if self._failures.models else None
        self._fail(last if last and last.model else self._named(record, message))

    def _join_part(
        self, answer: Answer, chunk: OpenChunk, part: Part, outputs: OutputTree | None = None, size: int = 0
    ) -> None:
        """The chunk is answered: first what may be wrong with its outputs, then all that must happen once."""
        part = replace(part, index=part.index - self._context.feed.first_index)
        if outputs is not None:
            part = self._formed(replace(part, outputs=outputs))
        self._failures.keep(part.failed)
        self._unproven.update(answer.by_executor)
        self._dispatcher.answered(chunk, answer.seconds if isinstance(answer, Outputs) else 0.0, size)
        if chunk.times_sent == 1:
            self._channel.measures.answered(answer, chunk.published_at)
        self._ledger.chunks_answered += 1
        self._ledger.predicted += part.predicted_rows
        self._ledger.failed += part.failed_rows
        self._ledger.skipped += part.dropped_rows
        self._ledger.nonfinite_inputs += part.nonfinite[0]
        self._ledger.nonfinite_outputs += part.nonfinite[1]
        if self._write_to:
            merged = isinstance(self._write_to, MergeReply)
            self.join.add(stored_part(part, self._policy.on_error, is_file_of_parts=merged))
            self._is_known |= part.stored is not None and part.stored.ref is not None and bool(part.stored.ref.outputs)
            self._next_index = max(self._next_index, part.index + 1)
        elif outputs is None:
            self._formless.append(part)
        else:
            self.join.add(part)
        self._flush()
        if part.failed_rows:
            self._policy.check(self._ledger.failed, self._context.feed.rows)

    def _flush(self) -> None:
        """Hand on the chunks of which every row has failed, once it is known what outputs look like."""
        if self._form is not None:
            formless, self._formless = self._formless, []
            for one in formless:
                self.join.add(self._formed(replace(one, outputs=blank_like(self._form, one.stop - one.start))))

    def _formed(self, part: Part) -> Part:
        """The part as it is handed over; raises MessageError if it has not one output for each row."""
        arrays = flatten(part)
        if self._form is None:
            self._form = unflatten({key: array[:1].copy() for key, array in arrays.items()})
        with_failed = self._policy.on_error == "skip"
        lacks_rows = part.dropped or (part.failed and with_failed)
        return drop_rows(part, with_failed=with_failed) if lacks_rows else part

    def _load(self, answer: Outputs, chunk: OpenChunk) -> tuple[OutputTree, int] | None:
        """An answer's outputs, and the bytes that they were in the store; None if they are gone."""
        message = chunk.message
        # Rows that are left out have no place.
        result_arrays = None if answer.failed_rows or answer.dropped else self.result_arrays
        name = self._last_model(message)
        if result_arrays and isinstance(answer.ref, FileRef):
            room = result_arrays.room(answer.start, answer.stop)
            form = room[name] if name and isinstance(room, dict) else room
            parts = [] if form is None else codec.encode_parts(cast("codec.Tree", form))
            if room is not None and self._channel.load_into(answer, parts):
                return room, sum(map(len, parts))
        payload = self._channel.load(answer, self._buffer if result_arrays else None)
        if payload is None:
            if _may_be_missing(chunk) or self._channel.is_away(answer.ref):
                return None
            raise MessageError(f"the outputs of {message} were damaged or gone, {chunk.times_sent} times")
        outputs = read_outputs(payload, message, borrow=True)  # the join looks at it
        outputs = without({name: outputs} if name else outputs, self._failures.models)
        if result_arrays and isinstance(answer.ref, FileRef):  # the next answer is read into the same memory
            outputs = result_arrays.place(Part(answer.index, answer.start, answer.stop, outputs)).outputs
        return outputs, len(payload)

    def _refuse(self, answer: Answer, chunk: OpenChunk, why: str) -> bool:
        """An answer of other outputs than the job's; always False, as its chunk must be sent again."""
        if isinstance(answer, Outputs):
            self._channel.release([answer.ref])
        if chunk.times_sent >= MAX_SENDS:
            raise MessageError(f"{why}, {chunk.times_sent} times")
        return False

    def _last_model(self, message: ChunkMessage) -> str:
        """The model that is left of several, empty for other messages: its outputs and failures come without a name."""
        return message.models[0].name if len(message.models) == 1 < len(self._context.spec.infos) else ""

    def _named(self, record: FailureRecord, message: ChunkMessage) -> FailureRecord:
        whole_chunk = record.stage in ("fetch", "worker", "killed")
        return record if whole_chunk else msgspec.structs.replace(record, model=self._last_model(message))

    def _fail(self, record: FailureRecord) -> NoReturn:
        self._failures.keep([record])
        self._ledger.failed += record.stop - record.start
        self._ledger.chunks_answered += 1
        raise RowsFailedError(str(self._failures.of_data_set(record)[0]))


def _may_be_missing(chunk: OpenChunk) -> bool:
    """Whether its rows or outputs may be gone, or damaged, once more: what an outage has taken along does not count."""
    return chunk.times_sent < MAX_SENDS or not chunk.published
