"""How much of the speed of plain processes on an object store is left, and are children busy where requests are slow?

SeaweedFS on loopback has the rows.

- Parquet from the store and to the store: rows of 4 KiB in several objects, which workers read, double, and write. The
  rival: two plain processes that do the same with pyarrow, each with objects of its own; no order between them, no
  checks, nothing to go on from. Of each output ours sends the bytes twice and fetches them once, as parts become files.

- The model gives its rows back as they are (two children), which workers read where they stand in an `.npy` object.
  The rival: two plain processes that read the same ranges with pyarrow and write the same bytes to an output file; no
  model, no order, no messages.
- A model that takes 0.2 s for a chunk of 1 MiB, with 20 ms added to each request by a proxy: the share of two
  children's time in which it runs, from the submission to the last row, where chunks are slices of an `.npy` object,
  row groups of a Parquet object, Parquet objects, and rows of HDF5, `.npz` and Zarr.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import h5py
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import zarr
from pyarrow import fs

from benchmarks.harness import Arm, check_equal, compare
from benchmarks.report import at_least, report_comparison
from benchmarks.stage import CHILDREN, Rivals, ask, folder, random_rows
from benchmarks.transport import chunk_rows_of, pieces
from producer.embedded.local import local
from producer.outputs.predict_to_sink import ending, predict_to_sink
from producer.outputs.run_options import RunOptions
from producer.sinks import JournalHead, open_sink
from producer.sources import open_source
from tasks.storage import objects
from tests.fault_proxy import proxy_before
from tests.object_stores import ObjectStore, running
from worker_config.object_urls import object_url

Rows = npt.NDArray[np.float32]

AIM = 0.5
BUSY_AIM = 0.9
_URL = "s3://rows/rows.npy"
_PARQUET, _OURS, _PLAIN = "s3://rows/input", "s3://rows/ours.parquet", "rows/plain.parquet"
_FILE_ROWS, _CHUNK_ROWS = 8_192, 2_048
_CHUNK_SECONDS = 0.2
_REQUEST_SECONDS = 0.02
_SLOW_CHUNK_ROWS = 256
_MODELS = f"""
import time

def same(rows):
    return rows

def double(rows):
    return rows["output"] * 2

def slow(rows):
    time.sleep({_CHUNK_SECONDS})
    return (rows["x"] if isinstance(rows, dict) else rows)[:, :1]
