"""Each kind of model file gives what its own library gives, or is refused in one line that says what to do."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tasks.child.load_model import load_model
from tasks.models.model_version import entry_digest
from tasks.models.program import batch_rows_of
from tasks.preparation.make_snapshot import make_snapshot
from tasks.preparation.serving_spec import ServingSpec
from tests.formats import Case
from tests.kinds import KINDS, ROOT, can_be_made, table, written
from tests.loaded import check_equal, refused
from worker_config.manifest import ModelEntry

NAMES = [f"{kind.name} {kind.form}".replace("`", "") for kind in KINDS]


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Case]:
    """What other libraries write."""
    numbers = [number for number, kind in enumerate(KINDS) if kind.needs and can_be_made(kind)]
    return written(numbers, tmp_path_factory.mktemp("kinds"))


@pytest.mark.filterwarnings("ignore")  # libraries warn of each other
@pytest.mark.parametrize("number", range(len(KINDS)), ids=NAMES)
def test_a_kind_of_model(number: int, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    kind = KINDS[number]
    if not can_be_made(kind):
        pytest.skip(f"{kind.needs} is not installed; it is in the extra kinds")
    (tmp_path / "snapshot").mkdir()
    case: Case = request.getfixturevalue("foreign")[number] if kind.needs else kind.make(tmp_path)
    if kind.refused:
        refused(case.entry, kind.refused)
        return
    entry = msgspec.structs.replace(case.entry, batch_rows=5)
    check_equal(load_model(from_snapshot(entry, tmp_path / "snapshot")).predict(case.rows), case.expected)


def from_snapshot(entry: ModelEntry, folder: Path) -> ServingSpec:
    """As a worker has it, run by its own graph."""
    digest = entry_digest(entry)
    snapshot = make_snapshot(entry, digest, folder)
    rows = batch_rows_of(snapshot.inputs, entry)
    executor = "graph" if snapshot.kind == "mapped" else "plain"
    return ServingSpec("m", digest, entry, str(folder), snapshot, executor, batch_rows=rows, files=snapshot.files)


def test_the_table_of_kinds_is_in_the_documentation() -> None:
    assert len(KINDS) >= 40
    text = (ROOT / "docs" / "models.md").read_text()
    assert table() in text, "put what `tests.kinds.table()` gives into docs/models.md"
