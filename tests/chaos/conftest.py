"""The arena that schedules share; one in which a test has failed is not used again.

With PASSED=FILE a long row of seeds is run in several goes: what has passed is noted there, and is not run again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.arena import Arena
from tests.chaos.guarded_arena import GuardedArena
from tests.chaos.wide_arena import WideArena

_arenas: list[Arena] = []
PASSED = Path(os.environ["PASSED"]).absolute() if os.environ.get("PASSED") else None


@pytest.fixture(scope="package")
def arenas(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Callable[[type[Arena]], Arena]]:
    """Gives the arena of a kind that is there, or a new one; there is one at a time."""

    def arena(kind: type[Arena]) -> Arena:
        while _arenas and type(_arenas[0]) is not kind:
            _arenas.pop().stop()
        if not _arenas:
            _arenas.append(kind(tmp_path_factory.mktemp("a"), models / "digits.keras"))
            _arenas[0].start()
        return _arenas[0]

    yield arena
    while _arenas:
        _arenas.pop().stop()


@pytest.fixture
def arena(arenas: Callable[[type[Arena]], Arena], request: pytest.FixtureRequest) -> Iterator[Arena]:
    """Two workers of two children each, in peace."""
    yield from _peaceful(arenas(Arena), request)


@pytest.fixture
def wide_arena(arenas: Callable[[type[Arena]], Arena], request: pytest.FixtureRequest) -> Iterator[Arena]:
    """The same for the wider schedules."""
    yield from _peaceful(arenas(WideArena), request)


@pytest.fixture
def guarded_arena(arenas: Callable[[type[Arena]], Arena], request: pytest.FixtureRequest) -> Iterator[Arena]:
    """The same for the guarded ones."""
    yield from _peaceful(arenas(GuardedArena), request)


def _peaceful(arena: Arena, request: pytest.FixtureRequest) -> Iterator[Arena]:
    arena.set_pace(0)
    yield arena
    if getattr(request.node, "failed", True):
        _arenas.remove(arena)
        arena.stop(check=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Tell the fixture how the test went, and the file of those that have passed."""
    report = yield
    if report.when == "call":
        item.failed = report.failed
        if PASSED and report.passed:
            with PASSED.open("a") as file:
                print(item.nodeid, file=file)
    return report


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what has passed in an earlier go."""
    passed = set(PASSED.read_text().splitlines()) if PASSED and PASSED.exists() else set()
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in passed])
    items[:] = [item for item in items if item.nodeid not in passed]
