"""The two files beside an output, which say what became of its rows.

    OUTPUT.ledger.json      one object: the job, what was predicted by what, the ledger
    OUTPUT.failures.jsonl   a failure record per line; only where rows have no prediction

The mask of an `.npy` output, OUTPUT.failed.npy, is the sink's; that of an earlier output goes with its failures.

They are written, whole, when the output has its name: the second one first, so that the first one never counts
records that are not there. What an earlier output had beside it is replaced, or goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from producer.sinks import is_there, is_unfinished
from producer.sinks.output_place import place_of
from tasks.outputs.failed_mask import Fill, mask_path
from tasks.outputs.temp_paths import one_line_errors
from tasks.protocol.messages import Differed, FailureRecord, OnError
from worker_config.decodable import decodable
from worker_config.errors import OutputError
from worker_config.foreign_errors import UNDECODABLE, one_line

_LEDGER, _FAILURES = ".ledger.json", ".failures.jsonl"


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the rows of an output, as the command says at its end and the ledger file for good.

    Attributes:
        job: the last one that wrote rows of it; None where an earlier run had written them all.
        ledger: counts of rows and chunks, by name.
        seconds: from submit, with the rows at hand, to the output under its name, of the last run.
        failed_models: those that failed alone, and are not in the output.
        failures: how many records the failures file has; without an output, how many the job has.
        fill: where rows that failed are filled: how they are marked, and with what they are.
        dependent: models whose rows are not independent, each with what a prediction depends on besides its row.
        differed: models of which an executor gave other outputs than their own graphs, which have predicted all rows.
        accepted_changes: what had changed, of data set or models, before rows were predicted by `--accept-changes`.
    """

    job: str | None
    ledger: dict[str, int]
    seconds: float
    failed_models: dict[str, FailureRecord] = {}
    failures: int = 0
    fill: Fill | None = None
    dependent: dict[str, str] = {}
    differed: dict[str, Differed] = {}
    accepted_changes: list[str] = []


class OutputLedger(RunRecord, frozen=True, kw_only=True):
    """The ledger file of an output.

    Attributes:
        source: what tells the data set from others, as in the journal; for a fetched output its name alone.
        models: the digest of each model.
        on_error: what became of rows that failed.
        sources: the digest of each function, module and file of the models.
        keep: columns of the data set that stand beside the outputs.
        chunk_rows: as they were asked for, where rows are not independent.
    """

    source: dict[str, Any]
    models: dict[str, str]
    on_error: OnError
    sources: dict[str, str] = {}
    keep: list[str] = []
    chunk_rows: int | Literal["default"] | None = None


def ledger_path(path: Path) -> Path:
    """Name the ledger file of an output."""
    return path.with_name(path.name + _LEDGER)


def failures_path(path: Path) -> Path:
    """Name the failures file of an output."""
    return path.with_name(path.name + _FAILURES)


def is_told_of(path: Path) -> bool:
    """Whether an output has a ledger file."""
    try:
        return bool(place_of(path).read_beside(_LEDGER))
    except FileNotFoundError:
        return False


def write_beside(path: Path, ledger: OutputLedger, failures: Sequence[FailureRecord]) -> None:
    """Write both files of an output, or the ledger alone where no row failed; raise OutputError if the disk refuses."""
    place = place_of(path)
    with one_line_errors(failures_path(path)):
        if failures:
            place.write_beside(_FAILURES, msgspec.json.Encoder().encode_lines(failures))
        else:
            place.remove_beside(_FAILURES)
        if not ledger.fill and path.suffix.lower() == ".npy":
            place.remove_beside(mask_path(path).name.removeprefix(path.name))
    with one_line_errors(ledger_path(path)):
        place.write_beside(_LEDGER, msgspec.json.format(msgspec.json.encode(ledger), indent=2) + b"\n")


def read_beside(path: Path) -> tuple[OutputLedger, list[FailureRecord]]:
    """What both files of an output say; OutputError where there are none, or they are not those of the output."""
    place = place_of(path)
    try:
        ledger = msgspec.json.decode(place.read_beside(_LEDGER), type=decodable(OutputLedger))
        failures = place.read_beside(_FAILURES) if ledger.failures else b""
        records = msgspec.json.Decoder(decodable(FailureRecord)).decode_lines(failures)
    except (OSError, *UNDECODABLE) as error:
        cause = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else one_line(error)
        raise OutputError(
            f"{path}: what became of its rows is not known: {cause}; predict all rows again with --force"
        ) from error
    rows = sum(record.stop - record.start for record in records)
    if len(records) != ledger.failures or rows != ledger.ledger.get("failed"):
        raise OutputError(
            f"{path}: {failures_path(path).name} and {ledger_path(path).name} are not of the same run; "
            "predict all rows again with --force"
        )
    return ledger, records


def ledger_of_whole(path: Path) -> OutputLedger | None:
    """The ledger of an output; None where there is none that is whole; raises OutputError as `read_beside`."""
    return None if is_unfinished(path) or not is_there(path) else read_beside(path)[0]
