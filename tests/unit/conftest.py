"""What tests of sinks write to."""

from __future__ import annotations

from pathlib import Path

import pytest

from producer.sinks import FORMATS


@pytest.fixture(params=FORMATS)
def suffix(request: pytest.FixtureRequest) -> str:
    """Each format by the end of its name."""
    return str(request.param)


@pytest.fixture
def path(tmp_path: Path, suffix: str) -> Path:
    """An output in each format."""
    return tmp_path / f"out{suffix}"
