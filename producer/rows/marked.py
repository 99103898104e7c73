"""Batches of which some rows cannot be fed to a model: taken apart, put together."""

from __future__ import annotations

from collections.abc import Mapping

from producer.rows.source import Marked, Rows


def marked(rows: Rows, unfed: Mapping[int, str]) -> Rows:
    """Rows, those that cannot be fed marked, if there are any."""
    return Marked(rows, unfed) if unfed else rows


def plain(rows: Rows) -> Rows:
    """The rows without their marks."""
    return rows.rows if isinstance(rows, Marked) else rows


def unfed_of(rows: Rows) -> Mapping[int, str]:
    """Which of them cannot be fed, and why."""
    return rows.unfed if isinstance(rows, Marked) else {}
