"""A job as it stands on all shards: one record of what each of them has.

attached job   the same record wherever its producer could write it    --> the newest
detached job   a part on each shard, with chunks and counts of its own --> their sum

    state    failed or cancelled if a part is; running while one runs or cannot be seen; done when all are
    a part whose shard is away                  missing until that is back
    a part that its shard has lost              of rows in files it is left there again by whoever waits for the job;
                                                else the job has failed
    parts, none of which was sent, without all  a job whose producer was killed before it was left: there is none
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from producer.records.job_store import JobState
from tasks.protocol.plan import Plan
from tasks.protocol.records import JobRecord
from worker_config.broker import redacted
from worker_config.errors import BrokerError, UnknownJobError


@dataclass(frozen=True)
class JobParts:
    """What shards have of one job, at least one of them.

    Attributes:
        urls: of all shards.
        found: state and record, by shard.
        away: errors of shards that did not answer.
    """

    urls: Sequence[str]
    found: Mapping[int, tuple[JobState, JobRecord]]
    away: Mapping[int, BrokerError] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The job's."""
        return next(iter(self.found.values()))[1].id

    @property
    def plan(self) -> Plan | None:
        """That of all parts, as the first one has it; None of an attached job."""
        return next(iter(self.found.values()))[1].plan

    @property
    def places(self) -> dict[int, int]:
        """The shards of the parts that are there; a part is left on the shard of its number, should URLs move later."""
        return {record.plan.part: shard for shard, (_, record) in self.found.items() if record.plan}

    @property
    def missing(self) -> set[int]:
        """Parts with chunks that are not there."""
        return self.plan.parts - self.places.keys() if self.plan else set()

    @property
    def lost(self) -> set[int]:
        """Those that their shards do not have, and not merely cannot tell."""
        return {part for part in self.missing if part not in self.away}

    @property
    def out_of_reach(self) -> list[BrokerError]:
        """Why parts are missing that may be there."""
        return [self.away[part] for part in sorted(self.missing) if part in self.away]

    @property
    def has_ended_badly(self) -> bool:
        """Whether a part has, so that the others are in vain."""
        return any(state in (JobState.FAILED, JobState.CANCELLED) for state, _ in self.found.values())

    @property
    def can_be_mended(self) -> bool:
        """Whether what is lost can be left again, from the plan alone; not where another part is in its place."""
        free = set(range(len(self.urls))) - self.found.keys()
        return self.plan is not None and self.plan.in_place is not None and self.lost <= free

    def whole(self) -> tuple[JobState, JobRecord]:
        """State and record of the job; raises UnknownJobError if it was never left."""
        if self.plan is None:
            return max(self.found.values(), key=lambda one: one[1].updated_at)
        records = [record for _, record in self.found.values()]
        first = records[0]
        if self.lost and not self.out_of_reach and all(record.unsent for record in records if _has_chunks(record)):
            raise UnknownJobError(f"job {first.id} was not left: its producer ended before; submit it again")
        failed = {name: at for record in reversed(records) for name, at in record.failed_models.items()}
        state, error = self._state(self.plan), next((record.error for record in records if record.error), "")
        if state in (JobState.RUNNING, JobState.DONE) and len(failed) == len(self.plan.models):
            state, error = JobState.FAILED, str(next(iter(failed.values())))
        elif state is JobState.FAILED and self.lost and not error:
            error = f"{self._missing_text(self.plan, self.lost)}, and rows with it; cancel it and submit it again"
        return state, replace(
            first,
            ledger=self._ledger(self.plan, state, records),
            updated_at=max(record.updated_at for record in records),
            error=error,
            failed_models=failed,
            differed={name: one for record in reversed(records) for name, one in record.differed.items()},
            void=sum(record.void for record in records),
            missing="" if state is JobState.FAILED else self._missing_text(self.plan, self.missing),
            unsent=all(record.unsent for record in records),
        )

    def _state(self, plan: Plan) -> JobState:
        states = {state for state, _ in self.found.values()}
        for ended in (JobState.FAILED, JobState.CANCELLED):
            if ended in states:
                return ended
        if self.lost and not self.can_be_mended:
            return JobState.FAILED
        return JobState.RUNNING if self.missing or JobState.RUNNING in states else JobState.DONE

    def _ledger(self, plan: Plan, state: JobState, records: Sequence[JobRecord]) -> dict[str, int]:
        counts = Counter[str]()
        for record in records:
            counts.update(record.ledger)
        done = counts["predicted"] + counts["failed"]
        counts["rows"], counts["chunks_sent"] = plan.rows, plan.chunks
        counts["skipped"] = 0 if state is JobState.RUNNING else plan.rows - done
        return {name: counts[name] for name in records[0].ledger}

    def _missing_text(self, plan: Plan, parts: set[int]) -> str:
        return "; ".join(
            f"{self._why_missing(part)}: {len(plan.chunks_of(part))} of {plan.chunks} chunks" for part in sorted(parts)
        )

    def _why_missing(self, part: int) -> str:
        if part >= len(self.urls):
            return f"shard {part + 1} is not among the broker URLs"
        return f"Redis at {redacted(self.urls[part])} {'is away' if part in self.away else 'has lost its part'}"


def _has_chunks(record: JobRecord) -> bool:
    return record.plan is not None and record.plan.part in record.plan.parts
