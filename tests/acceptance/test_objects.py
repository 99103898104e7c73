"""`celeriac predict` of a data set behind a URL, as users run it."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest

from tests.acceptance.commands import Celeriac
from tests.object_stores import ObjectStore
from worker_config.errors import ExitCode

ROWS = np.arange(4_000, dtype=np.float32).reshape(1_000, 4)
FUNCTIONS = "def double(rows):\n    return 2 * rows\n"


@pytest.fixture(autouse=True)
def _environment(object_store: ObjectStore) -> Iterator[None]:
    with object_store.used_here():
        yield


def _put(url: str, rows: np.ndarray) -> None:
    from tasks.storage import objects
    from worker_config.object_urls import object_url

    file = io.BytesIO()
    np.save(file, rows)
    objects.put(object_url(url), file.getvalue())


def test_predict_reads_rows_behind_a_url_and_says_what_is_wrong_with_one(celeriac: Celeriac) -> None:
    _put("s3://rows/command/rows.npy", ROWS)
    (celeriac.folder / "steps.py").write_text(FUNCTIONS)
    (celeriac.folder / "models.toml").write_text('[models.double]\npath = "steps:double"\n')
    ended = celeriac.run("predict", "double", "s3://rows/command/rows.npy", "-o", "out.npy", "--workers", "1", "--json")
    assert ended.code == ExitCode.OK, ended.stderr
    np.testing.assert_array_equal(np.load(celeriac.folder / "out.npy"), 2 * ROWS)
    assert ended.json["ledger"]["written"] == 1_000

    for words, code, told in (
        (("s3://rows/command/none.npy", "-o", "x.npy"), ExitCode.INPUT, "s3://rows/command/none.npy: no such object"),
        (("https://host/x.npy?Signature=secret", "-o", "x.npy"), ExitCode.INPUT, "https://host/x.npy: has a ? or a #"),
        (("s3://rows/command/rows.npy", "-o", "s3://rows/x.npy"), ExitCode.USAGE, "one object is not written"),
    ):
        ended = celeriac.run("predict", "double", *words)
        assert ended.code == code, ended.stderr
        assert told in ended.stderr
        assert "Traceback" not in ended.stderr
        assert "secret" not in ended.stderr
