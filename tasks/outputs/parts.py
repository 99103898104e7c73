"""A chunk's outputs as a file that waits to become rows of the output's own files, with those of other chunks.

outputs of a chunk, records of rows that failed --part_of--> payload {"rows", "failed", "outputs", ...} --> file
files --MergeOrder: which, in order--> read_part --> Writer --> a file of the output

What is left out is out by then, and fillers are in: "rows" are runs `[start, stop)` of the data set's rows that the
arrays have, and "failed" runs of places in the arrays that have a filler. "kept" are columns of the data set, by name,
and "nulls" says which of their values are null. A part of rows that all failed may have nothing else than these.
"about" is what its answer would have said, as far as that proves what the part is; after the payload stands its
XXH3-64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np

from tasks.outputs.row_spec import RowSpec, output_name
from tasks.outputs.widen import wide_dtype, widened
from tasks.outputs.writer import Arrays, Writer
from tasks.protocol import codec
from tasks.protocol.codec import DTYPES, Array, Compression, Key, dtype_name, leaves_of, tree_of
from tasks.protocol.dtypes import filler_rows
from tasks.protocol.messages import (
    ChunkMessage,
    Count,
    FailureRecord,
    FileName,
    JobId,
    ModelRef,
    OnError,
    OutputSpec,
    Value,
    pack,
    unpack,
)
from tasks.protocol.runs import mask_of_runs, rows_of_runs, runs_where
from tasks.protocol.seal import Parts, checksum
from worker_config.errors import CeleriacError, MessageError, OutputError

_SUM_BYTES = 8
_TEXTS = {"text": "", "bytes": b""}


class PartAbout(Value, frozen=True):
    """What made a part, and what became of its rows; as of `ChunkMessage` and `Outputs`."""

    job: JobId
    models: list[ModelRef]
    on_error: OnError
    start: Count
    stop: Count
    failed: list[FailureRecord]
    dropped: list[tuple[Count, Count]]
    nonfinite: tuple[Count, Count]


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
        rows: how many go into the file: all, or those that are left of the first part and some of the last one.
        outputs: of every part.
        first_row: how many rows of the first part an earlier file has.
        block_rows: of a file of this output, as `Writer` has it.
        output_name: what a single output without a name is called in the file.
        mask: whether rows that failed are marked.
        spent: files that are merged already, which whoever carries this out removes.
        kept: columns of the data set, which stand before the outputs.
    """

    output: str
    parts: list[PartFile]
    rows: Count
    outputs: list[OutputSpec]
    first_row: Count = 0
    block_rows: Count = 0
    output_name: str = ""
    mask: bool = False
    spent: Sequence[FileName] = ()
    kept: Sequence[OutputSpec] = ()


class _Rows(NamedTuple):
    """What a part has."""

    numbers: Array
    failed: Array
    kept: Arrays
    arrays: Arrays

    def between(self, start: int, stop: int) -> _Rows:
        """Those of them from one place on to another."""
        kept, arrays = ({key: array[start:stop] for key, array in one.items()} for one in (self.kept, self.arrays))
        return _Rows(self.numbers[start:stop], self.failed[start:stop], kept, arrays)


class LeftPart(NamedTuple):
    """What a part says of itself, which nobody has said otherwise; `checksum` is that of the whole file."""

    about: PartAbout
    numbers: Array
    failed: Array
    outputs: list[OutputSpec]
    kept: list[OutputSpec]
    checksum: int


class PartPayload(NamedTuple):
    """What becomes a part: its payload, and what that has."""

    payload: Parts
    rows: int
    outputs: list[OutputSpec]
    kept: list[OutputSpec]


