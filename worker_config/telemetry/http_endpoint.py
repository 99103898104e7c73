"""Serves metrics over HTTP, for Prometheus: what a function gives, at the time when somebody asks.

collect() --metric, each--> http://HOST:PORT/metrics
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from worker_config.errors import ConfigError

if TYPE_CHECKING:
    from prometheus_client import Metric


def metric(
    kind: Literal["counter", "gauge"],
    name: str,
    text: str,
    numbers: Sequence[tuple[tuple[str, ...], float]] | float,
    labels: tuple[str, ...] = (),
) -> Metric:
    """One metric as it is now: its numbers with the values of its labels, or one number alone.

    The name has a prefix; Prometheus adds `_total` to that of a counter.
    """
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

    form = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
    family: CounterMetricFamily | GaugeMetricFamily = form(name, text, labels=labels)
    for values, number in numbers if isinstance(numbers, Sequence) else [((), numbers)]:
        family.add_metric(values, number)
    return family


class HttpEndpoint:
    """One address at which metrics are served, by threads of its own, until it is closed or the process ends.

    Args:
        collect: what is told; called by these threads, perhaps by two at a time.
        host: the address to listen at.
        port: 1 to 65535.

    Raises:
        ConfigError: prometheus_client is not installed, or the port cannot be had.
    """

    def __init__(self, collect: Callable[[], Iterable[Metric]], host: str, port: int) -> None:
        try:
            from prometheus_client import CollectorRegistry, start_http_server
        except ImportError:
            raise ConfigError("metrics need the library prometheus_client: pip install 'celeriac[metrics]'") from None
        registry = CollectorRegistry()
        self.collect = collect  # which the registry asks for
        registry.register(self)
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"metrics cannot be served at {host}:{port}: {why}; choose another port, by CELERIAC_METRICS_PORT or "
                "--metrics-port, or another CELERIAC_METRICS_HOST"
            ) from None
        self._app: Any = self._server.get_app()
        self._server.set_app(self._serve)
        self._begun = self._answered = 0
        self._changed = threading.Condition()
        # A child that outlives this process must not keep the port.
        os.register_at_fork(after_in_child=self._server.socket.close)

    def wait_for_scrape(self, timeout_seconds: float) -> None:
        """If somebody has asked before, wait until all is told that there is now; or until the time is up."""
        with self._changed:
            now = self._begun
            if now:
                self._changed.wait_for(lambda: self._answered > now, timeout_seconds)

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _serve(self, environ: Any, start_response: Any) -> Iterator[bytes]:
        with self._changed:
            self._begun += 1
            number = self._begun
        yield from self._app(environ, start_response)
        # Asked for more, all before has been sent.
        with self._changed:
            self._answered = max(self._answered, number)
            self._changed.notify_all()
