"""Celeriac: TensorFlow models over large data sets, on many processes and machines.

    from celeriac import Client, local

    client = local("models.toml")
    predictions = client.predict("digits", images)

The names are those of `producer`, which does the work; each imports its own module when it is first used, and none
imports TensorFlow. A `tasks.py` in the program's own folder, which hides our package of that name from `import
producer`, does no harm here, as long as the program does not import it itself.
"""

import sys
from importlib import util
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from producer import (
        ArraySpec,
        AsyncClient,
        Client,
        DetachedJob,
        FailureRecord,
        Job,
        JobOptions,
        JobState,
        Ledger,
        Loader,
        Part,
        Preflight,
        Progress,
        Summary,
        errors,
        local,
        py_dataset,
        serve_metrics,
        tf_dataset,
        tf_outputs,
    )

__all__ = [
    "ArraySpec",
    "AsyncClient",
    "Client",
    "DetachedJob",
    "FailureRecord",
    "Job",
    "JobOptions",
    "JobState",
    "Ledger",
    "Loader",
    "Part",
    "Preflight",
    "Progress",
    "Summary",
    "errors",
    "local",
    "py_dataset",
    "serve_metrics",
    "tf_dataset",
    "tf_outputs",
]


def _import_own(name: str) -> None:
    """Import our package of this name from beside this one, whatever else of that name is on the path."""
    if name in sys.modules:
        return  # if it is not ours, `producer` says so
    spec = PathFinder.find_spec(name, [str(Path(__file__).resolve().parents[1])])
    if spec is None or spec.loader is None:
        return
    sys.modules[name] = module = util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


for _name in ("worker_config", "tasks", "producer"):
    _import_own(_name)


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import producer

    value: object = getattr(producer, name)
    globals()[name] = value  # the next look does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
