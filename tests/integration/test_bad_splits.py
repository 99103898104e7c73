"""Files and objects that go bad while workers read them: one line says which, and --resume goes on when it is mended.

The model itself does the harm, at a row of the second file, to a file that is read later.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.storage import objects
from tests.fault_proxy import FaultProxy, proxy_before
from tests.manifests import write_manifest
from tests.object_stores import ObjectStore
from tests.systems import System, serving
from worker_config.errors import ExitCode
from worker_config.object_urls import is_url, object_url

MODELS = '''
import os
from pathlib import Path
from tasks.storage import objects
from worker_config.object_urls import object_url

def doubled(rows):
    """Twice the values; at row 2,500 what `harm` says is done to the file that `victim` names."""
    harm = Path("harm")
    if (rows["x"] == 2500.0).any() and harm.exists():
        victim, kind = Path("victim").read_text(), harm.read_text()
        harm.unlink()
        if victim.startswith("s3://"):
            url = object_url(victim)
            objects.delete([url]) if kind == "removed" else objects.put(url, Path("other").read_bytes())
        elif kind == "removed":
            os.unlink(victim)
        else:
            os.replace("other", victim)
    return 2 * rows["x"]
'''
FILES, ROWS = 5, 2_000
WANTED = 2 * np.arange(FILES * ROWS, dtype=np.float64)
VICTIM = "part-3.parquet"


@dataclass
class Place:
    """Where the files are: a folder, or a prefix of URLs."""

    folder: str

    def of(self, name: str) -> str:
        return f"{self.folder}/{name}"

    def put(self, name: str, data: bytes) -> None:
        if is_url(self.folder):
            objects.put(object_url(self.of(name)), data)
        else:
            Path(self.of(name)).unlink(missing_ok=True)
            Path(self.of(name)).write_bytes(data)


@pytest.fixture(scope="module")
def proxy(object_store: ObjectStore) -> Iterator[FaultProxy]:
    with object_store.used_here(), proxy_before(object_store.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, object_store: ObjectStore, proxy: FaultProxy) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("s")
    (folder / "data").mkdir()
    (folder / "bad_models.py").write_text(MODELS)
    store = object_store.environment(endpoint=proxy.endpoint)
    environ = {**store, "CELERIAC_DATA_ROOTS": f"{folder / 'data'}:s3://rows/bad"}
    manifest = write_manifest(folder, {"doubled": "bad_models:doubled"})
    with serving(folder, manifest, children=1, environ=environ) as system:
        yield system


@pytest.fixture(params=["files", "objects"])
def place(system: System, request: pytest.FixtureRequest) -> Place:
    (system.folder / "out.npy").unlink(missing_ok=True)
    number = len(list((system.folder / "data").iterdir()))
    (system.folder / "data" / str(number)).mkdir()
    folder = system.folder / "data" / str(number) if request.param == "files" else f"s3://rows/bad/{number}"
    place = Place(str(folder))
    for file in range(FILES):
        place.put(f"part-{file}.parquet", part(file))
    return place


def part(number: int, *, first: float = 0.0, **options: object) -> bytes:
    """A file of four row groups; of one size, whatever its values."""
    values = np.arange(number * ROWS, (number + 1) * ROWS, dtype=np.float64) + first
    options = {"use_dictionary": False, "compression": "none", "write_statistics": False, **options}
    file = io.BytesIO()
    pq.write_table(pa.table({"x": values}), file, row_group_size=ROWS // 4, **options)
    return file.getvalue()


def predict(system: System, place: Place, *more: str, **environ: str) -> tuple[int, str]:
    words = ("predict", "doubled", f"{place.folder}/", "-o", "out.npy", "--chunk-rows", "100", "--store", "slices")
    ended = system.celeriac(*words, *more, **environ)
    assert "Traceback" not in ended.stderr
    return ended.returncode, ended.stderr


def ends_with_one_line(stderr: str, place: Place, *words: str) -> None:
    """That of the file, without what says how to go on."""
    lines = [line for line in stderr.splitlines() if place.of(VICTIM) in line]
    assert len(lines) == 1, stderr
    for word in words:
        assert word in lines[0]


HARMS = {
    "removed": ("no such", "check the"),
    "changed": ("has changed since it was", "leave"),
    "cut short": ("since it was", "leave"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_what_goes_bad_while_it_is_read_is_told_and_can_be_mended(system: System, place: Place, harm: str) -> None:
    whole = part(3)
    (system.folder / "victim").write_text(place.of(VICTIM))
    (system.folder / "other").write_bytes(whole[:-100] if harm == "cut short" else part(3, first=0.5))
    (system.folder / "harm").write_text(harm)
    code, stderr = predict(system, place, "--force")
    assert code == ExitCode.INPUT, stderr
    ends_with_one_line(stderr, place, *HARMS[harm])
    assert "rows are safe" in stderr
    place.put(VICTIM, whole)
    code, stderr = predict(system, place, "--resume", "--accept-changes")
    assert code == ExitCode.OK, stderr
    np.testing.assert_array_equal(np.load(system.folder / "out.npy"), WANTED)


@pytest.mark.parametrize("place", ["files"], indirect=True)
def test_rows_of_a_link_out_of_the_roots_are_sent(system: System, place: Place) -> None:
    inside, outside = Path(place.of(VICTIM)), system.folder / f"outside-{Path(place.folder).name}"
    inside.rename(outside)
    inside.symlink_to(outside)
    ended = system.celeriac("predict", "doubled", f"{place.folder}/", "-o", "out.npy", "--chunk-rows", "100")
    assert ended.returncode == ExitCode.OK, ended.stderr
    np.testing.assert_array_equal(np.load(system.folder / "out.npy"), WANTED)
    code, stderr = predict(system, place, "--force")
    assert code == ExitCode.USAGE
    assert "it is under no folder that all workers may read (CELERIAC_DATA_ROOTS)" in stderr


@pytest.mark.parametrize("damage", ["compressed", "with page checksums"])
def test_a_damaged_page_is_told_and_never_taken_for_rows(system: System, place: Place, damage: str) -> None:
    options = {"compression": "gzip"} if damage == "compressed" else {"write_page_checksum": True}
    whole = part(3, **options)
    at = len(whole) // 2
    place.put(VICTIM, whole[:at] + bytes([whole[at] ^ 0x20]) + whole[at + 1 :])
    code, stderr = predict(system, place, "--force")
    assert code == ExitCode.INPUT, stderr
    ends_with_one_line(stderr, place, "damaged or cut short", "copy or write it again")
    place.put(VICTIM, whole)
    code, stderr = predict(system, place, "--resume", "--accept-changes")
    assert code == ExitCode.OK, stderr
    np.testing.assert_array_equal(np.load(system.folder / "out.npy"), WANTED)


AT_ONCE = {
    "without its end": (lambda whole: whole[:-100], ("damaged or cut short", "copy or write it again")),
    "empty": (lambda whole: b"", ("damaged or cut short",)),
    "something else": (lambda whole: b"<html>" * 99, ("damaged or cut short",)),
    "of another schema": (lambda whole: _table(pa.table({"x": ["text"]})), ("column 'x' is string", "write all alike")),
    "without the column": (lambda whole: _table(pa.table({"y": [1.0]})), ("has no column 'x'",)),
}


def _table(table: pa.Table) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


@pytest.mark.parametrize("how", AT_ONCE)
def test_what_is_bad_from_the_beginning_is_told_before_any_work(system: System, place: Place, how: str) -> None:
    make, words = AT_ONCE[how]
    place.put(VICTIM, make(part(3)))  # type: ignore[no-untyped-call]
    code, stderr = predict(system, place, "--force")
    assert code == ExitCode.INPUT, stderr
    ends_with_one_line(stderr, place, *words)


def test_objects_without_rights_are_told_with_where_rights_come_from(system: System, object_store: ObjectStore) -> None:
    objects.put(object_url("s3://other/bad/x.parquet"), part(0))
    code, stderr = predict(system, Place("s3://other/bad"), "--force", **object_store.environment("reader"))
    assert code == ExitCode.INPUT
    assert "s3://other/bad" in stderr
    assert "with this machine's credentials (HTTP 403" in stderr
    assert "AWS_ACCESS_KEY_ID" in stderr


@pytest.mark.parametrize("place", ["objects"], indirect=True)
def test_a_worker_without_rights_ends_the_job_with_one_line(system: System, place: Place, proxy: FaultProxy) -> None:
    proxy.refused[VICTIM] = (10_000, 403)
    try:
        code, stderr = predict(system, place, "--force")
    finally:
        del proxy.refused[VICTIM]
    assert code == ExitCode.OK, stderr  # the producer has the right, and sends these rows
    np.testing.assert_array_equal(np.load(system.folder / "out.npy"), WANTED)


@pytest.mark.parametrize("place", ["objects"], indirect=True)
def test_a_store_that_throttles_costs_time_and_no_row(system: System, place: Place, proxy: FaultProxy) -> None:
    proxy.refused[VICTIM] = (8, 503)
    code, stderr = predict(system, place, "--force")
    assert code == ExitCode.OK, stderr
    assert proxy.refused[VICTIM] == (0, 503)
    np.testing.assert_array_equal(np.load(system.folder / "out.npy"), WANTED)
    assert f"{place.of(VICTIM)}: the store is busy or in trouble (HTTP 503 SlowDown)" in system.workers[0].output()
