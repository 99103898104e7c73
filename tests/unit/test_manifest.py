"""The manifest: what it may say, and what is said to whoever got it wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker_config.errors import ConfigError, UnknownModelError
from worker_config.manifest import (
    DEFAULT_BATCH_ROWS,
    ModelEntry,
    model_names,
    read_manifest,
    read_memory_limit,
    select,
)


def write(folder: Path, text: str) -> Path:
    path = folder / "models.toml"
    path.write_text(text)
    return path


def test_paths_are_relative_to_the_manifest(tmp_path: Path) -> None:
    manifest = write(tmp_path, '[models.a]\npath = "sub/a.keras"\n[models.b]\npath = "/srv/b"\nbatch_rows = 7\n')
    models = read_manifest(manifest)
    assert models["a"].path == str(tmp_path / "sub/a.keras")
    assert models["a"].batch_rows == DEFAULT_BATCH_ROWS
    assert (models["b"].path, models["b"].batch_rows) == ("/srv/b", 7)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models = ", "is not TOML"),
        ("", "missing required field `models`"),
        ("[models]", "names no model"),
        ("[models.a]", "path"),
        ('[models.a]\npath = "a"\nbatchrows = 3', "batchrows"),
        ("[models.a]\npath = 3", "path"),
        ('[models.a]\npath = "a"\nbatch_rows = "many"', "batch_rows"),
        ('[models.a]\npath = "a"\nbatch_rows = 0', "batch_rows is 0"),
        ('[models.a]\npath = "a"\nbatch_mib = 0', "batch_mib is 0; it goes from 1 to 1048576"),
        ('[models.a]\npath = "a"\nbatch_mib = 2000000', "batch_mib is 2000000; it goes from 1 to 1048576"),
        (
            '[models.a]\npath = "a"\nbatch_rows = 1000000000000',
            "models.a.batch_rows is 1000000000000: with one byte in each row a batch has 953,674 MiB, and batch_mib",
        ),
        ('[models."a b"]\npath = "a"', "a name has letters"),
        ('[models.a]\npath = "a"\n[modules]', "modules"),
        ('[models.a]\npath = "../a"', "leads out of the manifest's folder"),
        ('[models.a]\npath = "a"\npreprocess = "m.f"', "preprocess is 'm.f'; name a function as"),
        ('[models.a]\npath = "a"\ninputs = "x:0"', "inputs"),
        ('[models.a]\npath = "a"\nconstants = {"x:0" = [1]}', "constants"),
        ('[models.a]\npath = "a"\nconstants = {"x:0" = nan}', "constants"),
        ('[models.a]\npath = "a"\nconstants = {"x:0" = 9223372036854775808}', "constants"),
        ('[models.a]\nchain = ["b"]\nconstants = {"x:0" = 1}\n[models.b]\npath = "b"', "constants is for a model"),
        ('[models.a]\npath = "a"\ncolumns = {x = ["p3..p1"]}', "models.a.columns: the range 'p3..p1' is none"),
        ('[models.a]\npath = "a"\ncolumns = {x = []}', "models.a.columns: the list of columns is empty"),
        ('[models.a]\npath = "a"\ncolumns = ["x"]', "columns"),
        (
            '[models.a]\nchain = ["b"]\ncolumns = {x = ["y"]}\n[models.b]\npath = "b"',
            "columns is for 'b'; write",
        ),
        ('[models.a]\npath = "a"\nprefer = "disk"', "prefer"),
        ('[models.a]\npath = "a"\nversion = -1', "version is -1"),
        ('memory_limit = "lots"\n[models.a]\npath = "a"', "memory_limit is 'lots'; write it as '800 MiB' or '4 GiB'"),
        ('memory_limit = 3\n[models.a]\npath = "a"', "memory_limit"),
        ('[models.a]\npath = "a"\npreload = 1', "preload"),
        ('[models.a]\npath = "a"\ncalibration = "../r.npy"', "calibration is '../r.npy', which leads out"),
        ('[models.a]\npath = "a"\nprecision = ["int8"]', "precision needs calibration"),
        ('[models.a]\npath = "a"\nprecision = ["int8"]\ncalibration = "r.npy"', "precision needs a tolerance"),
        ('[models.a]\npath = "a"\ntolerance = -1.0', "tolerance is -1; it is at least 0"),
        ('[models.a]\npostprocess = "m:f"', "models.a has neither a path nor a chain nor preprocess = "),
        ('[models.a]\npreprocess = "m:f"\nbatch_rows = 8', "models.a.batch_rows is for a model"),
        ('[models.a]\npath = "a"\ndrops_rows = true', "models.a.drops_rows is for a preprocess function"),
        ('[models.a]\npath = "a"\nchain = ["b"]\n[models.b]\npath = "b"', "models.a has a path and a chain"),
        (
            '[models.a]\nchain = ["c"]\n[models.b]\npath = "b"',
            "models.a.chain names 'c', which is no entry; there are: a, b",
        ),
        ('[models.a]\nchain = ["a"]', "models.a.chain names 'a', which is a chain itself"),
        ('[models.a]\nchain = ["b", "b"]\n[models.b]\npath = "b"', "models.a.chain names an entry twice"),
        ('[models.a]\npath = "a"\nmembers = {}', "members"),
        ('[models.a]\npath = "a"\nfolder = "/"', "folder"),
        ('[models.a]\npath = "a"\nimports = "m"', "imports"),
        (
            '[models.a]\npath = "a"\nimports = ["./m"]',
            "models.a.imports names './m'; name a module as",
        ),
        ('[models.a]\npreprocess = "m:f"\nimports = ["m"]', "models.a.imports is for a model"),
        ('[models.a]\npath = "a"\nfiles = ["v.json"]', "models.a.files is for functions, which read them"),
        ('[models.a]\npreprocess = "m:f"\nfiles = ["../v.json"]', "models.a.files is '../v.json', which leads out"),
    ],
)
def test_a_mistake_is_one_line_that_names_file_and_key(tmp_path: Path, text: str, words: str) -> None:
    manifest = write(tmp_path, text)
    with pytest.raises(ConfigError) as refused:
        read_manifest(manifest)
    assert str(manifest) in str(refused.value)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("text", "limit"), [("800 MiB", 800 * 2**20), ("4GiB", 4 * 2**30)])
def test_the_memory_limit_is_in_bytes(tmp_path: Path, text: str, limit: int) -> None:
    manifest = write(tmp_path, f'memory_limit = "{text}"\n[models.a]\npath = "a"\n')
    assert read_memory_limit(manifest) == limit
    assert read_memory_limit(write(tmp_path, '[models.a]\npath = "a"\n')) == 0


def test_a_manifest_that_is_not_there_says_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--models, CELERIAC_MODELS or, in Python, local\(models="):
        read_manifest(tmp_path / "none.toml")


def test_a_chain_has_its_members_and_the_functions_around_them(tmp_path: Path) -> None:
    text = """
        [models.a]
        chain = ["b", "c"]
        preprocess = "m:f"
        postprocess = "m:g"
        drops_rows = true
        [models.b]
        path = "b"
        batch_rows = 12
        [models.c]
        preprocess = "m:h"
    """
    entries = read_manifest(write(tmp_path, text))
    members = entries["a"].members
    assert list(members) == ["a.preprocess", "b", "c", "a.postprocess"]
    assert [member.preprocess for member in members.values()] == ["m:f", "", "m:h", "m:g"]
    assert [member.drops_rows for member in members.values()] == [True, False, False, False]
    assert members["b"] == entries["b"]
    assert (entries["a"].batch_rows, entries["c"].batch_rows) == (12, 1)


def test_what_is_wrong_with_a_model_stops_no_other(tmp_path: Path) -> None:
    text = '[models.a]\npath = 3\n[models.b]\npath = "b"\n[models.c]\nchain = ["b"]\n[models.d]\nchain = ["a"]\n'
    manifest = write(tmp_path, text)
    assert model_names(manifest) == ["a", "b", "c", "d"]
    assert list(read_manifest(manifest, ["c", "b"])) == ["b", "c"]
    assert list(read_manifest(manifest, ["c"])["c"].members) == ["b"]
    for names in ([], ["a"], ["b", "d"]):
        with pytest.raises(ConfigError, match=r"models\.a: "):
            read_manifest(manifest, names)
    with pytest.raises(UnknownModelError, match="no model 'e' in the manifest to hold; there are: a, b, c, d"):
        read_manifest(manifest, ["e"])


def test_a_model_s_own_path_is_a_manifest_of_it(tmp_path: Path) -> None:
    (tmp_path / "tree" / "3").mkdir(parents=True)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").touch()
    for path, name in [("tree", "tree"), ("saved", "saved"), ("my model-1.keras", "my_model-1"), ("_é.pb", "model")]:
        entries = read_manifest(tmp_path / path)
        assert {name: entry.path for name, entry in entries.items()} == {name: str(tmp_path / path)}
    with pytest.raises(ConfigError, match="cannot be read"):
        read_manifest(tmp_path)


def test_a_worker_may_hold_some_of_the_models_alone() -> None:
    entries = {name: ModelEntry(path=name) for name in "cab"}
    assert select(entries, ()) == entries
    assert list(select(entries, ("b", "c", "b"))) == ["c", "b"]
    with pytest.raises(UnknownModelError, match="no model 'd' in the manifest to hold; there are: a, b, c"):
        select(entries, ("a", "d"))
