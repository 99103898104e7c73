"""The count of a job's rows and chunks, and an error when it does not add up."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from worker_config.errors import CeleriacError

logger: logging.Logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Ledger:
    """What became of every row, and how often chunks travelled.

    Attributes:
        rows: rows read from the data set.
        predicted: rows that have a prediction.
        failed: rows that have a failure record instead.
        skipped: rows that a preprocess function left out on purpose, or never given to a model, as after a cancel.
        written: predicted rows handed over, to the output file or to the caller; filler for failed rows is not counted.
        resumed: rows that an earlier run had written, recorded, or left out; the other counts have them too.
        nonfinite_inputs: predicted rows of which a model took a NaN or an infinity; those that a preprocess function
            has replaced do not count.
        nonfinite_outputs: predicted rows of which a model, or a function after it, gave one.
        chunks_sent: chunks sent for the first time.
        chunks_answered: chunks whose first answer came.
        chunks_sent_again: times that a chunk was sent once more.
        duplicates: answers dropped since their chunk was already answered.
        duplicates_differing: those of them whose outputs were not the first answer's to the bit.
        damaged: rows, outputs and answers that were not as they had been written; their chunks were sent again.
    """

    rows: int = 0
    predicted: int = 0
    failed: int = 0
    skipped: int = 0
    written: int = 0
    resumed: int = 0
    nonfinite_inputs: int = 0
    nonfinite_outputs: int = 0
    chunks_sent: int = 0
    chunks_answered: int = 0
    chunks_sent_again: int = 0
    duplicates: int = 0
    duplicates_differing: int = 0
    damaged: int = 0

    def check(self, *, handed_over: bool = True) -> None:
        """Raise CeleriacError, with both sides, where a row was lost or counted twice.

        Where the output was `handed_over`, to the caller or into its file, all predicted rows must be written ones.
        """
        if negative := [name for name, value in self.as_dict().items() if value < 0]:
            raise _wrong(f"less than zero: {', '.join(negative)}", self)
        accounted = self.predicted + self.failed + self.skipped
        if self.rows != accounted:
            raise _wrong(f"{self.rows} rows read, but {accounted} accounted for", self)
        if self.resumed > accounted:
            raise _wrong(f"{accounted} rows accounted for, but {self.resumed} by an earlier run alone", self)
        if max(self.nonfinite_inputs, self.nonfinite_outputs) > self.predicted:
            raise _wrong(f"more rows that are not finite than the {self.predicted} predicted", self)
        if handed_over and self.written != self.predicted:
            raise _wrong(f"{self.predicted} rows predicted, but {self.written} written", self)

    def as_dict(self) -> dict[str, int]:
        """Give all counts by name, in the order of the attributes."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.rows} rows: {self.predicted} predicted, {self.failed} failed, {self.skipped} skipped, "
            f"{self.written} written, {self.resumed} resumed, "
            f"not finite in {self.nonfinite_inputs} inputs and {self.nonfinite_outputs} outputs; "
            f"{self.chunks_answered}/{self.chunks_sent} chunks answered, "
            f"{self.chunks_sent_again} sent again, {self.duplicates} duplicates dropped, "
            f"{self.duplicates_differing} of which differed, {self.damaged} damaged on their way"
        )


def warn_nonfinite(job: str, ledger: Ledger) -> None:
    """Log it of a job that has ended."""
    if text := nonfinite_text(ledger.as_dict()):
        logger.warning("job %s: %s; on_nonfinite='fail' has such rows fail, 'allow' says nothing", job, text)


def nonfinite_text(ledger: Mapping[str, int]) -> str:
    """Say in one line how many of the predicted rows are not finite; empty where all are."""
    inputs, outputs = ledger.get("nonfinite_inputs", 0), ledger.get("nonfinite_outputs", 0)
    if not inputs and not outputs:
        return ""
    return (
        f"of {ledger['predicted']:,} predicted rows, {inputs:,} have a NaN or an infinity in what a model took, "
        f"{outputs:,} in their outputs"
    )


def summed(ledgers: Iterable[Ledger]) -> Ledger:
    """The counts of several jobs together."""
    counts = [ledger.as_dict() for ledger in ledgers]
    return Ledger(**{name: sum(count[name] for count in counts) for name in Ledger().as_dict()})


def _wrong(what: str, ledger: Ledger) -> CeleriacError:
    return CeleriacError(
        f"the ledger does not add up: {what} ({ledger}); this is a bug in Celeriac: do not trust the output"
    )