"""


def question(quick: bool) -> bool:
    """Measure both; return whether the machine was quiet."""
    data = random_rows("identity", 4_096 if quick else 32_768)
    with folder() as place, _store(place) as store:
        _busy(place, store, data[: 4_096 if quick else 16_384], rounds=1 if quick else 2)
        return all([_parquet(place, store, data, quick), _speed(place, store, data, quick)])


def _speed(place: Path, store: ObjectStore, data: Rows, quick: bool) -> bool:
    readers = Rivals(copy_ranges)
    _put(place, data)
    with local(_write_models(place), CHILDREN) as client:
        check = partial(check_equal, expected=data)
        ours = Arm("celeriac, objects", lambda: client.submit("same", _URL, store="slices").result(), check)
        chunk_rows = chunk_rows_of(client, _URL, "slices", model="same")
        plain = Arm("pyarrow", lambda: _read_and_write(readers, place / "output", store, data, chunk_rows), check)
        found = compare(ours, [plain])
        return report_comparison(
            "object_stores: where they stand",
            found,
            len(data),
            {"row_bytes": data[0].nbytes, "chunk_rows": chunk_rows, "children": CHILDREN},
            [at_least("celeriac / pyarrow", found.speed_against(plain.name), AIM)],
            quick=quick,
        )


def _parquet(place: Path, store: ObjectStore, data: Rows, quick: bool) -> bool:
    writers = Rivals(double_files)
    files = pieces(len(data), min(_FILE_ROWS, len(data) // CHILDREN))
    for number, (start, stop) in enumerate(files):
        pq.write_table(_table(data[start:stop], start), place / "rows.parquet", row_group_size=_CHUNK_ROWS)
        objects.put(object_url(f"{_PARQUET}/{number:05d}.parquet"), place / "rows.parquet")
    (place / "rows.parquet").unlink()
    columns = {"columns": ["output"]}

    def ours() -> str:
        source = open_source(f"{_PARQUET}/", **columns)
        head = JournalHead(source={"name": "rows"}, models=client.digests(["double"]))
        with ending(open_sink(f"{_OURS}/", source.rows, True, journal=head, in_parts=True)) as sink:
            if sink.folder:
                sink.folder.part_bytes = (files[0][1] - files[0][0]) * data[0].nbytes
            predict_to_sink(client, ["double"], source, sink, head, RunOptions(chunk_rows=_CHUNK_ROWS, quiet=True))
        return _OURS.removeprefix("s3://")

    def plain() -> str:
        numbers = range(len(files))
        writers.begin(*((store.port, list(numbers[first::CHILDREN])) for first in range(CHILDREN)))
        writers.finish()
        return _PLAIN

    def check(output: str) -> None:
        table = ds.dataset(output, filesystem=_arrow_store(store.port)).to_table()
        check_equal(table["row"].to_numpy(), np.arange(len(data)))
        check_equal(table.column(1).combine_chunks().flatten().to_numpy().reshape(data.shape), data * 2)

    with local(_write_models(place), CHILDREN) as client:
        rival = Arm("pyarrow", plain, check)
        found = compare(Arm("celeriac, Parquet objects", ours, check), [rival])
    return report_comparison(
        "object_stores: Parquet from and to the store",
        found,
        len(data),
        {"row_bytes": data[0].nbytes, "chunk_rows": _CHUNK_ROWS, "children": CHILDREN},
        [at_least("celeriac / pyarrow", found.speed_against(rival.name), AIM)],
        quick=quick,
    )


def _table(rows: Rows, first: int) -> pa.Table:
    values = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
    return pa.table({"row": np.arange(first, first + len(rows)), "output": values})


def double_files(port: int, numbers: list[int]) -> None:
    """One plain process: read each of its objects by row groups, double the rows, write them to another."""
    store, name = _arrow_store(port), "{}/{:05d}.parquet"
    for number in numbers:
        with (
            pq.ParquetFile(store.open_input_file(name.format(_PARQUET.removeprefix("s3://"), number))) as source,
            store.open_output_stream(name.format(_PLAIN, number)) as target,
            pq.ParquetWriter(target, source.schema_arrow) as writer,
        ):
            for group in range(source.num_row_groups):
                table = source.read_row_group(group)
                values = table["output"].combine_chunks()
                rows = values.flatten().to_numpy().reshape(len(table), -1) * 2
                doubled = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), type=values.type)
                writer.write_table(pa.table([table["row"], doubled], schema=source.schema_arrow))


def _busy(place: Path, store: ObjectStore, data: Rows, rounds: int) -> None:
    _put(place, data)
    _put_parquet(place, data, "s3://rows/groups/", len(data))
    _put_parquet(place, data, "s3://rows/files/", _SLOW_CHUNK_ROWS)
    urls = (_URL, "s3://rows/groups/", "s3://rows/files/", *_put_stores(place, data))
    with proxy_before(store.port) as proxy, patch.dict(os.environ, store.environment(endpoint=proxy.endpoint)):
        proxy.delay_seconds = _REQUEST_SECONDS
        with local(_write_models(place), CHILDREN) as client:
            for url in urls * rounds:
                began, chunks, asked = time.monotonic(), 0, len(proxy.seen)
                for part in client.submit("slow", url, store="slices", chunk_rows=_SLOW_CHUNK_ROWS).parts():
                    np.testing.assert_array_equal(part.outputs, data[part.start : part.stop, :1])
                    chunks += 1
                busy = chunks * _CHUNK_SECONDS / CHILDREN / (time.monotonic() - began)
                print(f"{url}: {chunks} chunks, {len(proxy.seen) - asked} requests")
                print(f"  children run their model {busy:.3f} of the time (aim: {BUSY_AIM})", flush=True)


def _put_parquet(place: Path, data: Rows, folder_url: str, file_rows: int) -> None:
    """Objects of so many rows, each row group of which is a chunk."""
    for start in range(0, len(data), file_rows):
        rows = data[start : start + file_rows]
        table = pa.table({"x": pa.FixedSizeListArray.from_arrays(rows.ravel(), rows.shape[1])})
        file = place / "rows.parquet"
        pq.write_table(table, file, row_group_size=_SLOW_CHUNK_ROWS, use_dictionary=False, compression="none")
        objects.put(object_url(f"{folder_url}{start:08}.parquet"), file)
        file.unlink()


def _put_stores(place: Path, data: Rows) -> list[str]:
    """The same rows in an object of HDF5, one of arrays by name, and many of Zarr; chunks are those of the job."""
    with h5py.File(place / "rows.h5", "w") as file:
        file.create_dataset("x", data=data, chunks=(_SLOW_CHUNK_ROWS, data.shape[1]))
    np.savez(place / "rows.npz", x=data)
    zarr.create_group(place / "rows.zarr").create_array(
        "x", data=data, chunks=(_SLOW_CHUNK_ROWS, data.shape[1]), compressors=None
    )
    urls = []
    for path in (place / "rows.h5", place / "rows.npz", place / "rows.zarr"):
        for file in [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file()):
            objects.put(object_url(f"s3://rows/{file.relative_to(place)}"), file)
            file.unlink()
        urls.append(f"s3://rows/{path.name}{'' if path.suffix != '.zarr' else '/'}")
    shutil.rmtree(place / "rows.zarr")
    return urls


def _write_models(place: Path) -> Path:
    """Functions, so that moving rows is all there is to do, or sleeping."""
    (place / "store_models.py").write_text(_MODELS)
    table = f'[models.%s]\npath = "store_models:%s"\nbatch_rows = {_SLOW_CHUNK_ROWS}\n'
    (place / "models.toml").write_text("".join(table % (name, name) for name in ("same", "slow", "double")))
    return place / "models.toml"


@contextmanager
def _store(place: Path) -> Iterator[ObjectStore]:
    (place / "store").mkdir()
    with running(place / "store") as store, patch.dict(os.environ, store.environment()):
        yield store


def _put(place: Path, data: Rows) -> None:
    np.save(place / "rows.npy", data)
    objects.put(object_url(_URL), place / "rows.npy")
    (place / "rows.npy").unlink()


def _read_and_write(readers: Rivals, output: Path, store: ObjectStore, data: Rows, chunk_rows: int) -> Rows:
    output.unlink(missing_ok=True)
    output.touch()
    offset, row_bytes = objects.stat(object_url(_URL)).size - data.nbytes, data[0].nbytes
    chunks = pieces(len(data), chunk_rows)
    orders = (chunks[number::CHILDREN] for number in range(CHILDREN))
    readers.begin(*((store.port, output, offset, row_bytes, order) for order in orders))
    readers.finish()
    return np.memmap(output, data.dtype, "r", shape=data.shape)


def copy_ranges(port: int, output: Path, offset: int, row_bytes: int, chunks: list[tuple[int, int]]) -> None:
    """One plain process: read each range, write it to its place."""
    store = _arrow_store(port)
    target = os.open(output, os.O_WRONLY)
    with store.open_input_file(_URL.removeprefix("s3://")) as source:
        for start, stop in chunks:
            data = source.read_at((stop - start) * row_bytes, offset + start * row_bytes)
            os.pwrite(target, data, start * row_bytes)
    os.close(target)


def _arrow_store(port: int) -> fs.S3FileSystem:
    return fs.S3FileSystem(
        endpoint_override=f"127.0.0.1:{port}",
        scheme="http",
        access_key=os.environ["AWS_ACCESS_KEY_ID"],
        secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        region=os.environ["AWS_REGION"],
    )


if __name__ == "__main__":
    ask(question, __doc__)
