"""Models behind URLs: copied once into the cache, whole or not at all; a change there is a version at a reload."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from producer import Client
from tasks.snapshots import cache
from tasks.snapshots.fetch_models import use_fetched
from tasks.storage import objects
from tests.fault_proxy import FaultProxy, proxy_before
from tests.model_versions import digest_of, reload, version
from tests.object_stores import ObjectStore
from tests.systems import System
from worker_config.errors import ModelLoadError
from worker_config.manifest import ModelEntry
from worker_config.object_urls import object_url

# In a process of its own, as a worker is one: this one has opened URLs, and may not be forked any more.
FETCH = """
import json, sys
from pathlib import Path
from tasks.snapshots.fetch_models import fetch_models
from tasks.storage import requests
from worker_config.errors import CeleriacError
from worker_config.manifest import read_manifest
requests.STORE_WAIT_SECONDS = float(sys.argv[3])
try:
    entries = fetch_models(read_manifest(Path(sys.argv[1])), Path(sys.argv[2]), lambda text: None)
    print(json.dumps({name: entry.path for name, entry in entries.items()}))
except CeleriacError as error:
    print(json.dumps({type(error).__name__: str(error)}))
"""


@pytest.fixture(autouse=True)
def _environment(object_store: ObjectStore) -> Iterator[None]:
    with object_store.used_here():
        yield


@pytest.fixture
def base(request: pytest.FixtureRequest) -> str:
    """A URL beneath which no other test has objects."""
    return f"s3://models/{request.node.name}"


@pytest.fixture
def proxy(object_store: ObjectStore) -> Iterator[FaultProxy]:
    with proxy_before(object_store.port) as proxy:
        yield proxy


def _put(url: str, data: bytes) -> None:
    objects.put(object_url(url), data)


def _fetch(
    folder: Path, url: str, more: str = "", environ: Mapping[str, str] | None = None, wait_seconds: float = 60
) -> dict[str, str]:
    manifest = folder / "models.toml"
    manifest.write_text(f'[models.times]\npath = "{url}"\n{more}\n')
    command = [sys.executable, "-c", FETCH, str(manifest), str(folder / "cache"), str(wait_seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **(environ or {})})
    found: dict[str, str] = json.loads(done.stdout)
    return found


def _files(path: str) -> dict[str, bytes]:
    root = Path(path)
    return {file.relative_to(root).as_posix(): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def _kept(folder: Path) -> list[str]:
    """Copies in the cache, and what is left of others."""
    return sorted(path.name for path in (folder / "cache").iterdir() if path.suffix != ".lock")


def test_a_file_is_copied_once_and_again_where_it_has_changed(
    base: str, tmp_path: Path, object_store: ObjectStore, proxy: FaultProxy
) -> None:
    url, environ = f"{base}/a model.keras", object_store.environment(endpoint=proxy.endpoint)
    _put(url, b"first")
    [first] = _fetch(tmp_path, url, environ=environ).values()
    assert Path(first).name == "a model.keras"
    proxy.seen.clear()
    assert _fetch(tmp_path, url, environ=environ) == {"times": first}
    assert [line.split()[0] for line, _ in proxy.seen] == ["HEAD"]
    _put(url, b"other")  # as long, and within the same second
    [other] = _fetch(tmp_path, url, environ=environ).values()
    assert (Path(first).read_bytes(), Path(other).read_bytes()) == (b"first", b"other")
    assert len(_kept(tmp_path)) == 2


def test_of_a_tree_only_the_version_that_is_served_is_copied(base: str, tmp_path: Path) -> None:
    for number in ("1", "2", "10"):
        _put(f"{base}/tree/{number}/saved_model.pb", number.encode())
        _put(f"{base}/tree/{number}/variables/variables.index", b"index")
    _put(f"{base}/tree-2/11/saved_model.pb", b"of another tree")
    [path] = _fetch(tmp_path, f"{base}/tree/").values()
    assert _files(path) == {"10/saved_model.pb": b"10", "10/variables/variables.index": b"index"}
    [path] = _fetch(tmp_path, f"{base}/tree", "version = 2").values()
    assert list(_files(path)) == ["2/saved_model.pb", "2/variables/variables.index"]
    [path] = _fetch(tmp_path, f"{base}/tree/1/").values()
    assert list(_files(path)) == ["saved_model.pb", "variables/variables.index"]
    assert "no version 3; there are: 1, 2, 10" in _fetch(tmp_path, f"{base}/tree", "version = 3")["ModelLoadError"]


def test_copies_count_as_what_the_cache_has_and_those_in_use_stay(base: str, tmp_path: Path) -> None:
    paths = {}
    for name in ("first", "used", "last"):
        _put(f"{base}/{name}.keras", os.urandom(1_000))
        [paths[name]] = _fetch(tmp_path, f"{base}/{name}.keras").values()
    folder = tmp_path / "cache"
    entries = {"used": ModelEntry(paths["used"])}
    [held] = use_fetched(entries, folder)
    try:
        _fetch(tmp_path, f"{base}/first.keras")  # used last, now
        removed = [key for key, _ in cache.prune(folder, 2_500)]
        assert removed == [Path(paths["last"]).relative_to(folder).parts[0]]
        cache.prune(folder, 0)
        assert [name for name, path in paths.items() if Path(path).exists()] == ["used"]
    finally:
        os.close(held)
    cache.prune(folder, 0)
    with pytest.raises(ModelLoadError, match="removed to make room; raise CELERIAC_CACHE_MIB"):
        use_fetched(entries, folder)


def test_a_copy_that_was_damaged_is_made_again(base: str, tmp_path: Path) -> None:
    _put(f"{base}/x.keras", b"first")
    [path] = _fetch(tmp_path, f"{base}/x.keras").values()
    Path(path).write_bytes(b"fi")
    assert _fetch(tmp_path, f"{base}/x.keras") == {"times": path}
    assert Path(path).read_bytes() == b"first"


def test_a_copy_that_ends_midway_leaves_nothing(
    base: str, tmp_path: Path, object_store: ObjectStore, proxy: FaultProxy
) -> None:
    for name in ("saved_model.pb", "variables/variables.data"):
        _put(f"{base}/model/{name}", b"1")
    environ = object_store.environment(endpoint=proxy.endpoint)
    proxy.refused["variables.data"] = (10**6, 500)
    [(kind, text)] = _fetch(tmp_path, f"{base}/model/", environ=environ, wait_seconds=0).items()
    assert kind == "ModelLoadError"
    assert text.startswith(f"model times cannot be fetched: {base}/model/variables/variables.data: cannot be read: ")
    assert _kept(tmp_path) == []
    proxy.refused.clear()
    [path] = _fetch(tmp_path, f"{base}/model/", environ=environ).values()
    assert sorted(_files(path)) == ["saved_model.pb", "variables/variables.data"]


def test_workers_that_start_together_copy_once(
    base: str, tmp_path: Path, object_store: ObjectStore, proxy: FaultProxy
) -> None:
    _put(f"{base}/x.keras", os.urandom(2**20))
    environ = object_store.environment(endpoint=proxy.endpoint)
    proxy.delay_seconds = 0.2
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: _fetch(tmp_path, f"{base}/x.keras", environ=environ), range(3)))
    assert found == [found[0]] * 3
    assert len([line for line, _ in proxy.seen if line.startswith("GET")]) == 1
    assert len(_kept(tmp_path)) == 1


@pytest.mark.parametrize(
    ("path", "kind", "what"),
    [
        ("{base}/none.keras", "ModelLoadError", "no such object"),
        ("{base}/none/", "ModelLoadError", "no objects there"),
        ("{base}/x.meta", "ModelLoadError", "a checkpoint is several files"),
        ("s3://models/../x.keras", "ConfigError", "models.times.path: s3://models/../x.keras: has a segment"),
        ("https://user:secret@host/x.keras", "ConfigError", "has a user or a password in it"),
    ],
)
def test_what_is_not_there_is_said(tmp_path: Path, path: str, kind: str, what: str) -> None:
    [(found, text)] = _fetch(tmp_path, path.format(base="s3://models/nothing")).items()
    assert found == kind
    assert what in text
    assert "secret" not in text


def test_a_worker_serves_a_model_behind_a_url_and_its_next_version_after_a_reload(
    system: System, base: str, object_store: ObjectStore
) -> None:
    url, manifest = f"{base}/times.keras", system.folder / "models.toml"
    manifest.write_text(f'[models.times]\npath = "{url}"\nprefer = "memory"\nbatch_rows = 16\n')
    _put(url, version(1))
    worker = system.start_ready_worker(manifest, 2, environ=object_store.environment())
    rows = np.random.default_rng(1).random((100, 4), np.float32)
    sums, first = rows.sum(axis=1, keepdims=True), digest_of(system)
    with Client(system.url) as client:
        np.testing.assert_allclose(client.predict("times", rows), sums, rtol=1e-5)
        _put(url, version(2))
        np.testing.assert_allclose(client.predict("times", rows), sums, rtol=1e-5)  # nobody has asked for it yet
        assert digest_of(system) == first
        reload(system, worker, by_signal=True)
        np.testing.assert_allclose(client.predict("times", rows), 2 * sums, rtol=1e-5)
