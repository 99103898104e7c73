"""This module is a program of its own: it loads a manifest's models and prints what they are, one JSON list.

`python -m tasks.describe MANIFEST`; the producer, which never imports TensorFlow, runs it for `celeriac models`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from worker_config.errors import CeleriacError
from worker_config.manifest import read_manifest


def main(manifest: Path) -> int:
    """Print the models' descriptions on stdout, or an error on stderr."""
    from tasks.digest import entry_digest
    from tasks.models import load_model

    try:
        entries = read_manifest(manifest)
        infos = []
        for name, entry in entries.items():
            infos.append(load_model(name, entry, entry_digest(entry) if Path(entry.path).exists() else "").info)
    except CeleriacError as error:
        print(f"celeriac: {error}", file=sys.stderr)
        return int(error.exit_code)
    print(msgspec.json.encode(infos).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
