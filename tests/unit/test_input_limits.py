"""Files that declare, or unpack to, far more than they have are refused before memory is taken for it."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lz4.block
import msgpack
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
import zstandard

from producer.sources import open_parquet, open_source
from tasks.datasets.formats.parquet_pages import page_sizes
from tasks.datasets.input_limit import InputLimit
from tests.tfrecords import masked, tfrecord
from worker_config.errors import InputError

LIMIT_MIB = 8
UNPACKED = 64 * 2**20
# What reading takes besides: pieces of up to 16 MiB, and what libraries keep.
MOST_BYTES = 40 * 2**20

# Reads each file, a small one of its format first, and prints what became of it, and how much memory was taken.
READ = """
import json, resource, sys, tracemalloc
from pathlib import Path
from producer.sources import open_source
from tasks.protocol import codec
from worker_config.errors import CeleriacError

def rss():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def read(path):
    if path.suffix == ".payload":
        return codec.decode(path.read_bytes())
    source = open_source(path)
    if hasattr(source, "take"):
        return source.take(0, min(source.rows, 4))
    return [len(batch) for batch in source.batches()]

for path in map(Path, sys.argv[1:]):
    before = rss()
    tracemalloc.start()
    try:
        text = f"read {type(read(path)).__name__}"
    except CeleriacError as error:
        text = f"{type(error).__name__}: {error}"
    taken = max(tracemalloc.get_traced_memory()[1], rss() - before)
    tracemalloc.stop()
    print(json.dumps([path.name, text, taken]), flush=True)
