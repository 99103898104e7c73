"""Outputs for sinks, cut into parts, and what their files hold, read by each format's own library."""

from __future__ import annotations

import csv
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.feather
import pyarrow.parquet
import zarr

from producer.rows.part import Part, flatten
from producer.sinks import FORMATS, open_sink
from tests.parts import split

ROWS = 23

# The name in the file of an output without one.
NAMELESS = {suffix: "arr_0" if suffix == ".npz" else "output" for suffix in FORMATS}

BARE = np.linspace(-1, 1, ROWS * 3, dtype=np.float32).reshape(ROWS, 3)
NUMBERS = {
    "scores": BARE,
    "label": np.arange(ROWS, dtype=np.int64) - 2**53 - 1,
    "sure": np.arange(ROWS) % 3 == 0,
    "matrix": np.arange(ROWS * 6, dtype=np.int64).reshape(ROWS, 2, 3),
    "flags": np.arange(ROWS * 4).reshape(ROWS, 2, 2) % 5 == 0,
}
MODELS = {"digits": {"scores": BARE, "label": NUMBERS["label"]}, "letters": {"scores": BARE[:, 0].astype(np.float16)}}
TEXTS = {
    "word": np.array([f"né {row}" * (row % 3) for row in range(ROWS)], object),
    "fixed": np.array([f"w{row}" for row in range(ROWS)]),
    "pair": np.array([[f"a{row}", ""] for row in range(ROWS)], object),
}
BYTES = {"raw": np.array([bytes([row, 0, 255]) for row in range(ROWS)], object), "fixed": np.array([b"ab"] * ROWS)}


def parts_of(outputs: Any, chunk_rows: int = 5, start: int = 0) -> list[Part]:
    """Cut whole outputs, all rows from `start` on, into parts."""

    def rows(tree: Any, from_row: int, to_row: int) -> Any:
        if isinstance(tree, dict):
            return {name: rows(below, from_row, to_row) for name, below in tree.items()}
        return tree[from_row:to_row]

    total = len(next(iter(leaves(outputs).values())))
    return [
        Part(
            chunk.index, start + chunk.start, start + chunk.stop, rows(outputs, start + chunk.start, start + chunk.stop)
        )
        for chunk in split(total - start, chunk_rows)
    ]


def leaves(outputs: Any) -> dict[str, Any]:
    """Name whole outputs as the files name them."""
    first = outputs
    while isinstance(first, dict):
        first = next(iter(first.values()))
    return {"/".join(key): array for key, array in flatten(Part(0, 0, len(first), outputs)).items()}


def write(path: Path, outputs: Any, rows: int | None, force: bool = False) -> None:
    with open_sink(path, rows, force) as sink:
        for part in parts_of(outputs):
            sink.write(part)
        sink.commit()


def read_npy(path: Path) -> dict[str, Any]:
    return {"output": np.load(path)}


def read_npz(path: Path) -> dict[str, Any]:
    with np.load(path) as archive:
        return dict(archive)


def read_parquet(path: Path) -> dict[str, Any]:
    return _columns(pyarrow.parquet.read_table(path))


def read_feather(path: Path) -> dict[str, Any]:
    return _columns(pyarrow.feather.read_table(path))


def _columns(table: pyarrow.Table) -> dict[str, Any]:
    assert table["row"].to_pylist() == list(range(table.num_rows))
    arrays = {}
    for field in table.schema:
        shape = json.loads((field.metadata or {}).get(b"shape", b"null"))
        array = np.array(table[field.name].to_pylist())
        arrays[field.name] = array.reshape(len(array), *shape) if shape else array
    del arrays["row"]
    return arrays


def read_zarr(path: Path) -> dict[str, Any]:
    node = zarr.open(str(path), mode="r")
    if isinstance(node, zarr.Array):
        return {"output": node[:]}
    return {name: member[:] for name, member in node.members(max_depth=None) if isinstance(member, zarr.Array)}


@contextmanager
def zarr_reader(read: Callable[[], Mapping[str, np.ndarray]], whole: Path) -> Iterator[set[int]]:
    """Read what there is of a store, again and again, until the block ends; the lengths that arrays had meanwhile.

    `read` raises FileNotFoundError as long as there is nothing; what it will be in the end is `whole`.
    """
    over, found, seen, expected = threading.Event(), list[str](), set[int](), read_zarr(whole)

    def look() -> None:
        most = dict.fromkeys(expected, 0)
        try:
            while not over.wait(0.001):
                try:
                    arrays = read()
                except FileNotFoundError:
                    assert not any(most.values()), "what was there stays"
                    continue
                assert arrays.keys() == expected.keys()
                for name, array in arrays.items():
                    np.testing.assert_array_equal(array, expected[name][: len(array)])
                    assert len(array) >= most[name], "what was there stays"
                    most[name] = len(array)
                    seen.add(len(array))
        except BaseException as error:
            found.append(repr(error))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
    assert found == []


def read_jsonl(path: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line.pop("row") for line in lines] == list(range(len(lines)))
    return {name: np.array([line[name] for line in lines]) for name in (lines[0] if lines else ())}


def read_csv(path: Path) -> dict[str, Any]:
    with path.open(newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    assert [line[0] for line in lines] == list(map(str, range(len(lines))))
    found: dict[str, dict[tuple[int, ...], Any]] = {}
    name = ""
    for at, column in enumerate(header[1:], 1):
        # The first value of an array has the place 0, 0; its name may end in a number, as that of a layer does.
        if not name or not re.fullmatch(rf"{re.escape(name)}(_\d+)+", column):
            name = re.sub(r"(_0)+$", "", column)
        places = column.removeprefix(name).split("_")[1:]
        found.setdefault(name, {})[tuple(map(int, places))] = _of_text([line[at] for line in lines])
    return {name: _joined(columns, len(lines)) for name, columns in found.items()}


def _joined(columns: dict[tuple[int, ...], Any], rows: int) -> Any:
    """The columns of one output; their places are the indexes of its values."""
    shape = [max(place) + 1 for place in zip(*columns, strict=True)]
    return np.array(list(columns.values())).T.reshape(rows, *shape)


def _of_text(values: list[str]) -> list[Any]:
    for read in (int, float, {"true": True, "false": False}.__getitem__):
        with suppress(ValueError, KeyError):
            return [read(value) for value in values]
    return values


READERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".npy": read_npy,
    ".npz": read_npz,
    ".parquet": read_parquet,
    ".feather": read_feather,
    ".zarr": read_zarr,
    ".jsonl": read_jsonl,
    ".csv": read_csv,
}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_holds(path: Path, outputs: Any) -> None:
    """The file has these outputs by name, value for value; and no temporary file is left."""
    found = READERS[path.suffix](path)
    expected = {name or NAMELESS[path.suffix]: array for name, array in leaves(outputs).items()}
    if path.suffix == ".npy":
        expected = {"output": next(iter(expected.values()))}
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name].astype(array.dtype), array)
        assert found[name].shape == array.shape
        if path.suffix not in (".jsonl", ".csv") and array.dtype.kind not in "OU":
            assert found[name].dtype == array.dtype or path.suffix in (".parquet", ".feather")
    assert names(path.parent) == [path.name]
