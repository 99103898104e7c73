"""What `celery -A tasks inspect stats` shows of the connection to Redis: Celery itself leaves some passwords in it."""

from __future__ import annotations

from typing import Any

from celery import bootsteps

from worker_config.broker_url import redacted


class BrokerInfo(bootsteps.StartStopStep):  # type: ignore[misc]
    """Tells of the broker after Celery has, and so in its place."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def info(self, consumer: Any) -> dict[str, Any]:
        """The broker's part of the reply; empty while there is no connection."""
        return {"broker": without_passwords(consumer.connection.info())} if consumer.connection else {}


def without_passwords(value: Any) -> Any:
    """The same without entries that are named so, with `***` in URLs; what JSON does not know as text."""
    if isinstance(value, dict):
        return {name: without_passwords(one) for name, one in value.items() if "password" not in name}
    if isinstance(value, list | tuple):
        return [without_passwords(one) for one in value]
    if isinstance(value, str):
        return redacted(value)
    return value if value is None or isinstance(value, bool | int | float) else type(value).__name__
