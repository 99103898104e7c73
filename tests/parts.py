"""Chunks for tests that need some, of one size."""

from __future__ import annotations

from producer.scheduling.chunk_sizer import Chunk


def split(rows: int, chunk_rows: int) -> list[Chunk]:
    """Chunks of `chunk_rows` rows, the last one shorter; zero rows are one chunk."""
    starts = range(0, rows, chunk_rows) if rows else [0]
    return [Chunk(index, start, min(start + chunk_rows, rows)) for index, start in enumerate(starts)]
