"""Sends spans to a collector that may be away: it says so once, and leaves it alone for a while.

spans --> OTLP exporter --it failed--> one warning, and no further try for 30 seconds; the spans are lost
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http import trace_exporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

logger = logging.getLogger(__name__)

# A process that ends waits for one request at most, not for one for each batch.
PAUSE_SECONDS = 30.0


class QuietExporter(SpanExporter):
    """An exporter that fails seldom, quickly and quietly."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._not_before = 0.0
        self._has_warned = False
        self._last_record = _LastRecord()
        # The exporter complains of every try.
        logging.getLogger(trace_exporter.__name__).addFilter(self._last_record)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans, or drop them."""
        if time.monotonic() < self._not_before:
            return SpanExportResult.FAILURE
        result = self._exporter.export(spans)
        if result is SpanExportResult.FAILURE:
            self._not_before = time.monotonic() + PAUSE_SECONDS
            if not self._has_warned:
                logger.warning(
                    "traces are lost: the collector does not take them, see OTEL_EXPORTER_OTLP_ENDPOINT (%s)",
                    self._last_record.text,
                )
            self._has_warned = True
        return result

    def shutdown(self) -> None:
        """Send no more."""
        self._exporter.shutdown()
        logging.getLogger(trace_exporter.__name__).removeFilter(self._last_record)


class _LastRecord(logging.Filter):
    """Keeps the last record from the log."""

    text = ""

    def filter(self, record: logging.LogRecord) -> bool:
        self.text = record.getMessage()
        return False
