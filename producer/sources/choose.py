"""A data set of columns by name --of which some are asked for--> these alone, or inputs that are made of them.

names of columns, by whoever runs a job --choose--> these, side by side where they make one input
models --for_models--> what any of them needs; all others are left alone
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TypeAlias

from producer.rows.readers import BatchReader, SliceReader, batches_of, rows_between
from producer.rows.source import BatchSource, Source, Table, frame_of, splits_of, table_of, whole_table_of
from producer.sources.arrays import from_arrays
from tasks.datasets.columns import listed
from tasks.datasets.marked import marked, plain, unfed_of
from tasks.datasets.rows import Batches, Rows
from tasks.protocol.made_inputs import with_made
from tasks.protocol.records import ModelInfo
from worker_config.columns import made_of, parsed
from worker_config.errors import UsageError

logger: logging.Logger = logging.getLogger(__name__)

# As the command line has them, such as ["age", "pixels=p0..p783"]; or the columns of each input.
ColumnNames: TypeAlias = str | Sequence[str] | Mapping[str, Sequence[str]]


def choose(source: Source | BatchSource, columns: ColumnNames) -> Source | BatchSource:
    """The data set of these columns alone, in this order; ranges, fields and inputs as in `worker_config.columns`.

    Raises:
        UsageError: the data set has no columns by name, or these are none.
        InputError: it has no such column, or one that no model takes.
    """
    inputs, frame, whole_table = inputs_of(columns), frame_of(source), whole_table_of(source)
    if (table := table_of(source)) is None:
        raise UsageError(f"{source.label}: has no columns by name to choose from; leave out 'columns'")
    where = source.label
    if len(inputs) == 1 and (matrix := table.matrix(columns_of_inputs(inputs))) is not None:
        whole = from_arrays(dict.fromkeys(inputs, matrix))
        return SliceReader(
            where, whole.rows, whole.row_bytes, whole.take_marked, frame=frame, pick=whole.pick, whole=whole_table
        )
    taken = table.only(columns_of_inputs(inputs))
    if all(names == [name] for name, names in inputs.items()):
        return taken

    def made(rows: Rows) -> Rows:
        whole = with_made(plain(rows), inputs, where)
        return marked({name: whole[name] for name in inputs}, unfed_of(rows))

    def batches(source: BatchSource) -> Batches:
        with closing(batches_of(source)) as opened:
            for batch in opened:
                yield made(batch)

    splits = splits_of(taken)
    if splits:
        splits = splits.of(lambda opened: opened.with_made(inputs))
    if not isinstance(taken, Source):
        once = getattr(taken, "once", False)
        return BatchReader(where, taken.rows, lambda: batches(taken), once, splits=splits, whole=whole_table)

    def read(start: int, stop: int) -> Rows:
        return made(rows_between(taken, start, stop))

    pick = getattr(taken, "pick", None)
    made_picked = (lambda numbers: made(pick(numbers))) if pick else None
    return SliceReader(
        where, taken.rows, taken.row_bytes, read, splits=splits, frame=frame, pick=made_picked, whole=whole_table
    )


def inputs_of(columns: ColumnNames) -> dict[str, list[str]]:
    """What each input is made of; raises UsageError where these are no columns."""
    if isinstance(columns, Mapping):
        return made_of(columns)
    return parsed([columns] if isinstance(columns, str) else columns)


def columns_of_inputs(inputs: Mapping[str, Sequence[str]]) -> list[str]:
    """All columns that inputs are made of, each one once."""
    return list(dict.fromkeys(name for names in inputs.values() for name in names))


def for_models(source: Source | BatchSource, infos: Sequence[ModelInfo]) -> Source | BatchSource:
    """The data set as these models take it: of columns by name those that any needs; others are told.

    A function takes all columns, and those besides that `columns` of its entry names. The only input of the only model,
    of shape (?, n), is made of all of n columns, in their order, where none has its name.

    Raises:
        InputError: a column that is needed is of a type that no model takes.
    """
    if (table := table_of(source)) is None or not table.names:
        return source
    known = {*table.names, *table.others}
    needed: dict[str, None] = {}
    matrix = ""
    for info in infos:
        named = _named(table, made_of(info.columns))
        if info.preprocess or info.function or not info.inputs:
            needed |= dict.fromkeys((*table.names, *(name for names in named.values() for name in names)))
            continue
        wanted = [name for spec in info.inputs for name in named.get(spec.name, [spec.name])]
        if len(wanted) == 1 and wanted[0] not in known and len(table.names) == 1 and not named:
            wanted = list(table.names)  # one column is the only input, whatever the names
        if not named and not known.issuperset(wanted):
            if not _is_matrix(table, infos):
                return source  # does not fit, which is told with what the model wants
            [matrix], wanted = wanted, list(table.names)
        needed |= dict.fromkeys(wanted)
    left = [name for name in table.names if name not in needed]
    left += [f"{name} ({kind})" for name, kind in table.others.items() if name not in needed]
    if left:
        logger.warning("%s: no model takes the columns %s", source.label, listed(left))
    if matrix:
        return choose(source, {matrix: list(needed)})
    is_narrow = list(needed) == list(table.names) and not isinstance(source, SliceReader)
    return source if is_narrow else table.only(list(needed))


def _named(table: Table, made: dict[str, list[str]]) -> dict[str, list[str]]:
    """Inputs that are made of columns, without those that the data set has itself in the place of these."""
    known = {*table.names, *table.others}

    def is_there(name: str) -> bool:
        return name in known or any(name.startswith(f"{one}.") for one in known)  # perhaps a field

    return {name: names for name, names in made.items() if name not in table.names or all(map(is_there, names))}


def _is_matrix(table: Table, infos: Sequence[ModelInfo]) -> bool:
    """Whether all columns together are what the only input of the only model wants."""
    if len(infos) != 1 or len(infos[0].inputs) != 1:
        return False
    spec = infos[0].inputs[0]
    return len(spec.shape) == 2 and spec.shape[1] == len(table.names) > 1 and spec.dtype != "string"