def part_of(
    message: ChunkMessage,
    outputs: Any,
    failed: Sequence[FailureRecord],
    dropped: Iterable[tuple[int, int]],
    kept: Mapping[str, Array] = MappingProxyType({}),
    about: PartAbout | None = None,
) -> PartPayload:
    """The part that a chunk's outputs become; `failed` and `dropped` are rows of the data set.

    `kept` are columns beside them, of all rows of the chunk, masked arrays where values are null; without outputs, as
    all rows failed, they stand alone.
    Without `about` nobody can tell what the part is but by the chunk's answer.

    Raises:
        MessageError: an output is no array, or has not one row for each row of the chunk.
        PayloadError: it has values that do not travel.
    """
    rows = message.stop - message.start
    stays, filled = np.ones(rows, np.bool_), np.zeros(rows, np.bool_)
    for record in failed:
        place = slice(record.start - message.start, record.stop - message.start)
        filled[place] = True
        stays[place] = message.on_error != "skip"
    for start, stop in dropped:
        stays[start - message.start : stop - message.start] = False
    columns = {} if outputs is None else _checked(message, leaves_of(outputs))
    beside = _checked(message, (((name,), values) for name, values in kept.items()))
    if not stays.all():
        columns, beside = ({key: array[stays] for key, array in one.items()} for one in (columns, beside))
        filled = filled[stays]
    return encoded(runs_where(stays, message.start), filled, columns, beside, message.compression, about)


def encoded(
    runs: Array,
    failed: Array,
    arrays: Arrays,
    kept: Arrays,
    compression: Compression | None = None,
    about: PartAbout | None = None,
) -> PartPayload:
    """The part of runs of rows; `kept` alone where all of them failed, and nobody knows what outputs look like."""
    tree = {
        "rows": runs,
        "failed": runs_where(failed),
        "outputs": tree_of(arrays),
        "kept": {name: np.ma.getdata(array) for (name,), array in kept.items()},
        "nulls": {name: np.ma.getmaskarray(array) for (name,), array in kept.items() if np.ma.is_masked(array)},
        "about": np.frombuffer(pack(about) if about else b"", np.uint8),
    }
    specs = [[_spec_of(key, array) for key, array in one.items()] for one in (arrays, kept)]
    payload = codec.encode_parts(tree, compression=compression)
    return PartPayload([*payload, _sum_of(payload)], len(failed), *specs)


def left_part(payload: memoryview) -> LeftPart | None:
    """What a part is, by itself; None where it is damaged, or does not tell."""
    if bytes(payload[-_SUM_BYTES:]) != _sum_of([payload[:-_SUM_BYTES]]):
        return None
    try:
        tree = _tree_of(payload, "a part")
        if not tree["about"].size:
            return None
        about: PartAbout = unpack(tree["about"].tobytes(), PartAbout)
        arrays = dict(leaves_of(tree["outputs"]))
        outputs = [_spec_of(key, array) for key, array in arrays.items()]
        kept = [_spec_of(key, array) for key, array in _kept_of(tree).items()]
        rows = len(next(iter(arrays.values())))
        numbers, failed = rows_of_runs(tree["rows"], rows), mask_of_runs(tree["failed"], rows)
    except (CeleriacError, AttributeError, TypeError, ValueError):
        return None
    return LeftPart(about, numbers, failed, outputs, kept, checksum([payload]))


def merge(order: MergeOrder, writer: Writer, read: Callable[[PartFile], memoryview]) -> int:
    """Write the rows that an order names, from an untouched writer to a finished file; give how many they are.

    Raises:
        OutputError, PayloadError: a part is not what the order says, or the format cannot hold it.
    """
    outputs = {writer.named(one.key, order.output_name): one for one in order.outputs}
    columns = {one.key: one for one in order.kept} | outputs
    if len(columns) < len(order.kept) + len(outputs):
        raise OutputError(f"{order.output}: a column that is kept has the name of an output; rename one of them")
    specs = dict(zip(columns, row_specs(columns.values()).values(), strict=True))
    wide = {key: RowSpec(wide_dtype(spec.dtype), spec.shape) for key, spec in specs.items()}
    if order.mask:
        writer.add_mask(wide)
    in_file = writer.with_mask(wide)
    writer.check_names(in_file)
    writer.create()
    first = {key: np.zeros((1, *spec.shape), spec.dtype) for key, spec in in_file.items()}
    for key, one in columns.items():
        if first[key].dtype.hasobject:
            first[key][...] = _TEXTS[one.holds or "text"]
    writer.block_rows = order.block_rows
    writer.begin(in_file, first)
    place, skipped = 0, order.first_row
    for part in order.parts:
        rows = _read(part, read(part), order) if part.name else _blank(part, order)
        rows = rows.between(skipped, skipped + order.rows - place)
        skipped = 0
        if not len(rows.numbers):
            continue
        filled = rows.failed if rows.failed.any() else None
        arrays = {key: widened(one, None) for key, one in rows.kept.items()}
        arrays |= {key: widened(one, filled) for key, one in zip(outputs, rows.arrays.values(), strict=True)}
        if writer.mask:
            arrays[writer.mask] = rows.failed
        writer.write(place, arrays, rows.numbers)
        place += len(rows.numbers)
    if place != order.rows:
        raise OutputError(f"the parts have {place} rows, not the {order.rows} that they should have")
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
    value = next(iter(array.compressed() if isinstance(array, np.ma.MaskedArray) else array.flat), None)
    holds: Literal["", "text", "bytes"] = "" if value is None else "bytes" if isinstance(value, bytes) else "text"
    return OutputSpec(key, "object", array.shape[1:], holds)


