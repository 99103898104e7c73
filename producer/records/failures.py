"""Keeps what failed in a job, and judges what it means: a model that fails fails alone.

    records of a chunk --judge--> its models are left out from now on, or the job ends
                       --keep--> records, bounded

A job ends by a failure when no model would be left: the last one is never left out, as in a job of one model.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from tasks.protocol.messages import FailureRecord

logger: logging.Logger = logging.getLogger(__name__)

MOST_KEPT = 1_000


class Failures:
    """The failures of one job; written by its thread, read by others. `together`: the first model's ends the job.

    Attributes:
        of_data_set: gives a record of the job's rows as those of a larger data set's, as which they are kept.
        records: the first `MOST_KEPT` of them.
        more: how many there were beyond these.
        models: those that failed alone, each with the record of its first rows, as far as is known; only ever grows.
    """

    def __init__(
        self,
        job: str,
        models: Sequence[str],
        *,
        together: bool = False,
        of_data_set: Callable[[FailureRecord], list[FailureRecord]] = lambda record: [record],
    ) -> None:
        self.of_data_set = of_data_set
        self.records: list[FailureRecord] = []
        self.more: int = 0
        self.models: dict[str, FailureRecord] = {}
        self._job = job
        self._names = list(models)
        self._together = together

    def keep(self, records: Iterable[FailureRecord]) -> None:
        """Record failures, each chunk's once."""
        for record in (one for given in records for one in self.of_data_set(given)):
            if len(self.records) < MOST_KEPT:
                self.records.append(record)
            else:
                self.more += 1

    def in_order(self) -> list[FailureRecord]:
        """The records by their rows: chunks are answered in any order."""
        return sorted(self.records, key=lambda record: (record.start, record.model))

    def judge(self, failed: Sequence[FailureRecord]) -> FailureRecord | None:
        """Leave out the models that failed on a chunk; or give the record that ends the job, and leave out none.

        Harmless when repeated.
        """
        new = [record for record in failed if record.model not in self.models]
        lost = {record.model for record in new} | self.models.keys()
        if new and (self._together or lost.issuperset(self._names)):
            return new[0]
        for record in failed:
            known = self.models.get(record.model)
            if known is None:
                logger.warning("job %s: %s", self._job, failed_alone({record.model: record}))
            if known is None or record.start < known.start:
                self.models[record.model] = record
        return None


def failed_alone(models: Mapping[str, FailureRecord]) -> str:
    """Say in one line which models failed alone."""
    each = [
        f"model {name} failed alone at {record.rows} ({record.stage}: {record.type}: {record.text})"
        for name, record in models.items()
    ]
    return f"{'; '.join(each)}; {'its' if len(each) == 1 else 'their'} outputs are left out"
