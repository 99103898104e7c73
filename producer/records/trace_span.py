"""Makes the span of a job, the root of its trace, and the headers that carry it to the workers.

begin --> headers (W3C `traceparent`), on every message of the job --> end, with what became of it

Where nobody wants traces, there is no span, there are no headers, and nothing is imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tasks.protocol.messages import ModelRef
from worker_config.telemetry.tracing import tracer

if TYPE_CHECKING:
    from opentelemetry.trace import Span


class JobTrace:
    """One job, or the submission of one that goes on without its producer; `headers` are for messages of its chunks."""

    def __init__(self, span: Span | None, headers: dict[str, str]) -> None:
        self.headers = headers
        self._span = span

    def end(self, state: str, ledger: Mapping[str, int], error: str) -> None:
        """The job has ended, with an error if there is a text; or it was left, in the state "running"."""
        if self._span is None:
            return
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("celeriac.state", state)
        for name, count in ("rows", "rows"), ("chunks", "chunks_sent"), ("predicted", "predicted"):
            if count in ledger:
                self._span.set_attribute(f"celeriac.{name}", ledger[count])
        if error:
            self._span.set_status(StatusCode.ERROR, error)
        self._span.end()


def begin(job_id: str, models: Sequence[ModelRef], store: str) -> JobTrace:
    """The span of a job that begins now; part of the caller's own span, if there is one."""
    maker = tracer()
    if maker is None:
        return JobTrace(None, {})
    from opentelemetry import propagate, trace

    attributes = {
        "celeriac.job": job_id,
        "celeriac.models": [str(model) for model in models],
        "celeriac.digests": [model.digest for model in models],
        "celeriac.store": store,
    }
    span = maker.start_span("celeriac job", kind=trace.SpanKind.PRODUCER, attributes=attributes)
    headers: dict[str, str] = {}
    propagate.inject(headers, trace.set_span_in_context(span))
    return JobTrace(span, headers)
