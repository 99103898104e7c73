"""Functions in processes of their own, side by side, as cores and memory allow."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from tasks.snapshots.forked_call import Work, run_side_by_side
from tests.waiting import wait_until


def meet(folder: Path, name: str, other: str) -> None:
    """Ends only when the other one has begun."""
    (folder / name).touch()
    wait_until((folder / other).exists, "the other one runs as well")


def be_alone(folder: Path, name: str) -> None:
    """Fails where another one is in the same folder."""
    (folder / "inside").mkdir()
    (folder / name).write_text(str(time.monotonic()))
    (folder / "inside").rmdir()


def fail(folder: Path, name: str) -> None:
    (folder / name).touch()
    raise ValueError(name)


def test_two_run_side_by_side(tmp_path: Path) -> None:
    told: list[Sequence[str]] = []
    works = [Work("a", partial(meet, tmp_path, "a", "b"), 1), Work("b", partial(meet, tmp_path, "b", "a"), 2)]

    assert run_side_by_side(works, 2, 3, told.append) == set()

    assert told[0] == ["b", "a"]  # the largest first
    assert all(told)


@pytest.mark.parametrize(("at_once", "room"), [(1, 100), (9, 3), (9, 0)])
def test_they_take_turns_where_there_are_no_cores_or_no_memory(tmp_path: Path, at_once: int, room: int) -> None:
    sizes = {"small": 1, "large": 3, "middle": 2}
    works = [Work(name, partial(be_alone, tmp_path, name), 1 + size) for name, size in sizes.items()]

    assert run_side_by_side(works, at_once, room, lambda names: None) == set()

    order = sorted(sizes, key=lambda name: float((tmp_path / name).read_text()))
    assert order == ["large", "middle", "small"]


def test_after_a_failure_no_other_is_begun(tmp_path: Path) -> None:
    functions: dict[str, Callable[[Path, str], None]] = {"first": fail, "second": fail}
    works = [Work(name, partial(function, tmp_path, name), 1) for name, function in functions.items()]

    assert run_side_by_side(works, 1, 100, lambda names: None) == {"first"}

    assert [path.name for path in tmp_path.iterdir()] == ["first"]


def test_what_they_say_is_seen(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    works = [Work("one", lambda: print("to stdout"), 1), Work("two", partial(_say, "to stderr"), 1)]

    assert run_side_by_side(works, 2, 100, lambda names: None) == set()

    out, err = capfd.readouterr()
    assert err == "to stderr\n"
    assert out == ""


def _say(text: str) -> None:
    os.write(2, f"{text}\n".encode())
