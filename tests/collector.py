"""A collector of traces on loopback: takes spans by OTLP over HTTP, and keeps them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Span:
    """One span; `begin` and `end` in seconds, `error` is the text of its status."""

    name: str
    trace: bytes
    id: bytes
    parent: bytes
    begin: float
    end: float
    service: str
    failed: bool
    error: str
    attributes: dict[str, Any]


@dataclass
class Collector:
    """What has come, and from where it can be sent."""

    url: str
    spans: list[Span] = field(default_factory=list)

    def named(self, name: str, **attributes: object) -> list[Span]:
        """The spans of this name, and with these attributes, in the order of their beginning."""
        wanted = {f"celeriac.{key}": value for key, value in attributes.items()}
        found = [one for one in list(self.spans) if one.name == name and wanted.items() <= one.attributes.items()]
        return sorted(found, key=lambda one: one.begin)

    def inside(self, span: Span) -> list[Span]:
        """The spans whose parent this one is, in the order of their beginning."""
        return sorted((one for one in list(self.spans) if one.parent == span.id), key=lambda one: one.begin)


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector, for as long as the block lasts."""
    collector = Collector("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
            collector.spans += [
                _span(span, _plain(of_resource.resource.attributes)["service.name"])
                for of_resource in request.resource_spans
                for scope in of_resource.scope_spans
                for span in scope.spans
            ]
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


def _span(span: Any, service: str) -> Span:
    return Span(
        name=span.name,
        trace=span.trace_id,
        id=span.span_id,
        parent=span.parent_span_id,
        begin=span.start_time_unix_nano / 1e9,
        end=span.end_time_unix_nano / 1e9,
        service=service,
        failed=span.status.code == span.status.STATUS_CODE_ERROR,
        error=span.status.message,
        attributes=_plain(span.attributes),
    )


def _plain(attributes: Any) -> dict[str, Any]:
    return {one.key: _value(one.value) for one in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind)
