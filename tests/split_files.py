"""Files of each format that can be cut, and the rows that the format's own library reads from them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.feather
import pyarrow.json
import pyarrow.parquet as pq
import zarr

from producer.rows.source import splits_of
from producer.sources import open_source
from tasks.datasets.columns import columns_of
from tasks.datasets.marked import plain, unfed_of
from tasks.protocol.messages import ChunkMessage, ModelRef, pack, unpack
from tasks.protocol.split_ref import SplitRef
from tests.tfrecords import tfrecord

ROWS = 1_000
_RANDOM = np.random.default_rng(8)
NUMBERS = _RANDOM.random(ROWS)
WHOLE = _RANDOM.integers(-(2**62), 2**62, ROWS)
TEXTS = [f'row {row}, "{row % 7}"\n' if row % 5 else "" for row in range(ROWS)]
VECTORS = _RANDOM.random((ROWS, 3)).astype(np.float32)
RAGGED = [list(range(row % 4)) for row in range(ROWS)]
WITH_NULLS = [None if row % 11 == 3 else row for row in range(ROWS)]
LISTS_WITH_NULLS = [[row, None] if row % 13 == 5 else [row, row] for row in range(ROWS)]

TABLE = pa.table(
    {
        "number": NUMBERS,
        "whole": WHOLE,
        "truth": WHOLE % 2 == 0,
        "text": TEXTS,
        "bytes": [text.encode() for text in TEXTS],
        "vector": pa.FixedSizeListArray.from_arrays(VECTORS.ravel(), 3),
        "ragged": RAGGED,
        "null": WITH_NULLS,
        "list_null": LISTS_WITH_NULLS,
        "dictionary": pa.array([f"kind {row % 3}" for row in range(ROWS)]).dictionary_encode(),
        "struct": [{"inner": row, "deep": {"er": float(row)}} for row in range(ROWS)],
        "when": pa.array(np.arange(ROWS).astype("datetime64[s]")),
    }
)
# Of what pyarrow gives, as our rows have it.
COLUMNS = ["number", "whole", "truth", "text", "bytes", "vector", "ragged", "null", "list_null", "dictionary"]
NAMED = [*COLUMNS, "struct.inner", "struct.deep.er"]


def expected(table: pa.Table, names: list[str]) -> dict[str, list[Any]]:
    values = {}
    for name in names:
        column, *fields = name.split(".")
        values[name] = table.column(column).to_pylist()
        for field in fields:
            values[name] = [one[field] for one in values[name]]
    return values


def parquet(folder: Path) -> tuple[Any, Any]:
    pq.write_table(TABLE, folder / "x.parquet", row_group_size=130)
    return folder / "x.parquet", expected(pq.read_table(folder / "x.parquet"), NAMED)


def parquet_files(folder: Path) -> tuple[Any, Any]:
    """Many files, among them empty ones, and empty row groups."""
    (folder / "many").mkdir()
    for number, start in enumerate(range(0, ROWS, 170)):
        pq.write_table(TABLE.slice(start, 170), folder / "many" / f"part-{number:05}.parquet", row_group_size=50)
    pq.write_table(TABLE.slice(0, 0), folder / "many" / "part-00002-empty.parquet")
    with pq.ParquetWriter(folder / "many" / "part-00003-groups.parquet", TABLE.schema) as writer:
        for rows in (0, 0):
            writer.write_table(TABLE.slice(0, rows))
    return folder / "many", expected(TABLE, NAMED)


def partitioned(folder: Path) -> tuple[Any, Any]:
    """Files in folders that say what all their rows have."""
    names = {"year=2023/kind=a%20b": 300, "year=2023/kind=c": 1, "year=2024/kind=c": 699}
    begin = 0
    for name, rows in names.items():
        (folder / "parts" / name).mkdir(parents=True)
        table = TABLE.select(["text", "number"]).slice(begin, rows)
        pq.write_table(table, folder / "parts" / name / "part-0.parquet", row_group_size=50)
        begin += rows
    table = pa.dataset.dataset(folder / "parts", partitioning="hive").to_table()
    assert table.column("text").to_pylist() == TEXTS  # in the order of the names
    return folder / "parts", expected(table, table.column_names)


def arrow(folder: Path) -> tuple[Any, Any]:
    with pa.ipc.new_file(folder / "x.arrow", TABLE.schema) as writer:
        for start in range(0, ROWS, 90):
            writer.write_table(TABLE.slice(start, 90))
        writer.write_table(TABLE.slice(0, 0))
    with pa.ipc.open_file(folder / "x.arrow") as opened:
        return folder / "x.arrow", expected(opened.read_all(), NAMED)


def feather(folder: Path) -> tuple[Any, Any]:
    pa.feather.write_feather(TABLE, folder / "x.feather", chunksize=77, compression="lz4")
    return folder / "x.feather", expected(pa.feather.read_table(folder / "x.feather"), NAMED)


def csv(folder: Path) -> tuple[Any, Any]:
    names = ["number", "whole", "truth", "text", "null"]
    pa.csv.write_csv(TABLE.select(names), folder / "x.csv")
    options = pa.csv.ConvertOptions(strings_can_be_null=False)
    parse = pa.csv.ParseOptions(newlines_in_values=True)
    table = pa.csv.read_csv(folder / "x.csv", parse_options=parse, convert_options=options)
    return folder / "x.csv", expected(table, names)


def jsonl(folder: Path) -> tuple[Any, Any]:
    names = ["number", "whole", "truth", "text", "vector", "ragged", "null", "list_null", "struct"]
    lines = [json.dumps(row) for row in TABLE.select(names).to_pylist()]
    (folder / "x.jsonl").write_text("\n".join(lines))
    table = pa.json.read_json(folder / "x.jsonl")
    return folder / "x.jsonl", expected(table, [*names[:-1], "struct.inner", "struct.deep.er"])


def tfrecords(folder: Path) -> tuple[Any, Any]:
    (folder / "many").mkdir()
    records = [bytes([row % 256]) * (row % 300) for row in range(ROWS)]
    for number, start in enumerate(range(0, ROWS, 400)):
        path = folder / "many" / f"name.tfrecord-{number:05}-of-00003"
        path.write_bytes(tfrecord(records[start : start + 400]))
    return folder / "many", {"": records}


def zarr_group(folder: Path) -> tuple[Any, Any]:
    group = zarr.create_group(folder / "x.zarr")
    group.create_array("vector", data=VECTORS, chunks=(70, 2))
    group.create_array("number", data=NUMBERS, chunks=(30,), shards=(120,))
    return folder / "x.zarr", {"number": group["number"][:].tolist(), "vector": group["vector"][:].tolist()}  # type: ignore[index,union-attr]


def zarr_array(folder: Path) -> tuple[Any, Any]:
    zarr.create_array(folder / "x.zarr", data=VECTORS, chunks=(64, 3), zarr_format=2)
    return folder / "x.zarr", {"": zarr.open_array(folder / "x.zarr")[:].tolist()}  # type: ignore[union-attr]


def npz(folder: Path) -> tuple[Any, Any]:
    np.savez(folder / "x.npz", number=NUMBERS, vector=VECTORS)
    with np.load(folder / "x.npz") as loaded:
        return folder / "x.npz", {name: loaded[name].tolist() for name in ("number", "vector")}


def hdf5(folder: Path) -> tuple[Any, Any]:
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("vector", data=VECTORS, chunks=(64, 3), compression="gzip")
        file.create_dataset("group/number", data=NUMBERS)
        file.create_dataset("text", data=[text or "none" for text in TEXTS], dtype=h5py.string_dtype())
    with h5py.File(folder / "x.h5") as file:
        texts = [text.decode() for text in file["text"][:]]
        return folder / "x.h5", {
            "group/number": file["group/number"][:].tolist(),
            "text": texts,
            "vector": file["vector"][:].tolist(),
        }


def webdataset(folder: Path) -> tuple[Any, Any]:
    with tarfile.open(folder / "x.tar", "w") as archive:
        for row in range(ROWS):
            for extension, data in (("txt", TEXTS[row].encode()), ("seg.bin", bytes([row % 256]) * (row % 50))):
                member = tarfile.TarInfo(f"shard/{row:04}.{extension}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    with tarfile.open(folder / "x.tar") as archive:
        found = {extension: [] for extension in ("txt", "seg.bin")}  # type: ignore[var-annotated]
        for member in archive:
            found[member.name.partition(".")[2]].append(archive.extractfile(member).read())  # type: ignore[union-attr]
    return folder / "x.tar", found


def contents(folder: Path) -> tuple[Any, Any]:
    (folder / "files").mkdir()
    for row in range(ROWS):
        (folder / "files" / f"{row:04}.bin").write_bytes(bytes([row % 256]) * (row % 90))
    return folder / "files", {"": [path.read_bytes() for path in sorted((folder / "files").iterdir())]}


WRITERS = [
    contents,
    webdataset,
    parquet,
    parquet_files,
    partitioned,
    arrow,
    feather,
    csv,
    jsonl,
    tfrecords,
    zarr_group,
    zarr_array,
    npz,
    hdf5,
]


MODELS = '''
import hashlib
import numpy as np

def seen(rows):
    """What each row is, whatever its columns."""
    columns = list(rows.values()) if isinstance(rows, dict) else [rows]
    return np.array([digest([column[at] for column in columns]) for at in range(len(columns[0]))], object)

def digest(values):
    plain = [value.tolist() if hasattr(value, "tolist") else value for value in values]
    return hashlib.sha256(repr(plain).encode()).hexdigest()[:16]

def odd(rows):
    if (rows["whole"] % 97 == 5).any():
        raise ValueError("is odd")
    return rows["whole"]
'''


def digest(values: list[Any]) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]


def opened(path: Path, names: list[str]) -> Any:
    named = {"columns": names} if any(name.startswith("struct.") for name in names) else {}
    return open_source(path, **named, **({"contents": True} if path.name == "files" else {}))


def whole_ref(source: Any) -> SplitRef:
    """Where all rows stand, as it comes out of a message."""
    ref = splits_of(source).open().in_place()  # type: ignore[union-attr]
    assert isinstance(ref, SplitRef), ref
    message = ChunkMessage(2, "0" * 12, 0, 0, 1, 1, [ModelRef("m", "d")], ref)
    came: Any = unpack(pack(message), ChunkMessage)
    assert came.ref == ref
    return ref


def check(rows: Any, start: int, stop: int, values: dict[str, list[Any]]) -> None:
    """Hold rows against those of a library: what is or holds None there cannot be fed here."""
    columns = columns_of(plain(rows), "rows")
    assert list(columns) == list(values) or set(columns) == set(values)
    null = {
        at - start
        for at in range(start, stop)
        for column in values.values()
        if column[at] is None or (isinstance(column[at], list) and None in column[at])
    }
    assert set(unfed_of(rows)) == null
    for name, column in columns.items():
        assert len(column) == stop - start
        for at, value in enumerate(column):
            if at not in null:
                found = value.tolist() if hasattr(value, "tolist") else value
                wanted = values[name][start + at]
                assert found == wanted, (name, start + at)
