"""What a producer keeps of wide data sets: little of each file, and nothing of each chunk or of what does not match."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from producer.job.chunk_feeds import SourceFeed
from producer.sources import open_source
from tasks.protocol.split_ref import SplitRef, cut
from tests.forms import LONG

FILES = 10_000 if LONG else 1_500
OBJECTS = 1_000_000 if LONG else 50_000
MOST_BYTES_OF_A_FILE = 4_096

# What opening a data set and cutting it into chunks adds to a process that has done the same with one file.
GROWTH = """
import os, sys
from producer.rows.source import splits_of
from producer.sources import open_source
from tasks.protocol.split_ref import cut

def planned(path):
    splits = splits_of(open_source(path)).open()
    ref, row, chunks = splits.in_place(), 0, 0
    while row < splits.rows:
        rows = splits.cut_rows(row, 100, fixed=False)
        cut(ref, row, row + rows)
        row, chunks = row + rows, chunks + 1
    return splits, ref, chunks

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

one = planned(sys.argv[1])
before = resident()
kept = planned(sys.argv[2])
print(resident() - before)
"""


def test_of_a_file_little_is_kept_whatever_it_has(tmp_path: Path) -> None:
    file = io.BytesIO()
    table = pa.table({f"column_{number}": np.arange(40.0) for number in range(20)})
    pq.write_table(table, file, row_group_size=10)
    (tmp_path / "many").mkdir()
    for number in range(FILES):
        (tmp_path / "many" / f"part-{number:06}.parquet").write_bytes(file.getvalue())
    (tmp_path / "one.parquet").write_bytes(file.getvalue())
    command = [sys.executable, "-c", GROWTH, str(tmp_path / "one.parquet"), str(tmp_path / "many")]
    root = Path(__file__).parents[2]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) < FILES * MOST_BYTES_OF_A_FILE


def test_nothing_is_kept_of_a_chunk(tmp_path: Path) -> None:
    """Of two terabytes, which are a hole in a file."""
    path, rows = tmp_path / "x.npy", 2**31
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, 256)}
        np.lib.format.write_array_header_2_0(file, header)
        file.truncate(file.tell() + rows * 1_024)
    source: Any = open_source(path)
    feed = SourceFeed(source, with_rows=False)
    for _ in range(100):
        feed.next_chunk(8_192)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        chunks = sum(feed.next_chunk(100_000) is not None for _ in range(21_000))
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert chunks > 20_000
    assert max(after, peak) - before < 100_000


def test_of_objects_that_do_not_match_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    from tasks.storage.object_paths import find_objects

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "any")
    monkeypatch.setattr("tasks.storage.stores._stores", {})
    with played_listing() as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        tracemalloc.start()
        try:
            found = find_objects("s3://bucket/many/*0000.parquet")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert [one.name for one in found] == [f"part-{number:08}.parquet" for number in range(0, OBJECTS, 10_000)]
    assert peak < 10 * 2**20


def test_of_objects_that_are_rows_a_hundred_bytes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    from producer.sources.formats.folders import open_files
    from producer.sources.formats.split_source import SplitSource

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "any")
    monkeypatch.setattr("tasks.storage.stores._stores", {})
    with played_listing() as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        tracemalloc.start()
        try:
            source = open_files("s3://bucket/many/", contents=True)
            assert isinstance(source, SplitSource)
            splits = source.splits
            paths, ref = sum(1 for _ in splits.paths()), splits.open().in_place()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert (source.rows, paths) == (OBJECTS, OBJECTS)
    assert peak < 200 * OBJECTS + 5 * 2**20  # a page of the list besides
    assert isinstance(ref, SplitRef)
    [span] = cut(ref, OBJECTS - 1, OBJECTS).spans
    assert span.path == f"s3://bucket/many/part-{OBJECTS - 1:08}.parquet"
    assert (span.first, span.start, span.stop, span.size) == (OBJECTS - 1, 0, 1, OBJECTS - 1)
    assert span.etag == f"{OBJECTS - 1:032x}"


@contextmanager
def played_listing() -> Iterator[str]:
    """A server that lists so many objects, a page at a time."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            return

        def do_GET(self) -> None:
            asked = parse_qs(urlparse(self.path).query)
            start = int(asked.get("continuation-token", ["0"])[0])
            stop = min(start + 1_000, OBJECTS)
            more = stop < OBJECTS
            parts = [
                f"<Contents><Key>many/part-{number:08}.parquet</Key><LastModified>2026-01-01T00:00:00.000Z"
                f'</LastModified><ETag>"{number:032x}"</ETag><Size>{number}</Size></Contents>'
                for number in range(start, stop)
            ]
            token = f"<NextContinuationToken>{stop}</NextContinuationToken>" if more else ""
            head = f"<Name>bucket</Name><KeyCount>{stop - start}</KeyCount><MaxKeys>1000</MaxKeys>"
            head += f"<IsTruncated>{str(more).lower()}</IsTruncated>"
            body = f"<ListBucketResult>{head}{token}{''.join(parts)}</ListBucketResult>".encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_look_at_many_files_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tasks.storage.told.STORE_TELL_SECONDS", 0.0)
    for number in range(3):
        pq.write_table(pa.table({"x": [1.0]}), tmp_path / f"{number}.parquet")
    open_source(tmp_path)
    told = [record.message.partition(", in ")[0] for record in caplog.records]
    assert told == [f"{tmp_path}: files looked at: {number} of 3 so far" for number in range(3)]
