"""Objects of a real store: what there is, ranges, lists, whole objects; and what is told where one of them fails."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.storage import objects, stores
from tasks.storage.object_file import open_object
from tasks.storage.read_ahead import ReadAhead
from tests.fault_proxy import FaultProxy, proxy_before
from tests.object_stores import ObjectStore
from tests.waiting import wait_until
from worker_config import retry_policy
from worker_config.errors import (
    CeleriacError,
    ObjectChangedError,
    ObjectDeniedError,
    ObjectExistsError,
    ObjectMissingError,
    StoreUnavailableError,
    UsageError,
)
from worker_config.object_urls import ObjectUrl, object_url

DATA = os.urandom(3 * 2**20 + 17)


@pytest.fixture
def store(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    _use(object_store, monkeypatch)
    return object_store


@pytest.fixture
def folder(store: ObjectStore, request: pytest.FixtureRequest) -> ObjectUrl:
    """Where no other test has objects."""
    return object_url(f"s3://rows/{request.node.name}")


@pytest.fixture
def proxy(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with proxy_before(object_store.port) as proxy:
        _use(object_store, monkeypatch, endpoint=proxy.endpoint)
        yield proxy


def _use(server: ObjectStore, monkeypatch: pytest.MonkeyPatch, user: str = "all", endpoint: str = "") -> None:
    for name, value in server.environment(user, endpoint).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(stores, "_stores", {})


def _beneath(folder: ObjectUrl, name: str) -> ObjectUrl:
    return object_url(f"{folder}/{name}")


def _told(error: pytest.ExceptionInfo[CeleriacError], url: ObjectUrl) -> str:
    text = str(error.value)
    assert text.startswith(f"{url}: ")
    assert "\n" not in text
    assert "key-of" not in text
    assert "secret" not in text
    assert error.value.__cause__ is None
    return text


def test_ranges_are_those_of_the_object(folder: ObjectUrl) -> None:
    url = _beneath(folder, "data of mine, 100%.bin")
    written = objects.put(url, DATA)
    stamp = objects.stat(url)
    assert (stamp.size, stamp.etag) == (len(DATA), written.etag)
    for start, stop in ((0, len(DATA)), (5, 5), (5, 6), (len(DATA) - 1, len(DATA)), (2**20, 2**20 + 999)):
        assert objects.read_range(url, stamp, start, stop) == DATA[start:stop]
    with pytest.raises(ObjectChangedError, match="and no bytes"):
        objects.read_range(url, stamp, 0, len(DATA) + 1)


def test_ranges_of_many_pieces_are_joined(folder: ObjectUrl, monkeypatch: pytest.MonkeyPatch) -> None:
    url = _beneath(folder, "data")
    objects.put(url, DATA)
    monkeypatch.setattr(objects, "PIECE_BYTES", 2**20)
    assert objects.read_range(url, objects.stat(url), 7, len(DATA) - 1) == DATA[7:-1]


def test_a_large_object_goes_in_parts_and_comes_into_a_file(folder: ObjectUrl, tmp_path: Path) -> None:
    url, data = _beneath(folder, "large"), 6 * DATA
    (tmp_path / "there").write_bytes(data)
    objects.put(url, tmp_path / "there")
    objects.download(url, objects.stat(url), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data


def test_an_object_that_changed_is_never_taken_for_the_one_that_was_meant(folder: ObjectUrl) -> None:
    url = _beneath(folder, "data")
    objects.put(url, b"first")
    stamp = objects.stat(url)
    objects.put(url, b"other")  # as long, and within the same second
    with pytest.raises(ObjectChangedError) as error:
        objects.read_range(url, stamp, 0, 2)
    assert "has changed" in _told(error, url)
    with pytest.raises(ObjectChangedError), open_object(url, stamp) as file:
        file.read()


def test_conditions_on_what_is_there(folder: ObjectUrl) -> None:
    url = _beneath(folder, "data")
    first = objects.put(url, b"first", replace=False)
    with pytest.raises(ObjectExistsError) as exists:
        objects.put(url, b"second", replace=False)
    assert "is there already" in _told(exists, url)
    second = objects.put(url, b"second", expected=first)
    with pytest.raises(ObjectChangedError):
        objects.put(url, b"third", expected=first)
    assert objects.stat(url).etag == second.etag
    objects.delete([url])
    objects.delete([url])
    with pytest.raises(ObjectMissingError):
        objects.stat(url)


def _put_many(folder: ObjectUrl) -> list[str]:
    """More than a page of a list has."""
    names = [f"part-{number:05d}" for number in range(1_010)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: objects.put(_beneath(folder, name), name.encode()), names))
    return names


def test_lists_go_over_pages_and_keep_to_whole_segments(folder: ObjectUrl) -> None:
    names = _put_many(folder)
    objects.put(object_url(f"{folder}-2/x"), b"x")
    found = list(objects.list_objects(folder))
    assert [url.name for url, _ in found] == names
    for url, stamp in found[:3]:
        assert objects.read_range(url, stamp, 0, stamp.size) == url.name.encode()
    assert list(objects.list_objects(_beneath(folder, "nothing"))) == []


def test_what_is_missing_is_named(folder: ObjectUrl) -> None:
    for url, what in (
        (_beneath(folder, "x"), "no such object"),
        (object_url("s3://nobucket-here/x"), "no such|no bucket"),
    ):
        with pytest.raises(ObjectMissingError, match=what) as error:
            objects.stat(url)
        assert "check the URL" in _told(error, url)
    with pytest.raises(ObjectMissingError, match="names no object"):
        objects.stat(object_url(f"{folder}/"))


@pytest.mark.parametrize("user", ["stranger", "nobody"])
def test_no_right_says_which_and_where(
    object_store: ObjectStore, folder: ObjectUrl, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    url = _beneath(folder, "data")
    objects.put(url, b"1")
    stamp = objects.stat(url)
    _use(object_store, monkeypatch, user)
    for attempt, verb in (
        (lambda: objects.stat(url), "looked at"),
        (lambda: objects.read_range(url, stamp, 0, 1), "read"),
        (lambda: objects.put(url, b"2"), "written"),
    ):
        with pytest.raises(ObjectDeniedError) as error:
            attempt()
        text = _told(error, url)
        assert f"may not be {verb} with this machine's credentials (HTTP 403" in text
        assert "AWS_ACCESS_KEY_ID" in text
    with pytest.raises(ObjectDeniedError) as error:
        list(objects.list_objects(folder))
    assert "may not be listed" in _told(error, folder)


def test_who_may_only_read_cannot_write(
    object_store: ObjectStore, folder: ObjectUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = _beneath(folder, "data")
    objects.put(url, b"1")
    _use(object_store, monkeypatch, "reader")
    assert objects.read_range(url, objects.stat(url), 0, 1) == b"1"
    with pytest.raises(ObjectDeniedError, match="may not be written"):
        objects.put(url, b"2")


def test_a_store_that_throttles_is_waited_for_and_told_of(
    proxy: FaultProxy, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    url = object_url(f"s3://rows/{request.node.name}/data")
    objects.put(url, b"12345")
    stamp = objects.stat(url)
    proxy.refused["GET"] = (7, 503)
    assert objects.read_range(url, stamp, 1, 3) == b"23"
    assert proxy.refused["GET"] == (0, 503)
    assert [record.message.partition(";")[0] for record in caplog.records] == [
        f"{url}: the store is busy or in trouble (HTTP 503 SlowDown)"
    ]


def test_a_500_in_the_middle_of_an_upload_costs_no_byte(
    proxy: FaultProxy, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url, data = object_url(f"s3://rows/{request.node.name}/data"), 6 * DATA
    proxy.refused["partNumber=2"] = (5, 500)
    objects.put(url, data)
    assert proxy.refused["partNumber=2"] == (0, 500)
    assert objects.read_range(url, objects.stat(url), 0, len(data)) == data


def test_an_upload_that_never_goes_through_leaves_nothing(
    proxy: FaultProxy, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = object_url(f"s3://rows/{request.node.name}/data")
    proxy.refused["partNumber=2"] = (10**6, 500)
    monkeypatch.setattr("tasks.storage.requests.STORE_WAIT_SECONDS", 0.0)
    with pytest.raises(StoreUnavailableError) as error:
        objects.put(url, 6 * DATA)
    assert "cannot be written: the store is busy or in trouble (HTTP 500" in _told(error, url)
    assert [line for line, _ in proxy.seen if line.startswith("DELETE") and "uploadId" in line], "it was ended"
    with pytest.raises(ObjectMissingError):
        objects.stat(url)


def test_a_range_that_is_not_answered_is_soon_asked_for_again(
    proxy: FaultProxy, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = object_url(f"s3://rows/{request.node.name}/data")
    objects.put(url, DATA)
    monkeypatch.setattr("tasks.storage.stores.STORE_SILENT_SECONDS", 0.5)
    monkeypatch.setattr("tasks.storage.requests.STORE_WAIT_SECONDS", 20.0)  # less than obstore's own 30
    stamp = objects.stat(url)
    proxy.seen.clear()
    proxy.unanswered = 3  # as often as obstore asks by itself
    assert objects.read_range(url, stamp, 10, 1_000) == DATA[10:1_000]
    assert len(proxy.seen) == 4
    proxy.delay_seconds = 2.0  # slow, and not silent: the second request has time
    assert objects.read_range(url, stamp, 10, 1_000) == DATA[10:1_000]


def test_a_page_of_a_list_that_fails_loses_no_object(proxy: FaultProxy, request: pytest.FixtureRequest) -> None:
    folder = object_url(f"s3://rows/{request.node.name}")
    names = _put_many(folder)
    listed = objects.list_objects(folder)
    first = [next(listed) for _ in range(3)]
    proxy.refused["list-type"] = (5, 503)
    assert [url.name for url, _ in [*first, *listed]] == names
    assert proxy.refused["list-type"][0] == 0


def test_a_store_that_is_gone_is_an_error_after_the_wait(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    url = object_url("s3://rows/x")
    _use(object_store, monkeypatch, endpoint="http://127.0.0.1:9")
    monkeypatch.setattr("tasks.storage.requests.STORE_WAIT_SECONDS", 0.5)
    with pytest.raises(StoreUnavailableError) as error:
        objects.stat(url)
    assert "cannot be looked at: the store cannot be reached" in _told(error, url)
    assert "the store cannot be reached" in caplog.text
    assert retry_policy.STORE_WAIT_SECONDS > retry_policy.STORE_TELL_SECONDS


def test_a_machine_without_credentials_is_told_which_it_lacks(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = object_url("s3://rows/x")
    _use(object_store, monkeypatch)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")  # where a machine's role would be asked for
    with pytest.raises(ObjectDeniedError) as error:
        objects.stat(url)
    assert "this machine has no credentials; set AWS_ACCESS_KEY_ID" in _told(error, url)


def test_a_file_of_an_object_reads_as_any_file(folder: ObjectUrl, tmp_path: Path) -> None:
    url = _beneath(folder, "data")
    objects.put(url, DATA)
    with open_object(url, objects.stat(url)) as file:
        assert file.read(10) == DATA[:10]
        file.seek(-5, os.SEEK_END)
        assert file.read() == DATA[-5:]
        file.seek(2**20)
        pieces = []
        while piece := file.read(300_000):
            pieces.append(piece)
        assert b"".join(pieces) == DATA[2**20 :]
        for start, size in ((0, 400_000), (2_000_000, 400_000), (400_000, 400_000), (2_400_000, 400_000), (800_000, 9)):
            file.seek(start)
            assert file.read(size) == DATA[start : start + size]


def test_a_file_fetches_ahead_what_comes_next(proxy: FaultProxy, request: pytest.FixtureRequest) -> None:
    url = object_url(f"s3://rows/{request.node.name}/data")
    objects.put(url, DATA)
    with open_object(url, objects.stat(url)) as file:
        proxy.seen.clear()
        parts = [file.read(2**19) for _ in range(3)]
        assert b"".join(parts) == DATA[: 3 * 2**19]
        wait_until(lambda: 3 * 2**19 in _asked(proxy), "what nobody has read yet is asked for")
    assert len(set(_asked(proxy))) == len(_asked(proxy))  # and nothing twice


def test_web_servers_give_objects_and_no_lists(store: ObjectStore, folder: ObjectUrl) -> None:
    with pytest.raises(UsageError, match="web servers do not list"):
        list(objects.list_objects(object_url("http://127.0.0.1:1/x")))


def _stat_in_fork(url: ObjectUrl, answers: multiprocessing.Queue[str]) -> None:
    try:
        answers.put(str(objects.stat(url)))
    except CeleriacError as error:
        answers.put(str(error))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_of_a_process_that_has_opened_a_url_is_told_so_and_does_not_hang(folder: ObjectUrl) -> None:
    url = _beneath(folder, "data")
    objects.put(url, b"1")
    fork = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[str] = fork.Queue()
    process = fork.Process(target=_stat_in_fork, args=(url, answers))
    process.start()
    assert "was forked" in answers.get(timeout=60)
    process.join()


def test_a_slot_finds_its_next_chunk_fetched(proxy: FaultProxy, request: pytest.FixtureRequest) -> None:
    url, other = (object_url(f"s3://rows/{request.node.name}/{name}") for name in ("data", "other"))
    objects.put(url, DATA)
    objects.put(other, DATA[::-1])
    stamp, ahead, size = objects.stat(url), ReadAhead(), 100_000

    def read(chunk: int) -> None:
        start = chunk * size
        stop = min(start + size, len(DATA))
        assert ahead.read(url, stamp, start, stop) == DATA[start:stop]

    for chunk in (0, 2, 4, 6):
        read(chunk)
    wait_until(lambda: _asked(proxy)[-1:] == [8 * size], "the chunk after these is asked for")
    asked = len(_asked(proxy))
    read(8)  # is there, and the next one is asked for
    wait_until(lambda: _asked(proxy)[asked:] == [10 * size], "the next one is asked for, and no other")
    for chunk in (9, 11, 4, 30, 31):  # in no order, up to the last, which is shorter
        read(chunk)
    assert ahead.read(other, objects.stat(other), 9 * size, 10 * size) == DATA[::-1][9 * size : 10 * size]


def test_a_range_that_could_not_be_fetched_ahead_is_read_when_it_is_wanted(
    proxy: FaultProxy, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = object_url(f"s3://rows/{request.node.name}/data")
    objects.put(url, DATA)
    stamp, ahead = objects.stat(url), ReadAhead()
    monkeypatch.setattr("tasks.storage.requests.STORE_WAIT_SECONDS", 0.0)
    for start in (0, 1_000):
        ahead.read(url, stamp, start, start + 10)
    proxy.refused["GET"] = (3, 404)
    with pytest.raises(ObjectMissingError):
        ahead.read(url, stamp, 2_000, 2_010)
    proxy.refused["GET"] = (0, 404)
    assert ahead.read(url, stamp, 2_000, 2_010) == DATA[2_000:2_010]
    assert ahead.read(url, stamp, 3_000, 3_010) == DATA[3_000:3_010]


def _asked(proxy: FaultProxy) -> list[int]:
    return [int(asked.removeprefix("bytes=").partition("-")[0]) for _, asked in proxy.seen if asked]
