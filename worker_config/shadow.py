"""A stray `tasks.py` in the current folder, which Celery would take for ours, is refused.

`celery -A tasks` puts the current folder first on the path; the same goes for `producer` and `worker_config`.
"""

from __future__ import annotations

from pathlib import Path

import worker_config
from worker_config.errors import ConfigError

_PACKAGES = ("producer", "tasks", "worker_config")


def check_no_shadow(folder: Path) -> None:
    """Raise ConfigError if modules in `folder` hide Celeriac's packages."""
    ours = Path(worker_config.__file__).parent.parent
    if folder.resolve() == ours.resolve():
        return
    for name in _PACKAGES:
        for stray in (folder / f"{name}.py", folder / name / "__init__.py"):
            if stray.exists():
                raise ConfigError(
                    f"{stray} hides Celeriac's package `{name}` from workers started here; "
                    "rename it, or run from another folder"
                )
