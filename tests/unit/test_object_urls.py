"""URLs of objects: taken apart in one way, matched to roots by whole segments, refused where they could lead astray."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from worker_config.errors import ConfigError, UsageError
from worker_config.files import is_under
from worker_config.object_urls import is_url, object_url
from worker_config.settings import Settings


@pytest.mark.parametrize(
    ("text", "bucket", "key", "again"),
    [
        ("s3://rows/2026/x.npy", "rows", "2026/x.npy", "s3://rows/2026/x.npy"),
        ("S3://rows/a b%2fc", "rows", "a b%2fc", "s3://rows/a b%2fc"),
        ("s3://rows/what?#1", "rows", "what?#1", "s3://rows/what?#1"),
        ("gs://rows", "rows", "", "gs://rows/"),
        ("az://rows/folder/", "rows", "folder", "az://rows/folder/"),
        (
            "https://Host.example:8443/a%20b/%25.npy",
            "host.example:8443",
            "a b/%.npy",
            "https://host.example:8443/a b/%25.npy",
        ),
    ],
)
def test_a_url_is_taken_apart_and_written_again(text: str, bucket: str, key: str, again: str) -> None:
    url = object_url(text)
    assert (url.bucket, url.key, str(url)) == (bucket, key, again)
    assert object_url(str(url)) == url


@pytest.mark.parametrize("text", ["s3://rows/a/x.tar.npy", "s3://rows/a/x.tar.npy/", "s3://rows/x.tar.npy"])
def test_names_beside_and_beneath_a_url(text: str) -> None:
    url = object_url(text)
    assert (url.name, url.suffix) == ("x.tar.npy", ".npy")
    folder = str(url).rstrip("/").removesuffix("x.tar.npy")
    assert str(url.with_name(".y")) == f"{folder}.y"
    assert str(url / "y" / "z") == f"{folder}x.tar.npy/y/z"
    assert str(object_url("s3://rows") / "y") == "s3://rows/y"


@pytest.mark.parametrize(
    "text",
    [
        "s3:///x", "s3://", "s3://a/../b", "s3://a/./b", "s3://a//b", "s3://a/b//", "s3://a/b\\c", "s3://a/b\nc", "s3://..",
        "s3://-a/b",
        "s3://user:secret@a/b", "s3://a?x=secret/b", "s3://a/" + 5_000 * "x",
        "https://host/a?X-Amz-Signature=secret", "https://host/a#secret", "https://user:secret@host/a",
        "https://host/%2e%2e/a", "https://host/a/%2E%2E", "https://host/a%2f..%2fb", "https://host/a%5cb",
        "https://host/a%0ab", "https://host/a%zz", "https://host/%ff", "https:///a", "https://ho st/a", "https://host:x/a",
        "ftp://a/b", "file:///a", "a/b",
    ],
)  # fmt: skip
def test_what_could_lead_elsewhere_is_refused_and_no_secret_told(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        object_url(text)
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not is_under(text, ["s3://a", "https://host", "/"]) or not is_url(text)


@pytest.mark.parametrize(
    ("url", "root", "is_inside"),
    [
        ("s3://rows/data/x", "s3://rows/data", True),
        ("s3://rows/data/x", "s3://rows/data/", True),
        ("s3://rows/data", "s3://rows/data", True),
        ("s3://rows/data/x", "s3://rows", True),
        ("s3://rows/database/x", "s3://rows/data", False),
        ("s3://rows-2/data/x", "s3://rows", False),
        ("s3://rows/Data/x", "s3://rows/data", False),
        ("s3://rows/data/../x", "s3://rows/data", False),
        ("gs://rows/data/x", "s3://rows/data", False),
        ("http://host/data/x", "https://host/data", False),
        ("https://host:444/data/x", "https://host/data", False),
        ("https://HOST/d%61ta/x", "https://host/data", True),
        ("https://host/data%2fx", "https://host/data", True),
        ("https://host/data%2f%2e%2e%2fx", "https://host/data", False),
        ("s3://rows/data/x", "/", False),
        ("s3://rows/data/x", "s3://", True),
        ("gs://rows/data/x", "s3://", False),
        ("s3://rows/../x", "s3://", False),
    ],
)
def test_roots_are_matched_by_whole_segments(url: str, root: str, is_inside: bool) -> None:
    assert is_under(url, [root]) is is_inside


def test_a_path_is_under_no_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "s3:" / "rows"
    folder.mkdir(parents=True)
    (folder / "x").touch()
    assert not is_under(str(folder / "x"), ["s3://rows"])
    assert not is_under("s3://rows/x", [str(tmp_path)])


def test_settings_take_folders_and_urls(tmp_path: Path) -> None:
    words = [str(tmp_path), "s3://rows/data/", "http://127.0.0.1:9000/x", "gs://", "az://", str(tmp_path)]
    roots = Settings.from_env({"CELERIAC_DATA_ROOTS": os.pathsep.join(words)}).data_roots
    assert [str(root) for root in roots] == words
    assert Settings.from_env({"CELERIAC_OUTPUT_ROOTS": os.pathsep.join(words)}).output_roots == roots
    assert is_under("http://127.0.0.1:9000/x/y", roots)
    with pytest.raises(ConfigError, match=r"CELERIAC_DATA_ROOTS=.*s3://rows/../x: has a segment"):
        Settings.from_env({"CELERIAC_DATA_ROOTS": "s3://rows/../x"})
