"""Gives a process its tracer, where traces are wanted: the application's own, or one that sends spans.

    OTEL_TRACES_EXPORTER=otlp      spans --> queue of the SDK, its thread --> OTLP over HTTP, to a collector
    OTEL_TRACES_EXPORTER=console   spans --> stderr

We import nothing of OpenTelemetry before somebody wants it; redis-py does, where it is installed. A collector that is
away costs spans, never a chunk.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from worker_config.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Tracer

logger = logging.getLogger(__name__)

NAME = "celeriac"
# Of one request; the SDK's 10 would hold up the end of a process whose collector is away.
TIMEOUT_SECONDS = 2.0
# Between a span's end and its leaving; the SDK's 5000 would lose more with a process that is killed.
DELAY_MS = 1000

_own: TracerProvider | None = None


def check(exporters: Sequence[str]) -> None:
    """See whether traces can be sent as they are wanted; what is imported for it is shared with later forks.

    Raises:
        ConfigError: OpenTelemetry is not installed, or one of its variables has a value that will not do.
    """
    with _config_errors(exporters):
        for name in exporters:
            _exporter(name).shutdown()


def start(exporters: Sequence[str]) -> None:
    """Let this process send spans, until `stop` or its end; not before a fork. Harmless when repeated.

    Raises:
        ConfigError: as `check`.
    """
    global _own
    if not exporters or _own or _of_application():
        return
    with _config_errors(exporters):
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        resource = Resource.create()
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: NAME}))
        delay_ms = None if os.environ.get("OTEL_BSP_SCHEDULE_DELAY") else DELAY_MS
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        for name in exporters:
            provider.add_span_processor(BatchSpanProcessor(_exporter(name), schedule_delay_millis=delay_ms))
    _own = provider
    atexit.register(stop)


@contextmanager
def _config_errors(exporters: Sequence[str]) -> Iterator[None]:
    protocol = _variable("PROTOCOL") or "http/protobuf"
    if "otlp" in exporters and protocol != "http/protobuf":
        raise ConfigError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol!r}: traces leave by http/protobuf alone; leave it out"
        )
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"OTEL_TRACES_EXPORTER={','.join(exporters)} asks for traces, which need more than is installed ({error}): "
            "pip install 'celeriac[tracing]', or set it to none"
        ) from None
    except ValueError as error:
        raise ConfigError(f"a variable of OpenTelemetry (OTEL_...) will not do: {error}") from None


def tracer() -> Tracer | None:
    """What makes spans in this process; None where nobody wants any."""
    provider = _of_application() or _own
    return provider.get_tracer(NAME) if provider else None


def stop() -> None:
    """Send what waits, for a few seconds at most, and no more."""
    global _own
    own, _own = _own, None
    if own:
        atexit.unregister(stop)
        own.shutdown()


def _of_application() -> TracerProvider | None:
    """The tracer provider of the application that we are part of, if it has set one."""
    api = sys.modules.get("opentelemetry.trace")
    provider: TracerProvider | None = api.get_tracer_provider() if api else None
    # Until one is set, the API gives a stand-in that cannot be flushed.
    return provider if hasattr(provider, "force_flush") else None


def _exporter(name: str) -> SpanExporter:
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    if name == "console":
        # Not stdout, which is for results.
        return ConsoleSpanExporter(out=sys.__stderr__ or sys.stderr)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    from worker_config.telemetry.quiet_exporter import QuietExporter

    return QuietExporter(OTLPSpanExporter(timeout=None if _variable("TIMEOUT") else TIMEOUT_SECONDS))


def _variable(name: str) -> str:
    """A variable of the exporter: that of traces, or that of all signals."""
    return os.environ.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}") or os.environ.get(f"OTEL_EXPORTER_OTLP_{name}", "")
