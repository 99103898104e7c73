"""The report's page: words, tables and charts in one HTML document that asks nobody for anything.

JobFacts --words, figures--> sections --escaped--> HTML; the browser runs no script but ours, by SHA-256
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Collection, Sequence
from html import escape

from producer.report import figures, tables
from producer.report.gather import JobFacts
from producer.report.timeline_lanes import MOST_GROUPS

MOST_FAILURES = 200
MOST_EVENTS = 100

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #f4f5f7; color: #28303a; font: 14px/1.5 system-ui, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 24px 20px 48px; }
header h1 { margin: 0; font-size: 24px; }
header h1 code { font-size: 22px; }
.state { display: inline-block; margin-left: 10px; padding: 1px 12px; border-radius: 12px; font-size: 14px;
  font-weight: 600; vertical-align: 3px; color: white; background: #57606a; }
.state.done { background: #1f7a4d; } .state.failed { background: #b3202c; } .state.running { background: #1f6feb; }
.sub { margin: 2px 0 0; color: #5b6672; overflow-wrap: anywhere; }
.verdict { margin: 14px 0; font-size: 17px; font-weight: 600; }
.note { margin: 6px 0; color: #5b6672; } .error { color: #b3202c; font-weight: 600; overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 10px; margin: 14px 0; }
.card { background: white; border: 1px solid #dde1e6; border-radius: 8px; padding: 9px 14px; }
.card b { display: block; font-size: 20px; font-variant-numeric: tabular-nums; } .card span { color: #5b6672; }
section { background: white; border: 1px solid #dde1e6; border-radius: 8px; padding: 14px 18px; margin: 14px 0; }
section h2 { margin: 0 0 6px; font-size: 17px; } section h3 { margin: 16px 0 4px; font-size: 14px; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
th { text-align: left; color: #5b6672; font-weight: 600; white-space: nowrap; }
td.digest { font: 11px/20px ui-monospace, monospace; white-space: nowrap; }
th, td { padding: 3px 14px 3px 0; border-bottom: 1px solid #eef0f3; vertical-align: top; overflow-wrap: anywhere; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 30px; align-items: start; }
.chart { width: 100%; overflow: hidden; }
"""
_DIGEST = ' class="digest"'
_SCRIPT = """
const figures = JSON.parse(document.getElementById('figures').textContent);
const options = {displaylogo: false, responsive: true, modeBarButtonsToRemove: ['select2d', 'lasso2d', 'autoScale2d']};
Promise.all(Object.entries(figures).map(([id, one]) => Plotly.newPlot(`chart-${id}`, one.data, one.layout, options)))
  .then(() => { document.body.dataset.drawn = 'yes'; });
"""


def make_page(facts: JobFacts, plotly_script: str) -> str:
    """The whole page; `plotly_script` is plotly.js, all of it."""
    charts = figures.charts(facts)
    scripts = [plotly_script.replace("\r", ""), _SCRIPT] if charts else []
    allowed = " ".join(f"'sha256-{_digest(script)}'" for script in scripts) or "'none'"
    policy = f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"
    plain = json.dumps(charts, separators=(",", ":")).replace("<", "\\u003c")
    data = f'<script type="application/json" id="figures">{plain}</script>\n' if charts else ""
    title = f"Job {facts.record.id}"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)} - Celeriac</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"{_head(facts)}\n{''.join(_sections(facts, charts))}</main>\n{data}"
        f"{''.join(f'<script>{script}</script>' for script in scripts)}\n</body>\n</html>\n"
    )


def _sections(facts: JobFacts, charts: Collection[str]) -> list[str]:
    """All sections in order, with places for these charts."""
    ledger = tables.ledger_rows(facts)
    halves = "".join(_table(("", "count", ""), part, numbers=(1,)) for part in (ledger[:8], ledger[8:]))
    sections = [_section("Ledger", f'<p>{escape(tables.balance(facts))}</p><div class="two">{halves}</div>')]
    if "lanes" in charts:
        drawn = sum(bool(entry.begun_at) for entry in facts.entries)
        sections.append(_section("Timeline", _note(_of_lanes(facts, drawn)), _chart("lanes")))
        body = ["<h3>Rows joined per second</h3>", _chart("rate")]
        if "flight" in charts:
            body += ["<h3>Chunks in flight</h3>", _chart("flight")]
        sections.append(_section("Throughput", *body))
    else:
        sections.append(_section("Timeline", _note("There is nothing to be drawn.")))
    if "stages" in charts:
        share = tables.busy_share(facts) or 0.0
        text = f"Slots were busy {100 * share:.0f} % of their time; in the rest they waited for a chunk."
        sections.append(_section("Stages", _note(text), _chart("stages")))
    else:
        sections.append(_section("Stages", _note("Nobody knows what slots did: no answer has been taken.")))
    slow = ("chunk", "rows", "slot", "answered at, s", "took, s", "mostly, s", "waited, s", "times sent")
    rows = tables.slowest_rows(facts)
    text = "" if rows else "No chunk has been joined."
    sections.append(_section("Slowest chunks", _note(text), _table(slow, rows, numbers=(0, 3, 4, 6, 7))))
    return [*sections, _failures(facts), _provenance(facts)]


