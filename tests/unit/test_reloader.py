"""Reloads that something gets in the way of: none is lost without a word, and the next one is not held up."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tasks.preparation.context import PreparationContext
from tasks.preparation.model_set import Generation, ModelSet
from tasks.preparation.serving_spec import ServingSpec
from tasks.snapshots import cache
from tasks.snapshots.forked_call import Forked
from tasks.worker.reload import Reloader, ReloadRequest
from tests.waiting import wait_until
from worker_config.manifest import ModelEntry


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def reloader(tmp_path: Path, said: list[str]) -> Reloader:
    """Of a worker that serves nothing."""
    context = PreparationContext(tmp_path / "cache", 2**30, threads=1, children=1, gpus=0, say=said.append)
    return Reloader(ModelSet(tmp_path, Generation({}, [])), context, dict, said.append, ReloadRequest())


@pytest.fixture
def leaves(tmp_path: Path) -> Iterator[Callable[[], int]]:
    """A function that leaves a process behind, as a pool of processes in a module of the user's may."""
    told = tmp_path / "pid"

    def leave() -> int:
        pid = os.fork()
        if not pid:
            signal.pause()
        told.write_text(str(pid))
        return pid

    yield leave
    with suppress(ProcessLookupError):
        os.kill(int(told.read_text()), signal.SIGKILL)


def test_a_reload_for_which_no_process_can_be_had_is_told(
    reloader: Reloader, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> int:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    reloader.request.make()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", refused)
        assert not reloader.look()
    assert said == ["models are not reloaded: [Errno 12] Cannot allocate memory"]
    reloader.request.make()
    wait_until(lambda: reloader.look() or said[1:], "the next one is done")
    assert said[1:] == ["models reloaded: nothing has changed"]


def test_a_snapshot_that_was_pruned_meanwhile_is_made_again(
    reloader: Reloader, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, times = tmp_path / "snapshot", iter(range(2))
    served = {"m": ServingSpec("m", "1" * 64, ModelEntry("/nowhere/a.keras"), str(folder))}
    monkeypatch.setattr("tasks.worker.reload._prepare_all", lambda *_: served)
    use = cache.use

    def used(path: Path) -> int:
        if next(times):
            folder.mkdir()
        return use(path)

    monkeypatch.setattr(cache, "use", used)
    reloader.request.make()
    wait_until(reloader.look, "the other model is served")
    assert said == ["models reloaded: m none -> 11111111"]
    for descriptor in reloader.models.current.held:
        os.close(descriptor)


def test_what_a_forked_process_has_left_behind_holds_nobody_up(tmp_path: Path, leaves: Callable[[], int]) -> None:
    forked = Forked(leaves, int, tmp_path / "log")
    wait_until(forked.is_done, "it is done")
    os.kill(forked.result(), 0)  # which still holds its end of the pipe


def test_what_was_forked_under_a_lock_does_not_hold_it(tmp_path: Path, leaves: Callable[[], int]) -> None:
    with cache.locked(tmp_path, "key"):
        leaves()
    with cache.locked(tmp_path, "key", waits=lambda: pytest.fail("somebody holds the lock")) as waited:
        assert not waited
