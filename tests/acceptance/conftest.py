"""The command under test, in a folder of its own; what it has started ends with the test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance.commands import Celeriac
from tests.systems import System


@pytest.fixture
def celeriac(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Celeriac]:
    """The command; a module's own fixture of this name adds what its tests find in the folder."""
    celeriac = Celeriac(tmp_path_factory.mktemp("c"))  # short: a socket's path has at most 107 bytes
    yield celeriac
    celeriac.stop()


@pytest.fixture
def at(system: System) -> list[str]:
    """Options that send a command to the module's system."""
    return ["--broker", system.url]
