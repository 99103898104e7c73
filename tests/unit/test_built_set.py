"""What a built set is believed, where its snapshots are kept, and what a manifest takes along into one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tasks.models.model_version import entry_digest
from tasks.snapshots import built_set, cache
from tasks.snapshots.built_set import RECORD, BuiltSet, Layout, Place, place_of, read_built_set
from tasks.snapshots.copied_manifest import copy_manifest
from tasks.snapshots.record import to_file
from tests.manifests import write_manifest
from worker_config.errors import ConfigError, ModelLoadError
from worker_config.manifest import ModelEntry, read_manifest, read_memory_limit
from worker_config.model_paths import MANIFEST, manifest_at


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelEntry:
    """Of a set in `tmp_path` with one model and something in the place of its snapshot, by TensorFlow 2.21.0."""
    monkeypatch.setattr(built_set, "tensorflow_version", lambda: "")
    (tmp_path / "net.keras").write_bytes(b"a model")
    [entry] = read_manifest(write_manifest(tmp_path, {"net": "net.keras"})).values()
    snapshot = tmp_path / "snapshots" / cache.cache_key(entry_digest(entry), entry, "2.21.0")
    (snapshot / "model").mkdir(parents=True)
    (snapshot / "model" / "saved_model.pb").write_bytes(b"a graph")
    write_record(tmp_path, entry)
    return entry


def write_record(folder: Path, entry: ModelEntry, layout: Layout | None = None, **more: tuple[int, str]) -> None:
    (folder / RECORD).unlink(missing_ok=True)
    files = {**cache.fingerprints(folder), **more}
    record = BuiltSet(layout or Layout("0.1.0"), "2.21.0", {"net": entry_digest(entry)}, files)
    (folder / RECORD).write_bytes(to_file(record))


def place(entry: ModelEntry) -> Place:
    return place_of("net", entry, entry_digest(entry))


# What is believed.


def test_a_folder_without_a_record_is_no_set(tmp_path: Path) -> None:
    assert read_built_set(tmp_path) is None
    assert read_built_set(tmp_path / "nothing") is None


@pytest.mark.parametrize("layout", [Layout("7.0", version=2), Layout("7.0", snapshots=cache.FORMAT_VERSION + 1)])
def test_a_set_of_another_form_is_refused_with_the_release_that_built_it(
    entry: ModelEntry, tmp_path: Path, layout: Layout
) -> None:
    write_record(tmp_path, entry, layout)
    with pytest.raises(ModelLoadError, match=r"built by Celeriac 7\.0, .*celeriac models --build, with the release"):
        read_built_set(tmp_path)
    write_record(tmp_path, entry, Layout("7.0"))  # another release of the same form
    assert read_built_set(tmp_path) is not None


def test_the_form_is_told_also_where_the_rest_cannot_be_read(tmp_path: Path) -> None:
    class Later(msgspec.Struct):
        layout: Layout

    (tmp_path / RECORD).write_bytes(to_file(Later(Layout("8.0", version=9))))
    with pytest.raises(ModelLoadError, match=r"built by Celeriac 8\.0"):
        read_built_set(tmp_path)
    (tmp_path / RECORD).write_bytes(to_file(Later(Layout("8.0"))))
    with pytest.raises(ModelLoadError, match=r"is not what was built: built\.json"):
        read_built_set(tmp_path)


@pytest.mark.parametrize("name", ["../steps.py", "/etc/passwd", "snapshots/0/../../../steps.py"])
def test_a_name_that_leads_out_of_the_folder_is_refused(entry: ModelEntry, tmp_path: Path, name: str) -> None:
    write_record(tmp_path, entry, **{name: (1, "")})
    with pytest.raises(ModelLoadError, match=r"built\.json names the file '.*'; copy it anew"):
        read_built_set(tmp_path)


# Where snapshots are kept.


def test_a_snapshot_of_a_set_has_a_name_by_its_files(entry: ModelEntry, tmp_path: Path) -> None:
    found = place(entry)
    assert found.built is not None
    assert found.built.parent == tmp_path / "snapshots"
    assert found.files is not None
    assert set(found.files) == {"model/saved_model.pb"}
    assert found.name != found.built.name
    (found.built / "model" / "saved_model.pb").write_bytes(b"another graph")
    write_record(tmp_path, entry)
    other = place(entry)
    assert (other.built, other.name == found.name) == (found.built, False)


def test_with_another_tensorflow_the_snapshot_is_made_here(entry: ModelEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(built_set, "tensorflow_version", lambda: "2.21.0")
    assert place(entry).built is not None
    monkeypatch.setattr(built_set, "tensorflow_version", lambda: "2.22.0")
    key = cache.cache_key(entry_digest(entry), entry, "2.22.0")
    assert place(entry) == Place(key, note="its set was built with TensorFlow 2.21.0, and 2.22.0 is here")


def test_a_model_that_is_not_what_was_built_is_told_by_its_file(entry: ModelEntry) -> None:
    Path(entry.path).write_bytes(b"b model")
    with pytest.raises(ModelLoadError, match=r"is not what was built: net\.keras is damaged"):
        place(entry)


def test_functions_that_are_installed_in_another_version_are_told(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, entry: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path_factory.mktemp("installed")
    (installed / "our_functions.py").write_text("def scale(x): return 2 * x\n")
    monkeypatch.syspath_prepend(str(installed))
    entry = msgspec.structs.replace(entry, preprocess="our_functions:scale")
    write_record(tmp_path, entry)
    place(entry)
    (installed / "our_functions.py").write_text("def scale(x): return 3 * x\n")
    with pytest.raises(ModelLoadError, match=r"what is installed of .*our_functions:scale is not what was there"):
        place(entry)


def test_what_is_copied_into_the_cache_is_whole_or_not_there(entry: ModelEntry, tmp_path: Path) -> None:
    found, root = place(entry), tmp_path / "cache"
    root.mkdir()
    assert found.built is not None
    (found.built / "model" / "saved_model.pb").write_bytes(b"b graph")
    with pytest.raises(ModelLoadError, match=r"snapshots/\w+/model/saved_model\.pb is damaged"):
        built_set.copy_to_cache(found, root)
    assert list(root.iterdir()) == []
    (found.built / "model" / "saved_model.pb").write_bytes(b"a graph")
    built_set.copy_to_cache(found, root)
    assert (root / found.name / "model" / "saved_model.pb").read_bytes() == b"a graph"


# What a manifest takes along.


def copied(folder: Path, models: dict[str, Any], **top: Any) -> tuple[dict[str, ModelEntry], Path, list[str]]:
    """The entries of a manifest, a folder that it was copied to, and what was not copied."""
    target = folder.with_name(f"{folder.name}-copy")
    target.mkdir()
    manifest = write_manifest(folder, models, **top)
    entries = read_manifest(manifest)
    return entries, target, copy_manifest(manifest, entries, target)


def test_models_and_functions_have_the_same_digests_in_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, started, far = (tmp_path / name for name in ("here", "started", "far"))
    for made in (folder / "tree" / "1", folder / "tree" / "2", folder / "package" / "inner", started, far):
        made.mkdir(parents=True)
    (folder / "tree" / "1" / "old.keras").write_bytes(b"1")
    (folder / "tree" / "2" / "new.keras").write_bytes(b"2")
    (far / "saved").mkdir()
    (far / "saved" / "saved_model.pb").write_bytes(b"s")
    for end in ("meta", "index", "data-00000-of-00001"):
        (folder / f"net.{end}").write_bytes(end.encode())
    (folder / "rows.npy").write_bytes(b"rows")
    (folder / "package" / "__init__.py").write_text("from package import helper\n")
    (folder / "package" / "helper.py").write_text("")
    (folder / "package" / "inner" / "__init__.py").write_text("")
    (folder / "package" / "inner" / "steps.py").write_text(
        "from package.inner.deep import x\ndef f(rows): return rows\n"
    )
    (folder / "package" / "inner" / "deep.py").write_text("x = 1\n")
    (folder / "package" / "unused.py").write_text("")
    (folder / "words").mkdir()
    (folder / "words" / "a.txt").write_text("a")
    (started / "beside.py").write_text("def g(rows): return rows\n")
    monkeypatch.chdir(started)
    lower = {"precision": ["int8"], "agreement": 0.9, "calibration": "rows.npy"}
    entries, target, installed = copied(
        folder,
        {
            "tree": {"path": "tree", "tolerance": 0.25, "batch_rows": 16},
            "saved": {"path": str(far / "saved"), "constants": {"a b": 1.5, "flag": False}, "inputs": ["x", "y"]},
            "net": {"path": "net.meta", "outputs": ["y:0"], **lower},
            "steps": {"preprocess": "package.inner.steps:f", "files": ["words"], "drops_rows": True},
            "begun": {"preprocess": "beside:g"},
            "known": {"path": "net.meta", "outputs": ["y:0"], "postprocess": "json:dumps"},
            "all": {"chain": ["steps", "tree"], "postprocess": "beside:g"},
        },
        memory_limit="2 GiB",
    )
    again = read_manifest(target / MANIFEST)
    assert {name: entry_digest(one) for name, one in again.items()} == {
        name: entry_digest(one) for name, one in entries.items()
    }
    assert read_memory_limit(target / MANIFEST) == 2 * 2**30
    assert installed == ["json:dumps"]
    assert {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()} == {
        "models.toml",
        "models/tree/new.keras",
        "models/saved/saved/saved_model.pb",
        *(f"models/{name}/net.{end}" for name in ("net", "known") for end in ("meta", "index", "data-00000-of-00001")),
        "models/net/calibration.npy",
        "package/__init__.py",
        "package/helper.py",
        "package/inner/__init__.py",
        "package/inner/steps.py",
        "package/inner/deep.py",
        "words/a.txt",
        "beside.py",
    }
    settings = ("tolerance", "batch_rows", "constants", "inputs", "precision", "agreement", "drops_rows", "chain")
    assert [[getattr(one, key) for key in settings] for one in again.values()] == [
        [getattr(entries[name], key) for key in settings] for name in again
    ]


def test_the_links_of_a_chain_come_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "net.keras").write_bytes(b"n")
    (folder / "steps.py").write_text("def f(rows): return rows\n")
    manifest = write_manifest(
        folder, {"net": "net.keras", "step": {"preprocess": "steps:f"}, "both": {"chain": ["step", "net"]}}
    )
    (tmp_path / "copy").mkdir()
    copy_manifest(manifest, read_manifest(manifest, ["both"]), tmp_path / "copy")
    assert set(read_manifest(tmp_path / "copy" / MANIFEST)) == {"step", "net", "both"}


def test_two_modules_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, started = tmp_path / "here", tmp_path / "started"
    for one in (folder, started):
        one.mkdir()
    (folder / "helper.py").write_text("x = 1\n")
    (folder / "steps.py").write_text("import helper\ndef f(rows): return rows\n")
    (started / "begun.py").write_text("import helper\ndef g(rows): return rows\n")
    (started / "helper.py").write_text("x = 2\n")
    monkeypatch.chdir(started)
    with pytest.raises(ConfigError, match=r"helper\.py is another module than that of its name"):
        copied(folder, {"a": {"preprocess": "steps:f"}, "b": {"preprocess": "begun:g"}})


def test_a_folder_stands_for_the_manifest_in_it(tmp_path: Path) -> None:
    assert manifest_at(tmp_path) == tmp_path
    (tmp_path / MANIFEST).touch()
    assert manifest_at(tmp_path) == tmp_path / MANIFEST
    assert manifest_at(tmp_path / MANIFEST) == tmp_path / MANIFEST
    (tmp_path / "saved_model.pb").touch()  # then it is a model
    assert manifest_at(tmp_path) == tmp_path
