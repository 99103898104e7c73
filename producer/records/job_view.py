"""What a job shows of itself where nobody has asked for more: in a line, and as HTML below a notebook's cell.

id, state, record, rows by time --> `<Job 3f2a90bc41d7: digits@cb9aa511, running, 1,200 of 1,797 rows done>`
                                --> a table with a time line of rows
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from producer.records.job_store import JobState
from producer.records.progress import progress_of
from tasks.protocol.records import JobRecord

# Of the drawing, in pixels, and how many bars it has at most.
_WIDTH, _HEIGHT, _MOST_BARS = 400, 40, 100


def line(kind: str, state: JobState, record: JobRecord) -> str:
    """The job in a line; `kind` is the name of its class."""
    return f"<{kind} {record.id}: {', '.join(record.models)}, {state}, {_rows_done(state, record)}>"


def html(state: JobState, record: JobRecord, bin_seconds: float = 0.0, bins: Sequence[int] = ()) -> str:
    """The job as a table; `bins` are rows that were joined in each `bin_seconds` since its beginning, where known."""
    progress = progress_of(state, record)
    cells = {
        "job": record.id,
        "state": state.value,
        "models": ", ".join(record.models),
        "input": record.input,
        "rows": _rows_done(state, record),
        "seconds": f"{progress.seconds:,.1f}",
        "ledger": ", ".join(f"{name} {count:,}" for name, count in record.ledger.items() if count),
        "error": record.error,
    }
    lines = [
        f'<tr><th style="text-align:left">{name}</th><td style="text-align:left">{escape(text)}</td></tr>'
        for name, text in cells.items()
        if text
    ]
    if any(bins):
        lines.append(f'<tr><th style="text-align:left">rows/s</th><td>{_drawing(bin_seconds, bins)}</td></tr>')
    return f"<table>{''.join(lines)}</table>"


def _rows_done(state: JobState, record: JobRecord) -> str:
    rows = "?" if record.rows is None else f"{record.rows:,}"
    failed = record.ledger.get("failed", 0)
    return f"{progress_of(state, record).done:,} of {rows} rows done{f', {failed:,} of them failed' if failed else ''}"


def _drawing(bin_seconds: float, bins: Sequence[int]) -> str:
    """A bar for each time; times are put together until they are few."""
    together = -(-len(bins) // _MOST_BARS)
    rates = [sum(bins[at : at + together]) / (bin_seconds * together) for at in range(0, len(bins), together)]
    width, most = _WIDTH / len(rates), max(rates)
    bars = "".join(
        f'<rect x="{at * width:.1f}" y="{_HEIGHT * (1 - rate / most):.1f}" width="{width:.1f}" '
        f'height="{_HEIGHT * rate / most:.1f}"/>'
        for at, rate in enumerate(rates)
    )
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" fill="currentColor" role="img">'
        f"<title>rows per second, at most {most:,.0f}, over {len(bins) * bin_seconds:.1f} s</title>{bars}</svg>"
    )
