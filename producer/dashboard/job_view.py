"""One job as it goes, as plain values by key: how far it is, the report's pictures, failures with their rows.

Redis --gather, as for `celeriac report`--> JobFacts --charts, tables--> {"head": ..., "chart:lanes": ..., ...}
"""

from __future__ import annotations

from typing import Any

import redis

from producer.dashboard.overview import job_values
from producer.records import job_store
from producer.records.job_store import JobState
from producer.report import charts, gather, tables
from producer.report.gather import JobFacts
from tasks.protocol.seal import Viewer

MOST_FAILURES = 200
MOST_EVENTS = 50
# In a picture that is sent and drawn again all the time.
MOST_GROUPS = 300


class JobView:
    """Reads one job, by its whole id; a job that has ended and has not changed since is not read again."""

    def __init__(self, viewer: Viewer, job_id: str) -> None:
        self._viewer, self._job_id = viewer, job_id
        self._last: tuple[JobState, float] | None = None
        self._values: dict[str, Any] = {}

    def read(self, client: redis.Redis) -> dict[str, Any]:
        """All of it as it is now."""
        state, record = job_store.read_known(client, self._job_id, self._viewer)
        if state is JobState.RUNNING or self._last != (state, record.updated_at):
            self._values = view_values(gather(client, self._job_id, self._viewer))
            self._last = state, record.updated_at
        return self._values


def view_values(facts: JobFacts) -> dict[str, Any]:
    """What the page shows of a job."""
    record, failed = facts.record, facts.record.ledger.get("failed", 0)
    return {
        "head": job_values(facts.state, record) | {"verdict": f"{tables.verdict(facts)}.", "note": facts.note},
        "failures": {
            "failed": failed,
            "known": len(facts.failures),
            "records": [
                [one.rows.split(" ", 1)[1], one.model, one.stage, one.type, one.text]
                for one in facts.failures[:MOST_FAILURES]
            ],
        },
        "events": tables.event_rows(facts, MOST_EVENTS),
        "ledger": tables.ledger_rows(facts),
        **{f"chart:{name}": one for name, one in charts(facts, MOST_GROUPS).items()},
    }
