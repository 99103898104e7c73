"""The arena that schedules share; one in which a test has failed is not used again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.arena import Arena

_arenas: list[Arena] = []


@pytest.fixture(scope="package")
def arenas(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Callable[[], Arena]]:
    """Gives the arena that is there, or a new one."""

    def arena() -> Arena:
        if not _arenas:
            _arenas.append(Arena(tmp_path_factory.mktemp("a"), models / "digits.keras"))
            _arenas[0].start()
        return _arenas[0]

    yield arena
    while _arenas:
        _arenas.pop().stop()


@pytest.fixture
def arena(arenas: Callable[[], Arena], request: pytest.FixtureRequest) -> Iterator[Arena]:
    """Two workers of two children each, in peace."""
    arena = arenas()
    arena.set_pace(0)
    yield arena
    if getattr(request.node, "failed", True):
        _arenas.remove(arena)
        arena.stop(check=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Tell the fixture how the test went."""
    report = yield
    if report.when == "call":
        item.failed = report.failed
    return report
