"""`import producer` begins here: a program's own `tasks.py` hides our package of that name from it, and we say so.

A `producer.py` hides this one too, and nothing of ours runs then; the `celeriac` command tells of that one.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

_HOME = Path(__file__).resolve().parents[2]


def check_own_packages() -> None:
    """Raise ConfigError, or ImportError where our errors are hidden, unless `tasks` and `worker_config` are ours."""
    for name in ("worker_config", "tasks"):
        found = _file_of(name)
        if found is None or found.resolve().is_relative_to(_HOME / name):
            continue
        text = f"{found} hides Celeriac's package `{name}` from this program; rename it, or move the program elsewhere"
        if Path(sys.argv[0]).name == "celeriac":  # by PYTHONPATH; the command itself is imported after this
            print(f"celeriac: {text}", file=sys.stderr)
            raise SystemExit(2)
        if name == "worker_config":
            raise ImportError(text)
        from worker_config.errors import ConfigError

        raise ConfigError(text)


def _file_of(name: str) -> Path | None:
    """Where it was imported from, or will be; None where Python's own error says enough."""
    if name in sys.modules:
        origin = getattr(sys.modules[name], "__file__", None)
    else:
        spec = importlib.util.find_spec(name)
        origin = spec.origin if spec else None
    return Path(origin) if origin else None


check_own_packages()
if Path(sys.argv[0]).name == "celeriac":  # before kombu is imported, which reads them
    from worker_config.environment import settle_command

    settle_command(os.environ)