def _checked(message: ChunkMessage, leaves: Iterable[tuple[Key, Any]]) -> Arrays:
    arrays = dict(leaves)
    rows = message.stop - message.start
    for key, array in arrays.items():
        if odd := [name for name in key if not isinstance(name, str)]:
            raise MessageError(f"{message}: outputs have strings as names, {odd[0]!r} is none")
        if not isinstance(array, np.ndarray) or not array.ndim or len(array) != rows:
            what = f"the shape {array.shape}" if isinstance(array, np.ndarray) else f"the type {type(array).__name__}"
            raise MessageError(f"{message}: {output_name(key)} has {what}, it must be an array of {rows} rows")
    return arrays


def _read(part: PartFile, payload: memoryview, order: MergeOrder) -> _Rows:
    tree = _tree_of(payload, str(part.name))
    try:
        numbers, failed = rows_of_runs(tree["rows"], part.rows), mask_of_runs(tree["failed"], part.rows)
    except (TypeError, ValueError):
        raise OutputError(f"{part.name} has not the {part.rows} rows that it should have") from None
    kept = _fitting(part, _kept_of(tree), order.kept)
    if isinstance(tree["outputs"], dict) and not tree["outputs"] and failed.all():
        return _Rows(numbers, failed, kept, _fillers(order.outputs, len(numbers)))
    return _Rows(numbers, failed, kept, _fitting(part, dict(leaves_of(tree["outputs"])), order.outputs))


def _tree_of(payload: memoryview, name: str) -> dict[str, Any]:
    tree = codec.decode(payload[:-_SUM_BYTES], borrow=True)
    if not isinstance(tree, dict) or tree.keys() != {"rows", "failed", "outputs", "kept", "nulls", "about"}:
        raise OutputError(f"{name} is no part of an output")
    return tree


def _kept_of(tree: Mapping[str, Any]) -> Arrays:
    nulls = tree["nulls"]
    return {
        (name,): np.ma.array(array, mask=nulls[name]) if name in nulls else array
        for name, array in tree["kept"].items()
    }


def _sum_of(payload: Parts) -> bytes:
    return checksum(payload).to_bytes(_SUM_BYTES, "little")


def _fitting(part: PartFile, arrays: Arrays, specs: Sequence[OutputSpec]) -> Arrays:
    """The arrays in the order of their specs, which they must have."""
    for one in specs:
        array = arrays.get(one.key)
        if not isinstance(array, np.ndarray) or (array.shape, _dtype_of(array)) != ((part.rows, *one.shape), one.dtype):
            raise OutputError(f"{part.name}: {output_name(one.key)} is not {one.dtype} {one.shape}, as it was")
    if len(arrays) > len(specs):
        raise OutputError(f"{part.name} has other outputs than it should have")
    return {one.key: arrays[one.key] for one in specs}


def _dtype_of(array: Array) -> str:
    return "object" if array.dtype.hasobject else str(dtype_name(array.dtype))


def _blank(part: PartFile, order: MergeOrder) -> _Rows:
    """Rows that all failed: fillers, or none where they are left out."""
    numbers = np.arange(part.start, part.start + part.rows)
    kept = _fillers(order.kept, 0)  # rows that have some are no blank ones
    return _Rows(numbers, np.ones(part.rows, np.bool_), kept, _fillers(order.outputs, part.rows))


def _fillers(outputs: Sequence[OutputSpec], rows: int) -> Arrays:
    return {
        one.key: filler_rows(spec.dtype, (rows, *spec.shape), _TEXTS[one.holds or "text"])
        for one, spec in zip(outputs, row_specs(outputs).values(), strict=True)
    }
