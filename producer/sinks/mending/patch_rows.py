"""Rows that were predicted again are put into the rows of an output, block by block.

rows of the output -+
parts of the answer +--> parts of a new output: a row that failed again stays as it was, filler or left out
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from producer.rows.part import Part, flatten, renumbered, unflatten
from producer.sinks.mending.read_back import OutputReader
from tasks.datasets.columns import runs_of
from tasks.datasets.rows import MAX_BATCH_BYTES
from tasks.outputs.row_spec import output_name
from tasks.outputs.writer import other_rows
from tasks.protocol.codec import Array, Key
from tasks.protocol.messages import FailureRecord
from worker_config.errors import MessageError, OutputError

# Of rows that are written in lines, the marks of so many are in memory at a time.
MOST_ROWS = 2**20


def patched_parts(
    path: Path,
    old: OutputReader,
    mended: Repredicted,
    rows: tuple[int, int],
    left_out: bool,
    block_bytes: int = MAX_BATCH_BYTES,
) -> Iterator[Part]:
    """Give the parts of the new output, or of one of its files, in order.

    Args:
        path, old: the output, or one of its files, and its rows.
        mended: what was predicted again.
        rows: of the data set, `[start, stop)`, of which these are.
        left_out: whether the output lacks the failed rows, or has a filler in their place.
        block_bytes: how much of the output is in memory at a time, about.

    Raises:
        OutputError: the output has not the rows or the form that it should have.
    """
    first, last = rows
    expected = rows_before(last - first, mended.failed_between(first, last), left_out)
    if old.rows != expected:
        raise other_rows(path, old.rows, expected)
    block_rows = max(1, int(block_bytes / max(1.0, old.row_bytes)))
    for index, start in enumerate(range(first, last, block_rows)):
        stop = min(start + block_rows, last)
        lost = np.zeros(stop - start, np.bool_)
        lost[mended.failed_between(start, stop) - start] = True
        numbers, new, records = mended.until(stop)
        from_old = ~lost if left_out else np.ones_like(lost)
        kept = from_old.copy()
        kept[numbers - start] = True
        before, outputs = old.read(int(from_old.sum())), dict[Key, Array]()
        if len(numbers) and len(new) != len(before):
            raise _unfitting(path, f"{len(new)} outputs, not {len(before)}")
        for key, array in before.items():
            fitting = _fitting(path, key, new, array) if len(numbers) else array[:0]
            has_nulls = np.ma.is_masked(array) or np.ma.is_masked(fitting)
            whole = (np.ma.empty if has_nulls else np.empty)((stop - start, *array.shape[1:]), array.dtype)
            whole[from_old], whole[numbers - start] = array, fitting
            outputs[key] = whole[kept]
        yield Part(index, start, stop, unflatten(outputs), tuple(records), int((~kept).sum()))


def mended_parts(mended: Repredicted, rows: tuple[int, int], block_rows: int = MOST_ROWS) -> Iterator[Part]:
    """Give parts of the rows that were mended alone, for a writer of lines, which has the others.

    `mended` and `rows` are as of `patched_parts`.
    """
    for index, start in enumerate(range(*rows, block_rows)):
        stop = min(start + block_rows, rows[1])
        numbers, new, records = mended.until(stop)
        others = np.ones(stop - start, np.bool_)
        others[mended.failed_between(start, stop) - start] = False
        dropped = tuple(runs_of(start + np.flatnonzero(others)))
        yield Part(index, start, stop, unflatten(new), tuple(records), stop - start - len(numbers), dropped)


def rows_before(rows: int, failed: Array, left_out: bool) -> int:
    """How many rows the output should have."""
    return rows - len(failed) if left_out else rows


class Repredicted:
    """What was predicted again, by rows of the data set.

    Args:
        answers: in order: row `n` of them is row `failed[n]` of the data set. Those that failed again are left out.
        failed: the rows without a prediction, ascending.
    """

    def __init__(self, answers: Iterator[Part], failed: Array) -> None:
        self._answers = answers
        self._failed = failed
        self._answered = 0
        self._numbers: list[Array] = [failed[:0]]
        self._outputs: list[dict[Key, Array]] = []
        self._records: list[FailureRecord] = []

    def failed_between(self, start: int, stop: int) -> Array:
        """The rows that had failed, of the rows `[start, stop)`."""
        return self._failed[np.searchsorted(self._failed, start) : np.searchsorted(self._failed, stop)]

    def until(self, stop: int) -> tuple[Array, dict[Key, Array], list[FailureRecord]]:
        """What concerns rows before `stop`, and was not given yet: numbers, their outputs, and records of others."""
        needed = int(np.searchsorted(self._failed, stop))
        while self._answered < needed or not self._outputs:  # the first one has the form of all
            self._receive()
        numbers = np.concatenate(self._numbers)
        end = int(np.searchsorted(numbers, stop))
        outputs: dict[Key, Array] = {}
        if self._outputs:
            outputs = {key: _joined([part[key] for part in self._outputs]) for key in self._outputs[0]}
            self._outputs = [{key: array[end:] for key, array in outputs.items()}]
        self._numbers = [numbers[end:]]
        return numbers[:end], {key: array[:end] for key, array in outputs.items()}, self._records_until(stop)

    def end(self) -> None:
        """Let the job come to its end."""
        if next(self._answers, None) is not None:
            raise MessageError("more rows were predicted again than had failed")

    def _receive(self) -> None:
        part = next(self._answers, None)
        if part is None:
            raise MessageError(f"{self._answered} of {len(self._failed)} failed rows were predicted again")
        self._numbers.append(self._failed[part.numbers()])
        self._outputs.append(flatten(part))
        for record in part.failed:
            self._records += renumbered(record, self._failed)
        self._answered = part.stop

    def _records_until(self, stop: int) -> list[FailureRecord]:
        """A record that goes on beyond `stop` is cut there."""
        replace = msgspec.structs.replace
        before = [replace(one, stop=min(one.stop, stop)) for one in self._records if one.start < stop]
        self._records = [replace(one, start=max(one.start, stop)) for one in self._records if one.stop > stop]
        return before


def _joined(arrays: list[Array]) -> Array:
    whole = np.concatenate(arrays)
    if not any(map(np.ma.is_masked, arrays)):
        return whole
    return np.ma.array(whole, mask=np.concatenate(list(map(np.ma.getmaskarray, arrays))))


def _fitting(path: Path, key: Key, new: dict[Key, Array], old: Array) -> Array:
    """The new rows of an output, as they can stand beside the old ones."""
    by_name = {"/".join(known): array for known, array in new.items()}
    array = new.get((), by_name.get("/".join(key)))
    if array is None:
        raise _unfitting(path, f"not {output_name(key)}")
    texts = {array.dtype.kind, old.dtype.kind} <= set("USO")
    if array.shape[1:] != old.shape[1:] or not np.can_cast(array.dtype, old.dtype, "safe" if texts else "equiv"):
        was = f"{old.dtype} {old.shape[1:]}"
        raise _unfitting(path, f"{output_name(key)} with rows of {array.dtype} {array.shape[1:]}, not {was}")
    return array


def _unfitting(path: Path, what: str) -> OutputError:
    return OutputError(
        f"{path}: the rows that were predicted now do not fit it: they have {what}; predict all rows again with --force"
    )
