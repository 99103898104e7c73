"""A chunk's outputs as a file that waits to become rows of the output's own files, with those of other chunks.

outputs of a chunk, records of rows that failed --part_of--> payload {"rows", "failed", "outputs"} --> file
files --MergeOrder: which, in order--> read_part --> Writer --> a file of the output

What is left out is out by then, and fillers are in: of "rows", the numbers of those that the arrays have, and of
"failed", which of these have a filler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from tasks.outputs.row_spec import RowSpec, output_name
from tasks.outputs.widen import wide_dtype, widened
from tasks.outputs.writer import Arrays, Writer
from tasks.protocol import codec
from tasks.protocol.codec import DTYPES, Array, Key, dtype_name, leaves_of, tree_of
from tasks.protocol.dtypes import filler_rows
from tasks.protocol.messages import ChunkMessage, Count, FailureRecord, FileName, OutputSpec, Value
from tasks.protocol.seal import Parts
from worker_config.errors import MessageError, OutputError

_TEXTS = {"text": "", "bytes": b""}


class PartFile(Value, frozen=True):
    """A file of rows `[start, stop)`; None where there is none, as each of its rows failed, or was dropped.

    `rows` are those that it has, or that are filled where it is none.
    """

    name: FileName | None
    start: Count
    stop: Count
    bytes: Count
    checksum: int
    rows: Count


class MergeOrder(Value, frozen=True):
    """Which files, in their order, become one, and what they hold; without any, only what is spent goes.

    Attributes:
        output: its path, for people.
        outputs: of every part.
        output_name: what a single output without a name is called in the file.
        mask: whether rows that failed are marked.
        spent: files that are merged already, which whoever carries this out removes.
    """

    output: str
    parts: list[PartFile]
    outputs: list[OutputSpec]
    output_name: str = ""
    mask: bool = False
    spent: Sequence[FileName] = ()


class _Rows(NamedTuple):
    """What a part has."""

    numbers: Array
    failed: Array
    arrays: Arrays


def part_of(
    message: ChunkMessage, outputs: Any, failed: Sequence[FailureRecord], dropped: Iterable[tuple[int, int]]
) -> tuple[Parts, list[OutputSpec], int]:
    """The payload of a part, what its outputs are, and its rows; `failed` and `dropped` are rows of the data set.

    Raises:
        MessageError: an output is no array, or has not one row for each row of the chunk.
        PayloadError: it has values that do not travel.
    """
    rows = message.stop - message.start
    kept, filled = np.ones(rows, np.bool_), np.zeros(rows, np.bool_)
    for record in failed:
        place = slice(record.start - message.start, record.stop - message.start)
        filled[place] = True
        kept[place] = message.on_error != "skip"
    for start, stop in dropped:
        kept[start - message.start : stop - message.start] = False
    arrays = {key: array if kept.all() else array[kept] for key, array in _checked(message, outputs).items()}
    numbers = message.start + np.flatnonzero(kept)
    tree = {"rows": numbers, "failed": filled[kept], "outputs": tree_of(arrays)}
    parts = codec.encode_parts(tree, compression=message.compression)
    return parts, [_spec_of(key, array) for key, array in arrays.items()], len(numbers)


def merge(order: MergeOrder, writer: Writer, read: Callable[[PartFile], memoryview]) -> int:
    """Write the rows of all parts, from an untouched writer to a finished file; give how many they are.

    Raises:
        OutputError, PayloadError: a part is not what the order says, or the format cannot hold it.
    """
    specs = row_specs(order.outputs)
    wide = {key: RowSpec(wide_dtype(spec.dtype), spec.shape) for key, spec in specs.items()}
    named = {writer.named(key, order.output_name): spec for key, spec in wide.items()}
    if order.mask:
        writer.add_mask(named)
    in_file = writer.with_mask(named)
    writer.check_names(in_file)
    writer.create()
    holds = [one.holds or "text" for one in order.outputs]
    first = {key: np.zeros((1, *spec.shape), spec.dtype) for key, spec in in_file.items()}
    for key, what in zip(named, holds, strict=True):
        if named[key].dtype.hasobject:
            first[key][...] = _TEXTS[what]
    writer.begin(in_file, first)
    place = 0
    for part in order.parts:
        rows = _read(part, read(part), order.outputs) if part.name else _blank(part, order.outputs)
        if (list(rows.arrays), len(rows.numbers)) != (list(specs), part.rows):
            raise OutputError(f"{part.name} has not the {part.rows} rows, or not the outputs, that it should have")
        if not len(rows.numbers):
            continue
        filled = rows.failed if rows.failed.any() else None
        arrays = {writer.named(key, order.output_name): widened(one, filled) for key, one in rows.arrays.items()}
        if writer.mask:
            arrays[writer.mask] = rows.failed
        writer.write(place, arrays, rows.numbers)
        place += len(rows.numbers)
    writer.finish(place)
    return place


def row_specs(outputs: Iterable[OutputSpec]) -> dict[Key, RowSpec]:
    """The same as NumPy has it; raises MessageError for a dtype that does not travel."""
    specs = {}
    for one in outputs:
        dtype = np.dtype(object) if one.dtype == "object" else DTYPES.get(one.dtype)
        if dtype is None:
            raise MessageError(f"an output of dtype {one.dtype!r} does not travel")
        specs[one.key] = RowSpec(dtype, one.shape)
    return specs


def _spec_of(key: Key, array: Array) -> OutputSpec:
    if array.dtype.kind not in "OUST":
        return OutputSpec(key, str(dtype_name(array.dtype)), array.shape[1:])
    value = next(array.flat, None)
    holds: Literal["", "text", "bytes"] = "" if value is None else "bytes" if isinstance(value, bytes) else "text"
    return OutputSpec(key, "object", array.shape[1:], holds)


def _checked(message: ChunkMessage, outputs: Any) -> Arrays:
    arrays = dict(leaves_of(outputs))
    rows = message.stop - message.start
    for key, array in arrays.items():
        if odd := [name for name in key if not isinstance(name, str)]:
            raise MessageError(f"{message}: outputs have strings as names, {odd[0]!r} is none")
        if not isinstance(array, np.ndarray) or not array.ndim or len(array) != rows:
            what = f"the shape {array.shape}" if isinstance(array, np.ndarray) else f"the type {type(array).__name__}"
            raise MessageError(f"{message}: {output_name(key)} has {what}, it must be an array of {rows} rows")
    return arrays


def _read(part: PartFile, payload: memoryview, outputs: Sequence[OutputSpec]) -> _Rows:
    tree = codec.decode(payload, borrow=True)
    if not isinstance(tree, dict) or tree.keys() != {"rows", "failed", "outputs"}:
        raise OutputError(f"{part.name} is no part of an output")
    arrays = dict(leaves_of(tree["outputs"]))
    for one in outputs:
        array = arrays.get(one.key)
        if not isinstance(array, np.ndarray) or (array.shape[1:], _dtype_of(array)) != (one.shape, one.dtype):
            raise OutputError(f"{part.name}: {output_name(one.key)} is not {one.dtype} {one.shape}, as it was")
    return _Rows(np.asarray(tree["rows"]), np.asarray(tree["failed"]), arrays)


def _dtype_of(array: Array) -> str:
    return "object" if array.dtype.hasobject else str(dtype_name(array.dtype))


def _blank(part: PartFile, outputs: Sequence[OutputSpec]) -> _Rows:
    """Rows that all failed: fillers, or none where they are left out."""
    arrays = {
        one.key: filler_rows(spec.dtype, (part.rows, *spec.shape), _TEXTS[one.holds or "text"])
        for one, spec in zip(outputs, row_specs(outputs).values(), strict=True)
    }
    return _Rows(np.arange(part.start, part.start + part.rows), np.ones(part.rows, np.bool_), arrays)
