"""Environments of their own for peers, whose packages ours could not hold beside each other.

NAME.txt, pinned --venv, pip--> .venv/peers/NAME --orders, answers: lines of JSON--> `Peer`
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import IO, Any, Self, cast

_HERE = Path(__file__).parent


class Peer:
    """A program of a peer that waits for orders, in its own environment, which is made where there is none."""

    def __init__(self, name: str, *words: str) -> None:
        python = _environment(name) / "bin" / "python"
        command = [str(python), str(_HERE / f"{name}.py"), *words]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._orders, self._answers = cast("IO[str]", self._process.stdin), cast("IO[str]", self._process.stdout)
        self.ask()

    def ask(self, **order: Any) -> Any:
        """Have it carry out an order, and give its answer."""
        print(json.dumps(order), file=self._orders, flush=True)
        for line in self._answers:
            if line.startswith("{"):  # whatever else it prints
                return json.loads(line)
        raise RuntimeError(f"the peer has ended with exit code {self._process.wait()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._orders.close()
        self._process.wait()


def _environment(name: str) -> Path:
    pins = _HERE / f"{name}.txt"
    folder = Path(sys.prefix) / "peers" / name
    stamp, wanted = folder / "installed", hashlib.sha256(pins.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        venv.create(folder, clear=True, with_pip=True)
        install = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "-r", str(pins)]
        subprocess.run(install, check=True)
        stamp.write_text(wanted)
    return folder
