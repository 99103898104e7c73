"""Data sets behind URLs: rows that workers read themselves, rows that the producer reads, and objects that change."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from producer import Client, sources
from producer.sources import fingerprint, open_source
from tasks.storage import objects
from tests.integration.test_stores import store_of
from tests.models import in_one_process
from tests.object_stores import ObjectStore
from tests.systems import System, serving
from worker_config.errors import InputError, ObjectChangedError, ObjectMissingError, UsageError
from worker_config.object_urls import object_url

CLOSE = {"rtol": 1e-5, "atol": 1e-6}
ROWS = np.random.default_rng(3).random((3_000, 64), np.float32)


def _put(url: str, data: bytes) -> str:
    objects.put(object_url(url), data)
    return url


def _npy(rows: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, rows)
    return file.getvalue()


def _parquet(rows: Any, first: int = 0) -> bytes:
    file = io.BytesIO()
    table = {"number": np.arange(first, first + len(rows)), "pixels": list(rows)}
    parquet.write_table(pa.table(table), file, row_group_size=500)
    return file.getvalue()


@pytest.fixture(scope="module", autouse=True)
def _environment(object_store: ObjectStore) -> Iterator[None]:
    with object_store.used_here():
        yield


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, models: Path, object_store: ObjectStore) -> Iterator[System]:
    environ = {**object_store.environment(), "CELERIAC_DATA_ROOTS": "s3://rows/open"}
    with serving(tmp_path_factory.mktemp("s"), models / "models.toml", environ=environ) as system:
        yield system


@pytest.fixture(scope="module")
def expected(models: Path) -> Any:
    return in_one_process(models / "digits.keras", ROWS)


def test_workers_read_rows_of_an_object_where_it_stands(system: System, client: Client, expected: Any) -> None:
    url = _put("s3://rows/open/rows of mine.npy", _npy(ROWS))
    job = client.submit("digits", url, store="slices", chunk_rows=700)
    np.testing.assert_allclose(job.result(), expected, **CLOSE)
    assert job.ledger.written == len(ROWS)
    assert store_of(system, job.id) == "slices"


@pytest.mark.parametrize("path", ["closed/rows.npy", "opened/rows.npy"])
def test_an_object_outside_the_roots_comes_by_way_of_the_producer(
    system: System, client: Client, expected: Any, path: str
) -> None:
    url = _put(f"s3://rows/{path}", _npy(ROWS))
    job = client.submit("digits", url, chunk_rows=700)
    np.testing.assert_allclose(job.result(), expected, **CLOSE)
    assert store_of(system, job.id) == "redis"
    with pytest.raises(UsageError, match=r"under no folder that all workers may read \(CELERIAC_DATA_ROOTS\)"):
        client.submit("digits", url, store="slices")


@pytest.mark.parametrize("pattern", ["", "part-*.parquet"])
def test_parquet_objects_are_read_in_the_order_of_their_names(client: Client, expected: Any, pattern: str) -> None:
    folder = f"s3://rows/open/parts{len(pattern)}/"
    _put(f"{folder}part-1.parquet", _parquet(ROWS[1_200:], 1_200))
    _put(f"{folder}part-0.parquet", _parquet(ROWS[:1_200]))
    _put(f"{folder}_SUCCESS", b"")
    _put(f"{folder}below/part-2.parquet", _parquet(ROWS[:7]))
    scores = client.predict("digits", open_source(f"{folder}{pattern}", columns=["pixels"]))
    np.testing.assert_allclose(scores, expected, **CLOSE)


def test_csv_and_tfrecord_objects_are_read_as_files_are(tmp_path: Path) -> None:
    text = "a,b\n" + "".join(f"{number},{number / 4}\n" for number in range(50_000))
    (tmp_path / "x.csv").write_text(text)
    for given in (tmp_path / "x.csv", _put("s3://rows/open/x.csv", text.encode())):
        [columns] = list(open_source(given).batches())
        np.testing.assert_array_equal(columns["a"], np.arange(50_000))
        np.testing.assert_array_equal(columns["b"], np.arange(50_000) / 4)
    record = b"\x03\0\0\0\0\0\0\0" + _masked(b"\x03\0\0\0\0\0\0\0") + b"abc" + _masked(b"abc")
    source = open_source(_put("s3://rows/open/x.tfrecord", 3 * record))
    assert [list(batch) for batch in source.batches()] == [[b"abc"] * 3]


def _masked(data: bytes) -> bytes:
    import google_crc32c

    from tasks.datasets.formats import tfrecord

    return tfrecord._masked(google_crc32c.value(data)).to_bytes(4, "little")


@pytest.mark.parametrize("dtype", ["float64", ">f4", "bool", "U5", "S3", "uint8"])
def test_an_npy_object_gives_what_the_file_gives(tmp_path: Path, dtype: str) -> None:
    rows = (ROWS[:20, :3] * 3).astype(dtype)
    np.save(tmp_path / "rows.npy", rows)
    url = _put(f"s3://rows/open/{dtype}.npy", _npy(rows))
    here, there = open_source(tmp_path / "rows.npy"), open_source(url)
    assert (here.rows, here.row_bytes) == (there.rows, there.row_bytes)
    for start, stop in ((0, 20), (3, 4), (5, 5)):
        one, other = here.take(start, stop), there.take(start, stop)
        np.testing.assert_array_equal(one, other)
        assert (one.dtype, one.flags.aligned) == (other.dtype, other.flags.aligned)


def test_an_object_that_changes_during_a_job_is_never_mixed(client: Client) -> None:
    url = _put("s3://rows/open/changing.npy", _npy(ROWS))
    source = open_source(url)
    _put(url, _npy(ROWS + 1))
    with pytest.raises(ObjectChangedError, match=r"changing\.npy: has changed since it was looked at"):
        client.submit("digits", source, chunk_rows=700).result()


def test_bad_objects_are_named(client: Client) -> None:
    whole = _npy(ROWS[:10])
    for name, data, what in (
        ("empty.npy", b"", "is empty"),
        ("text.npy", b"hello, world", "is not a NumPy array"),
        ("short.npy", whole[:-1], "is cut short"),
        ("fortran.npy", _npy(np.asfortranarray(ROWS[:10])), "is in Fortran order"),
        ("short.parquet", _parquet(ROWS[:10])[:-9], "is damaged or cut short"),
        ("rows.zip", b"1", "objects of type '.zip' cannot be read"),
    ):
        url = _put(f"s3://rows/bad/{name}", data)
        with pytest.raises(InputError, match=rf"^{url}: .*{what}"):
            sources.open_source(url)
    with pytest.raises(ObjectMissingError, match=r"^s3://rows/bad/none.npy: no such object"):
        client.predict("digits", "s3://rows/bad/none.npy")
    with pytest.raises(InputError, match=r"^https://host/x.npy: has a \? or a #"):
        client.predict("digits", "https://host/x.npy?X-Amz-Signature=secret")


def test_a_fingerprint_tells_an_object_from_what_it_was() -> None:
    url = _put("s3://rows/open/print.npy", b"first")
    first = fingerprint(url)
    assert (first["path"], first["bytes"]) == (url, 5)
    assert fingerprint(url) == first
    _put(url, b"other")
    assert fingerprint(url) != first


def test_web_servers_give_rows_too(client: Client, object_store: ObjectStore, expected: Any) -> None:
    _put("s3://rows/open/rows on the web.npy", _npy(ROWS))
    url = f"http://127.0.0.1:{object_store.web_port}/buckets/rows/open/rows%20on%20the%20web.npy"
    np.testing.assert_allclose(client.predict("digits", url), expected, **CLOSE)


def test_a_web_server_without_ranges_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(_npy(ROWS))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_NoRanges, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        with pytest.raises(InputError, match="this server gives no ranges of bytes"):
            open_source(f"http://127.0.0.1:{server.server_address[1]}/x.npy")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _NoRanges(SimpleHTTPRequestHandler):
    """Python's own server; whoever wanted a range hangs up."""

    def log_message(self, *_: Any) -> None:
        return

    def copyfile(self, source: Any, outputfile: Any) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            super().copyfile(source, outputfile)
