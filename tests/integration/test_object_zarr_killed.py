"""A Zarr store behind a URL that grows by merged ones: killed at any request, a reader sees the first rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from producer.sinks.final_files import MergedFile
from producer.sinks.output_place import place_of
from producer.sinks.zarr_store import ZarrStore
from tasks.outputs.temp_paths import OutputTarget
from tasks.storage import objects
from tests.integration.test_object_outputs import fetched, names_beneath
from tests.integration.test_object_zarr import arrays_of, opened
from tests.object_stores import ObjectStore
from tests.output_sets import files_of
from tests.unit.test_zarr_store import OLD, OUTPUTS, ROWS, Killed, killed_at, made
from worker_config.object_urls import object_url

__all__ = ["made"]

ROOT = "s3://rows/killed"
# Those that change something.
REQUESTS = "put", "copy", "delete"


@pytest.fixture(autouse=True)
def store(object_store: ObjectStore) -> Iterator[ObjectStore]:
    with object_store.used_here():
        objects.put(object_url("s3://rows/there"), b"so that there is a bucket")
        yield object_store


class Place:
    """One output in the making, beneath a prefix of its own."""

    def __init__(self, url: str, made: tuple[Path, list[MergedFile]], old: Path | None) -> None:
        self.url, self.files, self.over_old = f"{url}/out.zarr", made[1], old is not None
        self.path: Any = object_url(self.url)
        _send(made[0] / "merged", f"{url}/.out.zarr.part/token")
        if old:
            _send(old, self.url)

    def open(self) -> ZarrStore:
        return ZarrStore(OutputTarget(self.path, ROWS, ""), place_of(self.path))

    def run(self) -> None:
        store = self.open()
        store.create()
        assert store.replaces == self.over_old
        if not store.replaces:
            for count in range(1, len(self.files)):
                store.put(self.files[:count], "token")
        store.publish(self.files, "token")

    def go_on(self) -> None:
        store, place = self.open(), place_of(self.path)
        store.replaces = self.over_old  # which the journal knows
        store.check_replaceable()
        store.reopen(self.files, "token", place.written("token"))
        store.publish(self.files, "token")

    def look(self, store: ObjectStore) -> set[int]:
        """What a reader sees is the beginning of the output, or the whole old one; the lengths of arrays."""
        try:
            found = arrays_of(opened(store, self.url))
        except FileNotFoundError:
            return set()
        if found.keys() == {"output"}:
            np.testing.assert_array_equal(found["output"], OLD)
            return set()
        assert found.keys() == {"/".join(key) for key in OUTPUTS}
        for key, rows in OUTPUTS.items():
            part = found["/".join(key)]
            np.testing.assert_array_equal(part, rows[: len(part)])
        return set(map(len, found.values()))


def _send(folder: Path, url: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            objects.put(object_url(f"{url}/{path.relative_to(folder)}"), path)


# SeaweedFS lists folders in which nothing is any more.
@pytest.mark.filterwarnings("ignore:Object at c is not recognized as a component")
@pytest.mark.parametrize("over_old", [False, True], ids=["new", "in-the-place-of-another"])
def test_whenever_it_is_killed_it_goes_on_and_nobody_sees_it(
    tmp_path: Path, store: ObjectStore, made: tuple[Path, list[MergedFile]], over_old: bool
) -> None:
    whole, seen, old = files_of(made[0] / "whole.zarr"), set[int](), None
    if over_old:
        zarr.create_array(str(old := tmp_path / "old"), data=OLD)
    for moment in range(10_000):
        place = Place(f"{ROOT}/{over_old}/{moment}", made, old)
        try:
            with killed_at(moment, objects, REQUESTS):
                place.run()
            break
        except Killed:
            seen |= place.look(store)
            place.go_on()
            assert files_of(fetched(place.url, tmp_path / str(moment))) == whole
    assert moment > 20, "every request was a moment"
    assert files_of(fetched(place.url, tmp_path / "last")) == whole
    assert names_beneath(f"{ROOT}/{over_old}/{moment}/.out.zarr.part") == []
    assert seen >= {16, 32}
