"""The report's charts, as the values that plotly's script takes; no plotly is needed to make them.

summary, entries --lanes--> timeline, rows by time, chunks in flight; stages of the record --> seconds by stage
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from producer.records.timeline import Event, Outcome, TimelineSummary, halved
from producer.report.gather import JobFacts
from producer.report.timeline_lanes import AWAY, KINDS, MOST_GROUPS, Bar, Span, bars_of, short_names, spans_of
from tasks.protocol.messages import STAGES

Figure = dict[str, Any]

COLOURS = {"waiting": "#e3e6ea", "reading": "#4c9be8", "computing": "#2f9e6e", "writing": "#a78bda", AWAY: "#f6e3e1"}
_INK, _GRID = "#28303a", "#e8ebef"
# What an event looks like, on the lane of its slot or on that of the job; what follows at once is smaller, and on top.
_MARKS = {
    "slot gone": ("x", "#d1242f", 15),
    "came back": ("circle", "#d1242f", 15),
    "rows failed": ("square", "#d1242f", 12),
    "duplicate": ("diamond", "#7c5cbf", 12),
    "sent again": ("triangle-right", "#f0a020", 9),
    "slot came": ("triangle-up", "#1f7a4d", 9),
}
JOB_LANE = "the job"
MOST_LANES = 100
_LEFT = 190
_RATE_BINS = 60
_SAMPLES = 200


def charts(facts: JobFacts, most_groups: int = MOST_GROUPS) -> dict[str, Figure]:
    """Those of `lanes`, `rate`, `flight` and `stages` for which something is known."""
    made, summary = {}, facts.summary
    if facts.entries:
        spans = spans_of(facts.entries, summary.began_at)
        bars = bars_of(spans, summary.every, most_groups)
        last = max([span.done for span in spans], default=0.0)
        seconds = max(last, facts.record.updated_at - summary.began_at)
        made["lanes"] = timeline(summary, bars, seconds)
        made["rate"] = throughput(summary, seconds)
        if any(span.sent is not None for span in spans):
            made["flight"] = in_flight(summary, spans, seconds)
    if facts.record.stages:
        made["stages"] = stages(facts.record.stages)
    return made


def timeline(summary: TimelineSummary, bars: Sequence[Bar], seconds: float) -> Figure:
    """A lane for each slot: what it did when; and marks where something went wrong."""
    names = short_names({bar.slot for bar in bars} | {event.slot for event in summary.events if event.slot})
    shown = dict(list(names.items())[:MOST_LANES])
    lanes = [escape(name) for name in shown.values()]
    data: list[Figure] = []
    for kind in (*KINDS, AWAY):
        own = [bar for bar in bars if bar.kind == kind and bar.slot in shown]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": kind,
                "y": [escape(shown[bar.slot]) for bar in own],
                "base": [round(bar.start, 6) for bar in own],
                "x": [round(bar.seconds, 6) for bar in own],
                "hovertext": [_of_bar(bar) for bar in own],
                "hoverinfo": "text",
                "marker": {"color": COLOURS[kind], "line": {"width": 0}},
            }
        )
    data[-1]["marker"]["pattern"] = {"shape": "/", "fgcolor": "#c9827c", "size": 7}
    data = [trace for trace in data if trace["y"]]
    marks = _marks(summary, shown)
    if any(JOB_LANE in trace["y"] for trace in marks):
        lanes.append(JOB_LANE)
    height = max(14, min(44, 900 // max(1, len(lanes)))) * len(lanes) + 110
    layout = _layout(height, _categories(lanes), seconds) | {"barmode": "overlay", "bargap": 0.25}
    return {"data": data + marks, "layout": layout}


def throughput(summary: TimelineSummary, seconds: float) -> Figure:
    """Rows per second over time."""
    width, bins = summary.bin_seconds, summary.bins
    # Narrower bins than answers come would show the answers, not the rate.
    while len(bins) > _RATE_BINS or (len(bins) > 8 and summary.answers < 2 * len(bins)):
        bins, width = halved(bins), 2 * width
    starts = [place * width for place in range(len(bins))]
    rates = [
        rows / max(1e-6, min(width, seconds - start) if seconds > start else width)
        for rows, start in zip(bins, starts, strict=True)
    ]
    trace = {
        "type": "scatter",
        "mode": "lines",
        "name": "rows per second",
        "x": [round(start, 6) for start in (*starts, seconds)],
        "y": [round(rate, 3) for rate in (*rates, *rates[-1:])],
        "line": {"shape": "hv", "color": COLOURS["computing"], "width": 2},
        "fill": "tozeroy",
        "fillcolor": "rgba(47, 158, 110, 0.15)",
        "hovertemplate": "%{y:,.0f} rows per second<br>from %{x:.2f} s<extra></extra>",
    }
    across = {"title": {"text": "rows per second"}, "rangemode": "tozero", "tickformat": "~s"}
    return {"data": [trace], "layout": _layout(240, across, seconds, legend=False)}


def in_flight(summary: TimelineSummary, spans: Sequence[Span], seconds: float) -> Figure:
    """How many chunks wait in a queue, and how many are with a child, over time."""
    known = [span for span in spans if span.sent is not None]
    sent, begun, done = (np.sort([getattr(span, name) for span in known]) for name in ("sent", "begun", "done"))
    at = np.linspace(0.0, seconds, _SAMPLES)
    counts = [np.searchsorted(times, at, side="right") for times in (sent, begun, done)]
    waiting, running = counts[0] - counts[1], counts[1] - counts[2]
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "stackgroup": "chunks",
            "name": name,
            "x": np.round(at, 6).tolist(),
            "y": (np.maximum(many, 0) * summary.every).tolist(),
            "line": {"shape": "hv", "width": 1, "color": colour},
            "fillcolor": colour,
            "hovertemplate": f"%{{y:.0f}} {name}<extra></extra>",
        }
        for name, many, colour in (
            ("with a child", running, COLOURS["computing"]),
            ("waiting in a queue", waiting, "#c3c9d1"),
        )
    ]
    layout = _layout(240, {"title": {"text": "chunks"}, "rangemode": "tozero"}, seconds)
    return {"data": data, "layout": layout}


def stages(seconds_by_stage: Mapping[str, float]) -> Figure:
    """What slots did in all seconds of the job, by stage, in the order in which a chunk passes them."""
    total = sum(seconds_by_stage.values()) or 1.0
    names = [name for name in (*STAGES, *sorted(seconds_by_stage.keys() - set(STAGES))) if name in seconds_by_stage]
    kind_of = {stage: kind for kind, members in KINDS.items() for stage in members}
    values = [seconds_by_stage[name] for name in names]
    trace = {
        "type": "bar",
        "orientation": "h",
        "y": [escape(name) for name in names],
        "x": [round(value, 6) for value in values],
        "text": [f"{value:,.2f} s, {100 * value / total:.1f} %" for value in values],
        "textposition": "outside",
        "cliponaxis": False,
        "hoverinfo": "y+text",
        "marker": {"color": [COLOURS.get(kind_of.get(name, ""), "#888888") for name in names]},
    }
    longest = 1.15 * max(values, default=1.0) or 1.0
    height = max(120, 28 * len(names) + 70)
    layout = _layout(height, _categories(names), longest, "seconds of slots", legend=False)
    return {"data": [trace], "layout": layout}


def _of_bar(bar: Bar) -> str:
    first, last = bar.entries[0], bar.entries[-1]
    if bar.kind == AWAY:
        return f"no child, or at work for another job<br>{bar.seconds:.3f} s"
    own = f"{bar.kind} {bar.seconds:.3f} s"
    if first is not last:
        return f"{len(bar.entries)} chunks, {first.index} to {last.index}<br>{own}"
    again = f"<br>sent {first.times_sent} times" if first.times_sent > 1 else ""
    outcome = "" if first.outcome is Outcome.JOINED else f"<br>{escape(first.outcome)}"
    return f"chunk {first.index}, rows {first.start:,}-{first.stop:,}<br>{own}{again}{outcome}"


def _marks(summary: TimelineSummary, names: Mapping[str, str]) -> list[Figure]:
    by_kind: defaultdict[str, list[Event]] = defaultdict(list)
    for event in summary.events:
        if not event.slot or event.slot in names:
            by_kind[event.kind].append(event)
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": kind,
            "y": [escape(names[event.slot]) if event.slot else JOB_LANE for event in events],
            "x": [round(event.at - summary.began_at, 6) for event in events],
            "hovertext": [_of_event(event) for event in events],
            "hoverinfo": "text",
            "marker": {
                "symbol": _MARKS[kind][0],
                "color": _MARKS[kind][1],
                "size": _MARKS[kind][2],
                "line": {"width": 1, "color": "white"},
            },
        }
        for kind in _MARKS
        if (events := by_kind.get(kind))
    ]


def _of_event(event: Event) -> str:
    chunk = "" if event.index is None else f", chunk {event.index}"
    return f"{event.kind}{chunk}<br>{escape(event.text[:120])}"


def _categories(names: Sequence[str]) -> Figure:
    """A vertical axis with these lines from top to bottom."""
    return {"type": "category", "categoryorder": "array", "categoryarray": names[::-1], "showgrid": False}


def _layout(
    height: int, across: Figure, end: float, title: str = "seconds since the job began", *, legend: bool = True
) -> Figure:
    grid = {"gridcolor": _GRID, "zerolinecolor": _GRID}
    return {
        "height": height,
        "margin": {"l": _LEFT, "r": 24, "t": 34 if legend else 12, "b": 48},
        "font": {"size": 12, "color": _INK, "family": "system-ui, sans-serif"},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "xaxis": {"title": {"text": title}, **grid, "range": [0, max(end, 1e-3)]},
        "yaxis": {**grid, "fixedrange": True, **across},
        **({} if legend else {"showlegend": False}),
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "traceorder": "normal"},
        "hoverlabel": {"align": "left"},
    }
