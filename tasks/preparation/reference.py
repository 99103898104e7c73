"""What a model itself gives for some rows, kept for its executors to be held against.

calibration file, or rows made up --model, as loaded plainly--> outputs that tell rows apart --> reference.bin
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import msgspec

from tasks.models.program import FlatCall
from tasks.preparation.benchmark import TellingRows, telling_rows
from tasks.preparation.edge_cases import EdgeCases
from tasks.protocol import codec
from tasks.snapshots.record import Snapshot

_FILE = "reference.bin"


def make_reference(folder: Path, snapshot: Snapshot, call: FlatCall, batch_rows: int) -> None:
    """Write the first rows that the model takes and whose outputs differ from row to row, or why there are none.

    Raises:
        ConfigError: the calibration file does not fit the model.
    """
    found = telling_rows(call, snapshot.inputs, snapshot.entry, batch_rows)
    tree = {**vars(found), "groups": [msgspec.structs.asdict(group) for group in found.groups]}
    (folder / _FILE).write_bytes(codec.encode(cast("codec.Tree", tree)))


def read_reference(folder: Path) -> TellingRows:
    """What `make_reference` wrote.

    Raises:
        PayloadError, OSError: it is damaged or missing.
    """
    tree = cast("dict[str, Any]", codec.decode((folder / _FILE).read_bytes()))
    return TellingRows(**{**tree, "groups": [EdgeCases(**group) for group in tree["groups"]]})
