"""`celeriac predict` of a data set behind a URL, as users run it."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pyarrow.parquet as pq
import pytest

from tasks.storage import objects
from tests.acceptance.commands import Celeriac
from tests.object_stores import ObjectStore
from worker_config.errors import ExitCode
from worker_config.object_urls import object_url

ROWS = np.arange(4_000, dtype=np.float32).reshape(1_000, 4)
FUNCTIONS = "def double(rows):\n    return 2 * rows\n"


@pytest.fixture(autouse=True)
def _environment(object_store: ObjectStore) -> Iterator[None]:
    with object_store.used_here():
        yield


def _put(url: str, rows: np.ndarray) -> None:
    file = io.BytesIO()
    np.save(file, rows)
    objects.put(object_url(url), file.getvalue())


def _get(url: str) -> bytes:
    from tasks.storage import objects
    from worker_config.object_urls import object_url

    stamp = objects.stat(object_url(url))
    return bytes(objects.read_range(object_url(url), stamp, 0, stamp.size))


def test_predict_reads_and_writes_rows_behind_urls_and_says_what_is_wrong_with_one(celeriac: Celeriac) -> None:
    _put("s3://rows/command/rows.npy", ROWS)
    (celeriac.folder / "steps.py").write_text(FUNCTIONS)
    (celeriac.folder / "models.toml").write_text('[models.double]\npath = "steps:double"\n')
    ended = celeriac.run("predict", "double", "s3://rows/command/rows.npy", "-o", "out.npy", "--workers", "1", "--json")
    assert ended.code == ExitCode.OK, ended.stderr
    np.testing.assert_array_equal(np.load(celeriac.folder / "out.npy"), 2 * ROWS)
    assert ended.json["ledger"]["written"] == 1_000

    words = ("s3://rows/command/rows.npy", "-o", "s3://rows/command/out.parquet/", "--workers", "1", "--json")
    ended = celeriac.run("predict", "double", *words)
    assert ended.code == ExitCode.OK, ended.stderr
    assert ended.json["output"] == "s3://rows/command/out.parquet"
    table = pq.read_table(io.BytesIO(_get("s3://rows/command/out.parquet/part-00000.parquet")))
    np.testing.assert_array_equal(table["row"].to_numpy(), np.arange(1_000))
    np.testing.assert_array_equal(np.array(table.column(1).to_pylist(), np.float32), 2 * ROWS)

    for words, code, told in (
        (("s3://rows/command/none.npy", "-o", "x.npy"), ExitCode.INPUT, "s3://rows/command/none.npy: no such object"),
        (("https://host/x.npy?Signature=secret", "-o", "x.npy"), ExitCode.INPUT, "https://host/x.npy: has a ? or a #"),
        (("s3://rows/command/rows.npy", "-o", "s3://rows/x.zarr"), ExitCode.USAGE, "a Zarr store is many objects"),
    ):
        ended = celeriac.run("predict", "double", *words)
        assert ended.code == code, ended.stderr
        assert told in ended.stderr
        assert "Traceback" not in ended.stderr
        assert "secret" not in ended.stderr


def test_a_job_of_a_name_is_done_once_behind_a_url_too(celeriac: Celeriac) -> None:
    import pyarrow.parquet as pq

    rows = {"x": ROWS[:, 0], "number": np.arange(len(ROWS))}
    np.savez(celeriac.folder / "rows.npz", **rows)
    (celeriac.folder / "steps.py").write_text("def double(rows):\n    return 2 * rows['x']\n")
    (celeriac.folder / "models.toml").write_text('[models.double]\npath = "steps:double"\n')
    out = "s3://rows/command/named.parquet/"
    predict = ["predict", "double", "rows.npz", "-o", out, "--workers", "1"]
    words = [*predict, "--job", "nightly", "--keep", "number", "--json"]

    first, second = celeriac.run(*words), celeriac.run(*words)
    assert first.code == ExitCode.OK, first.stderr
    assert second.code == ExitCode.OK, second.stderr
    assert [first.json["done_before"], second.json["done_before"]] == [False, True]
    assert first.json["ledger"] == second.json["ledger"]

    data = objects.read_now(object_url(f"{out}part-00000.parquet"))
    assert data is not None
    table = pq.read_table(io.BytesIO(data))
    np.testing.assert_array_equal(table["number"].to_numpy(), rows["number"])
    np.testing.assert_array_equal(table["output"].to_numpy(), 2 * rows["x"])

    (celeriac.folder / "steps.py").write_text("def double(rows):\n    return 3 * rows['x']\n")
    third = celeriac.run(*words)
    assert third.code == ExitCode.USAGE, third.stderr
    assert "other work" in third.stderr
    mended = celeriac.run(*predict, "--resume", "--only-failed")
    assert mended.code == ExitCode.USAGE, mended.stderr
    assert "--only-failed is for files of this machine" in mended.stderr
