"""Writes the kinds that other libraries write, in a process of its own: a worker does not have these imported.

FOLDER --> FOLDER/NUMBER/... the model's files, FOLDER/NUMBER.pickle its `Case`
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from tests.kinds import KINDS, can_be_made

if __name__ == "__main__":
    for number, kind in enumerate(KINDS):
        if kind.needs and can_be_made(kind):
            folder = Path(sys.argv[1]) / str(number)
            folder.mkdir()
            folder.with_suffix(".pickle").write_bytes(pickle.dumps(kind.make(folder)))
