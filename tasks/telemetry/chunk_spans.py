"""Makes the spans of a child: one for each chunk that it runs, and in it one for each stage.

    stopwatch --stage, begin, end--> kept while the chunk runs --> spans, when it is answered

They belong to the trace that the message's headers name (W3C `traceparent`). Only imported where traces are wanted.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from celery import signals
from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer

from tasks.protocol.messages import Answer, ChunkMessage, Failure, FailureRecord
from tasks.telemetry.stopwatch import Stopwatch
from worker_config.telemetry import tracing

# Rows that fail, or that kill, are looked for in many small pieces.
MOST_STAGES = 100


def begin(exporters: Sequence[str], watch: Stopwatch, slot: str) -> ChunkTrace | None:
    """The spans of this child, after its fork; they leave before it ends.

    Raises:
        ConfigError: traces cannot be sent as they are wanted.
    """
    tracing.start(exporters)
    signals.worker_process_shutdown.connect(lambda **_: tracing.stop(), weak=False)
    tracer = tracing.tracer()
    return ChunkTrace(tracer, watch, slot) if tracer else None


class ChunkTrace:
    """The chunk that a child runs.

    Attributes:
        answer: what became of it.
    """

    def __init__(self, tracer: Tracer, watch: Stopwatch, slot: str) -> None:
        self.answer: Answer | None = None
        self._tracer = tracer
        self._slot = slot
        self._message: ChunkMessage | None = None
        self._attempt = 0
        self._stages: list[tuple[str, float, float]] = []
        self._left_out = 0
        self._end = 0.0
        watch.listener = self._stage_ended

    def _stage_ended(self, stage: str, begin: float, end: float) -> None:
        self._end = end
        if stage == "wait":  # and now a chunk has come
            self._stages.clear()
            self._message, self.answer, self._left_out = None, None, 0
        elif self._stages and self._stages[-1][0] == stage:
            self._stages[-1] = (stage, self._stages[-1][1], end)
        elif len(self._stages) < MOST_STAGES:
            self._stages.append((stage, begin, end))
        else:
            self._left_out += 1

    def run(self, message: ChunkMessage, attempt: int) -> None:
        """The chunk is to be run, for the first time or once more."""
        self._message, self._attempt = message, attempt

    def close(self, headers: Mapping[str, str] | None, error: BaseException | None) -> None:
        """Make the spans of a chunk that has just ended, with the error by which it was handed back, if it was."""
        message = self._message
        if message is None:
            return  # nobody wanted it any more
        now_ns = time.time_ns()

        def moment(seconds: float) -> int:
            return now_ns - round((self._end - seconds) * 1e9)

        parent = propagate.extract(headers or {})
        span = self._tracer.start_span(
            "celeriac chunk",
            parent,
            SpanKind.CONSUMER,
            {
                "celeriac.job": message.job,
                "celeriac.chunk": message.index,
                "celeriac.start": message.start,
                "celeriac.rows": message.stop - message.start,
                "celeriac.models": [str(model) for model in message.models],
                "celeriac.attempt": self._attempt,
                "celeriac.slot": self._slot,
            },
            start_time=moment(self._stages[0][1]),
        )
        if self._left_out:
            span.set_attribute("celeriac.stages_left_out", self._left_out)
        inside = trace.set_span_in_context(span, parent)
        stages = {
            place: self._tracer.start_span(stage, inside, start_time=moment(begin))
            for place, (stage, begin, _) in enumerate(self._stages)
        }
        record = _record(self.answer)
        if error or record:
            span.set_status(StatusCode.ERROR, f"handed back: {error}" if error else str(record))
        if record:
            _mark([stages[place] for place, (stage, _, _) in enumerate(self._stages) if stage == record.stage], record)
        for place, (_, _, end) in enumerate(self._stages):
            stages[place].end(moment(end))
        span.end(moment(self._end))


def _record(answer: Answer | None) -> FailureRecord | None:
    """Why the chunk, or one of its models, has failed."""
    if isinstance(answer, Failure):
        return answer.record
    return answer.failed[0] if answer and answer.failed else None


def _mark(spans: Sequence[Span], record: FailureRecord) -> None:
    """The last time in a stage is the one that has failed."""
    if spans:
        spans[-1].set_status(StatusCode.ERROR, f"{record.type}: {record.text}")