"""


def npy(header: str, version: int = 1, length: int | None = None) -> bytes:
    size = struct.pack("<H" if version == 1 else "<I", len(header) if length is None else length)
    return b"\x93NUMPY" + bytes((version, 0)) + size + header.encode()


def header(shape: object, dtype: str = "<f4") -> str:
    return f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n"


def npz(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def zeros(rows: int) -> bytes:
    return npy(header((rows,), "|u1")) + bytes(rows)


def parquet(path: Path, values: object, **options: Any) -> None:
    pq.write_table(pa.table({"a": values}), path, compression="zstd", **options)


def payload(name: str, size: int, packed: bytes) -> bytes:
    return bytes(msgpack.packb([1, name, size, packed]))


def tfrecord_of(length: int, content: bytes) -> bytes:
    head = struct.pack("<Q", length)
    return head + masked(head) + content


def empty_zarr(path: Path, shape: tuple[int, ...], chunks: tuple[int, ...], **options: Any) -> None:
    zarr.create_array(path, shape=shape, chunks=chunks, dtype="float32", **options)


def bytes_of(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


# What is read, so that no library is loaded later.
GOOD: dict[str, Callable[[Path], object]] = {
    "good.npy": bytes_of(zeros(3)),
    "good.npz": bytes_of(npz({"a": zeros(3)})),
    "good.tfrecord": bytes_of(tfrecord([b"a"])),
    "good.tfrecord.gz": bytes_of(gzip.compress(tfrecord([b"a"]))),
    "good.parquet": lambda path: parquet(path, [[b"a", b"b"]]),
    "good.zarr": lambda path: zarr.create_array(path, data=np.ones((3, 2))),
    "lz4.payload": bytes_of(payload("lz4", 3, lz4.block.compress(b"\x92\x01\x05", store_size=False))),
    "zstd.payload": bytes_of(payload("zstd", 3, zstandard.compress(b"\x92\x01\x05"))),
}
_COULD = f"CELERIAC_INPUT_MIB allows {LIMIT_MIB} MiB"
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "shape.npy": (bytes_of(npy(header((10**9, 10)))), "is cut short"),
    "negative.npy": (bytes_of(npy(header((-5, 3)))), "is cut short"),
    "rows.npy": (bytes_of(npy(header((10**12, 0)))), _COULD),
    "header.npy": (bytes_of(npy(header((3,)), version=2, length=2**32 - 1)), "a header of 4294967295 bytes"),
    "unpacked.npz": (bytes_of(npz({"a": zeros(UNPACKED)})), _COULD),
    "many.npz": (bytes_of(npz({f"a{n}": zeros(5 * 2**20) for n in range(8)})), _COULD),
    "shape.npz": (bytes_of(npz({"a": npy(header((10**9, 10)))})), "is cut short"),
    "lzma.npz": (bytes_of(npz({"a": zeros(3)}, zipfile.ZIP_LZMA)), "compressed in a way"),
    "length.tfrecord": (bytes_of(tfrecord_of(2**62, b"abc")), _COULD),
    "cut.tfrecord": (bytes_of(tfrecord_of(LIMIT_MIB * 2**20, b"abc")), "is cut short"),
    "record.tfrecord.gz": (bytes_of(gzip.compress(tfrecord([bytes(UNPACKED)]))), _COULD),
    "length.tfrecord.gz": (bytes_of(gzip.compress(tfrecord_of(2**40, b"abc"))), _COULD),
    "row.parquet": (lambda path: parquet(path, [bytes(UNPACKED)]), "a row of row group 0"),
    "list.parquet": (lambda path: parquet(path, [np.zeros(UNPACKED, np.int8)]), "a row of row group 0"),
    "page.parquet": (
        lambda path: parquet(path, [bytes(64_000)] * 1000, use_dictionary=False, data_page_size=2**30),
        "a page of column 'a'",
    ),
    "chunk.zarr": (lambda path: empty_zarr(path, (10**9, 10), (10**9, 10)), "a chunk has 40,000,000,000 bytes"),
    "row.zarr": (lambda path: empty_zarr(path, (10, 10**9), (1, 10**4)), "a block of 1 rows"),
    "shard.zarr": (
        lambda path: empty_zarr(path, (10**7, 1), (1, 1), shards=(10**7, 1)),
        "the index of a shard has 160,000,000 bytes",
    ),
    "size-lz4.payload": (bytes_of(payload("lz4", 500 * 2**20, b"\x10a")), "is damaged"),
    "size-zstd.payload": (bytes_of(payload("zstd", 500 * 2**20, zstandard.compress(b"abc"))), "is damaged"),
    "frame-zstd.payload": (bytes_of(payload("zstd", 3, zstandard.compress(bytes(UNPACKED)))), "is damaged"),
    "limit.payload": (bytes_of(payload("zstd", 2**40, zstandard.compress(b"abc"))), "the limit is"),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, int]]:
    """What became of each file, and the bytes of memory that were taken for it."""
    folder = tmp_path_factory.mktemp("limits")
    makers = {**GOOD, **{name: maker for name, (maker, _) in BAD.items()}}
    for name, maker in makers.items():
        maker(folder / name)
    done = subprocess.run(
        [sys.executable, "-c", READ, *(str(folder / name) for name in makers)],
        env={**os.environ, "CELERIAC_INPUT_MIB": str(LIMIT_MIB)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {name: (text, taken) for name, text, taken in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", GOOD)
def test_what_has_what_it_declares_is_read(name: str, outcomes: dict[str, tuple[str, int]]) -> None:
    assert outcomes[name][0].startswith("read ")


@pytest.mark.parametrize("name", BAD)
def test_what_declares_too_much_is_refused_within_bounds(name: str, outcomes: dict[str, tuple[str, int]]) -> None:
    text, taken = outcomes[name]
    assert text.startswith(("InputError: ", "PayloadError: "))
    assert BAD[name][1] in text
    assert "\n" not in text
    assert taken < MOST_BYTES


def test_the_limit_says_what_to_set() -> None:
    InputLimit(2**20).check(2**20, "x.npz", "a")
    with pytest.raises(InputError, match=r"x.npz: a has 1,048,577 bytes .* allows 1 MiB; .* CELERIAC_INPUT_MIB to 2$"):
        InputLimit(2**20).check(2**20 + 1, "x.npz", "a")


def test_a_higher_limit_lets_it_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.npz").write_bytes(npz({"a": zeros(5 * 2**20)}))
    monkeypatch.setenv("CELERIAC_INPUT_MIB", "4")
    with pytest.raises(InputError, match="CELERIAC_INPUT_MIB to 6"):
        open_source(tmp_path / "x.npz")
    monkeypatch.setenv("CELERIAC_INPUT_MIB", "6")
    assert open_source(tmp_path / "x.npz").rows == 5 * 2**20


@pytest.mark.parametrize(
    "options", [{}, {"data_page_version": "2.0"}, {"use_dictionary": False}, {"row_group_size": 9_000}]
)
def test_the_pages_of_a_column_add_up_to_what_the_footer_says(tmp_path: Path, options: dict[str, Any]) -> None:
    random = np.random.default_rng(0)
    table = pa.table({"n": random.random(50_000), "t": [f"text {n % 700}" for n in range(50_000)]})
    pq.write_table(table, tmp_path / "x.parquet", compression="zstd", data_page_size=30_000, **options)
    metadata = pq.read_metadata(tmp_path / "x.parquet")
    pages = 0
    with (tmp_path / "x.parquet").open("rb") as file:
        for number in range(metadata.num_row_groups):
            for position in range(2):
                column = metadata.row_group(number).column(position)
                start = column.dictionary_page_offset or column.data_page_offset
                sizes = list(page_sizes(file, start, start + column.total_compressed_size))
                heads = column.total_uncompressed_size - sum(sizes)
                assert 0 < heads < 200 * len(sizes)
                pages += len(sizes)
    assert pages > 8
    assert sum(len(batch["n"]) for batch in open_parquet(tmp_path / "x.parquet").batches()) == 50_000  # type: ignore[call-overload,index]
