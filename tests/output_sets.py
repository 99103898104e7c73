"""Outputs that are folders of files: read back as any reader does, and held against the same output as one file."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.feather
import pyarrow.parquet
from numcodecs import Zstd

from producer import Client, Job, JobOptions
from producer.sources import open_source
from tasks.protocol.messages import PartsReply


def begin_writing(client: Client, model: str, rows: Any, folder: Path | str, **options: Any) -> Job:
    """A job whose outputs workers leave in this folder, without an output that they belong to."""
    options = {"write_to": PartsReply(str(folder)), **options}
    return client._begin_job([model], open_source(rows), JobOptions(**options))


def names_in(folder: Path) -> list[str]:
    """The files of an output, which must be all that it has, numbered from zero; none of a Zarr store."""
    if folder.suffix == ".zarr":
        return []
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"part-{number:05d}{folder.suffix}" for number in range(len(names))]
    return names


def read_folder(folder: Path) -> Any:
    """What a folder holds, in the order of its files' names."""
    files = [folder / name for name in names_in(folder)]
    if folder.suffix == ".parquet":
        return pa.dataset.dataset(folder).to_table()
    if folder.suffix == ".feather":
        return pa.concat_tables([pa.feather.read_table(file) for file in files])
    if folder.suffix == ".csv":
        # At once, as a file whose rows all failed does not tell types.
        first, *more = [file.read_bytes() for file in files]
        return pa.csv.read_csv(io.BytesIO(first + b"".join(data.partition(b"\n")[2] for data in more)))
    if folder.suffix == ".jsonl":
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return np.concatenate([np.load(file) for file in files])


def read_file(path: Path) -> Any:
    """The same of an output that is one file."""
    if path.suffix == ".parquet":
        return pa.parquet.read_table(path)
    if path.suffix == ".feather":
        return pa.feather.read_table(path)
    if path.suffix == ".csv":
        return pa.csv.read_csv(path)
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    return np.load(path)


def assert_same(folder: Path, file: Path) -> None:
    """An output as a folder has what the same output as a file has, to the bit, and nothing lies beside it."""
    if folder.suffix == ".zarr":
        got, expected = files_of(folder), files_of(file)
        differing = {name for name in got.keys() | expected.keys() if got.get(name) != expected.get(name)}
        assert not differing, sorted(differing)
        assert_nothing_beside(folder)
        return
    got, expected = read_folder(folder), read_file(file)
    if isinstance(got, pa.Table):
        assert got.schema.equals(expected.schema, check_metadata=False)
        for name in got.schema.names:
            # Serialised, as a NaN equals none.
            assert _bytes_of(got.select([name])) == _bytes_of(expected.select([name])), name
    elif isinstance(got, np.ndarray):
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        assert got.tobytes() == expected.tobytes()
    else:
        assert got == expected
    assert_nothing_beside(folder)


def files_of(store: Path) -> dict[str, Any]:
    """All files of a Zarr store: what metadata say, and the bytes that Zarr chunks had before zstd made them small.

    That gives other bytes for the same ones now and then.
    """
    found = {}
    for path in store.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            found[str(path.relative_to(store))] = json.loads(data) if path.name == "zarr.json" else Zstd().decode(data)
    return found


def assert_nothing_beside(folder: Path) -> None:
    """No working folder and no journal are left, and the manifest says what there is."""
    assert [path.name for path in folder.parent.glob(f".{folder.name}*")] == []
    manifest = json.loads(folder.with_name(f"{folder.name}.manifest.json").read_text())
    assert manifest["complete"]
    assert [file["name"] for file in manifest["files"]] == names_in(folder)
    assert [file["bytes"] for file in manifest["files"]] == [(folder / one).stat().st_size for one in names_in(folder)]


def _bytes_of(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema.remove_metadata()) as stream:
        for batch in table.replace_schema_metadata().combine_chunks().to_batches():
            stream.write_batch(batch)
    return bytes(sink.getvalue())


def safe_rows(journal: bytes) -> int:
    """What the last whole line of a journal says: after its head, one for each time that rows became safe."""
    lines = journal.split(b"\n")[:-1]
    return int(json.loads(lines[-1].partition(b" ")[2]).get("stop", 0)) if lines else 0
