"""Traces are off unless asked for, an error where they cannot be, and no trouble without a collector."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from producer.records import trace_span
from tasks.protocol.messages import ChunkMessage, InlineRef, ModelRef
from tasks.telemetry.chunk_spans import MOST_STAGES, ChunkTrace
from tasks.telemetry.stopwatch import Stopwatch
from tests.collector import collecting
from worker_config.errors import ConfigError
from worker_config.settings import Settings
from worker_config.telemetry import tracing

JOB = "0123456789ab"
MODELS = [ModelRef("digits", "1d39e655aa")]
# An application with a tracer of its own, in whose span a job begins.
APPLICATION = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from producer.records import trace_span
from worker_config.telemetry import tracing
from tasks.protocol.messages import ModelRef

spans, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)
tracing.start(("console",))
with trace.get_tracer("app").start_as_current_span("request") as request:
    begun = trace_span.begin("0123456789ab", [ModelRef("digits", "1d39e655aa")], "redis")
    begun.end("done", {"rows": 3}, "")
tracing.stop()
(job, _) = spans.get_finished_spans()
assert job.parent.span_id == request.get_span_context().span_id
assert begun.headers["traceparent"].split("-")[2] == trace.format_span_id(job.context.span_id)
"""


@pytest.fixture(autouse=True)
def ended() -> None:
    """No test finds the tracer of another."""
    tracing.stop()


def test_off_we_import_nothing_of_it() -> None:
    code = (
        "import sys, producer, producer.records.trace_span, tasks.celery\n"
        "import tasks.child.execute_chunk, tasks.child.bootstrap, tasks.worker.main_process\n"
        "assert producer.records.trace_span.begin('0', [], 'redis').headers == {}\n"
        # redis-py brings the other half itself, where it finds it.
        "assert not {'opentelemetry.sdk.trace', 'opentelemetry.exporter', 'opentelemetry.propagate'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, ()),
        ({"OTEL_TRACES_EXPORTER": "none"}, ()),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, ("otlp",)),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, ("console", "otlp")),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "TRUE"}, ()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://elsewhere:4318"}, ()),
    ],
)
def test_one_variable_switches_them_on(environ: dict[str, str], expected: tuple[str, ...]) -> None:
    assert Settings.from_env(environ).trace_exporters == expected


def test_what_cannot_be_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="OTEL_TRACES_EXPORTER has 'zipkin'; traces go by otlp"):
        Settings.from_env({"OTEL_TRACES_EXPORTER": "otlp,zipkin"})
    with monkeypatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_PROTOCOL='grpc'"):
            tracing.start(("otlp",))
    with monkeypatch.context() as patch:
        patch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "0")
        with pytest.raises(ConfigError, match="will not do: max_queue_size"):
            tracing.start(("otlp",))
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace.export", None)
    with pytest.raises(ConfigError, match=r"pip install 'celeriac\[tracing\]'"):
        tracing.start(("otlp",))
    assert tracing.tracer() is None


def test_an_application_keeps_its_own_tracer() -> None:
    subprocess.run([sys.executable, "-c", APPLICATION], check=True)


def test_spans_carry_the_service_and_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "nightly")
        tracing.start(("otlp",))
        trace_span.begin(JOB, MODELS, "redis").end("cancelled", {"rows": 3}, f"job {JOB} was cancelled")
        tracing.stop()
    (span,) = collector.spans
    assert (span.service, span.failed, span.error) == ("nightly", True, f"job {JOB} was cancelled")
    assert span.attributes["celeriac.models"] == ["digits@1d39e655"]


def test_a_chunk_of_very_many_pieces_has_a_bounded_number_of_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        tracing.start(("otlp",))
        tracer, watch = tracing.tracer(), Stopwatch()
        assert tracer is not None
        trace = ChunkTrace(tracer, watch, "here/0")
        for stages in 2, 3 * MOST_STAGES, 2:
            watch.enter("fetch")
            trace.run(ChunkMessage(1, JOB, stages, 0, 4, None, MODELS, InlineRef(b"")), 1)
            for number in range(1, stages):
                watch.enter("infer" if number % 2 else "preprocess")
                watch.lap()
            watch.enter("wait")
            trace.close(None, None)
        tracing.stop()
    sizes = [len(collector.inside(chunk)) for chunk in collector.named("celeriac chunk")]
    assert sizes == [2, MOST_STAGES, 2]
    (long,) = collector.named("celeriac chunk", stages_left_out=2 * MOST_STAGES)
    assert not long.parent


def test_without_a_collector_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with collecting() as gone:
        pass
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", gone.url)
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
    tracing.start(("otlp",))
    with caplog.at_level(logging.WARNING):
        for _ in range(20):
            trace_span.begin(JOB, MODELS, "redis").end("done", {}, "")
        tracing.stop()
    (record,) = caplog.records
    assert "traces are lost" in record.getMessage()
