"""Writes kinds of models.

FOLDER NUMBER... --> FOLDER/NUMBER/... the model's files, FOLDER/NUMBER.pickle its `Case`
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from tests.kinds import KINDS

if __name__ == "__main__":
    for number in map(int, sys.argv[2:]):
        folder = Path(sys.argv[1]) / str(number)
        folder.mkdir()
        folder.with_suffix(".pickle").write_bytes(pickle.dumps(KINDS[number].make(folder)))