def _head(facts: JobFacts) -> str:
    record, ledger = facts.record, facts.record.ledger
    seconds, share = tables.seconds_of(facts), tables.busy_share(facts)
    predicted = ledger.get("predicted", 0) - ledger.get("resumed", 0)
    cards = [
        (f"{ledger.get('predicted', 0):,}", "rows predicted"),
        (f"{ledger.get('failed', 0):,}", "rows failed"),
        (f"{seconds:,.2f} s", "submit to " + ("now" if facts.state.value == "running" else "end")),
        (f"{predicted / seconds:,.0f}" if seconds else "?", "rows per second"),
        ("?" if share is None else f"{100 * share:.0f} %", f"busy, of {tables.slots_of(facts) or '?'} slots"),
        (f"{ledger.get('chunks_answered', 0):,}", "chunks answered"),
        (f"{ledger.get('chunks_sent_again', 0):,}", "times sent again"),
    ]
    shown = "".join(
        f'<div class="card"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for value, name in cards
    )
    error = f'<p class="error">{escape(record.error)}</p>' if record.error else ""
    return (
        f"<header><h1>Job <code>{escape(record.id)}</code>"
        f'<span class="state {facts.state.value}">{facts.state.value}</span></h1>'
        f'<p class="sub">{escape(", ".join(record.models))} over {escape(record.input)}</p></header>\n'
        f'<p class="verdict">{escape(tables.verdict(facts))}.</p>{error}{_note(facts.note)}\n'
        f'<div class="cards">{shown}</div>'
    )


def _of_lanes(facts: JobFacts, drawn: int) -> str:
    """What is to be known of the timeline."""
    summary = facts.summary
    notes = [
        "One lane for each slot; marks show where something went wrong or was done twice. Away: its child died and "
        "another one loaded, or it worked for another job. Drag to zoom in."
    ]
    if summary.every > 1:
        notes.append(
            f"Of {summary.every} chunks one is shown ({drawn:,} in all), which stands for those up to the next; rates, "
            "stages and slowest chunks are of all."
        )
    if drawn > MOST_GROUPS:
        notes.append(f"Neighbours are drawn together, {-(-drawn // MOST_GROUPS)} chunks at a time.")
    if tables.slots_of(facts) > figures.MOST_LANES:
        notes.append(f"The first {figures.MOST_LANES} slots are shown.")
    return " ".join(notes)


def _failures(facts: JobFacts) -> str:
    records = facts.failures[:MOST_FAILURES]
    rows = [
        (one.rows.removeprefix("rows ").removeprefix("row "), one.model, one.stage, one.type, one.text)
        for one in records
    ]
    failed = facts.record.ledger.get("failed", 0)
    text = f"The first {MOST_FAILURES} records; {failed:,} rows failed." if len(facts.failures) > MOST_FAILURES else ""
    body = [
        _note(text or ("" if rows else "No row has failed.")),
        _table(("rows", "model", "stage", "type", "text"), rows),
    ]
    if events := tables.event_rows(facts, MOST_EVENTS):
        count = len(facts.summary.events) + facts.summary.more_events
        of = f" (the first {MOST_EVENTS} of {count:,})" if count > MOST_EVENTS else ""
        body += [f"<h3>Out of the ordinary{of}</h3>"]
        body += [_table(("at, s", "what", "chunk", "slot", "why"), events, numbers=(0, 2))]
    return _section("Failures", *body)


def _provenance(facts: JobFacts) -> str:
    return _section(
        "Provenance",
        "<h3>Models</h3>",
        _table(("model", "digest (SHA-256)", "executor", "batch rows", "how"), tables.model_rows(facts), numbers=(3,)),
        "<h3>Workers</h3>",
        _table(
            ("worker", "slots", "machine", "threads of a child", "versions"), tables.worker_rows(facts), numbers=(1,)
        ),
        '<div class="two"><div><h3>Job</h3>',
        _table(("", ""), tables.job_rows(facts)),
        "</div><div><h3>Settings</h3>",
        _table(("", ""), tables.setting_rows(facts)),
        "</div></div>",
    )


def _section(title: str, *body: str) -> str:
    return f'<section id="{title.split()[0].lower()}"><h2>{title}</h2>{"".join(body)}</section>\n'


def _chart(name: str) -> str:
    return f'<div class="chart" id="chart-{name}"></div>'


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>' if text else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table whose texts are all escaped here; nothing where there are no rows."""
    if not rows:
        return ""

    def line(cells: Sequence[str], tag: str) -> str:
        kinds = [
            ' class="number"' if at in numbers else _DIGEST if len(cell) == 64 else "" for at, cell in enumerate(cells)
        ]
        return "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))

    titles = f"<thead><tr>{line(head, 'th')}</tr></thead>" if any(head) else ""
    lines = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return f"<table>{titles}<tbody>{lines}</tbody></table>"


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
