"""The caller's side: split a data set, submit its chunks, join the outputs.

    from producer import Client, local

    with local(models="models.toml", workers=2) as client:
        predictions = client.predict("digits", images)

Importing this package does not import TensorFlow; each name below imports its own module when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from producer.preflight import own_packages  # noqa: F401 - before what imports the others

# isort: split
from producer import errors

if TYPE_CHECKING:
    from producer.async_client import AsyncClient
    from producer.client import Client
    from producer.detached.detached_job import DetachedJob
    from producer.embedded import local
    from producer.job.job import Job
    from producer.job.prometheus import serve_metrics
    from producer.outputs.summary import Summary
    from producer.preflight.preflight import Preflight
    from producer.records.job_store import JobState
    from producer.records.ledger import Ledger
    from producer.records.progress import Progress
    from producer.rows.part import Part
    from producer.scheduling.job_options import JobOptions
    from producer.training import ArraySpec, Loader, py_dataset, tf_dataset, tf_outputs
    from tasks.protocol.messages import FailureRecord

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

_MODULES = {
    "producer.async_client": ["AsyncClient"],
    "producer.client": ["Client"],
    "producer.detached.detached_job": ["DetachedJob"],
    "producer.embedded": ["local"],
    "producer.job.job": ["Job"],
    "producer.records.progress": ["Progress"],
    "producer.scheduling.job_options": ["JobOptions"],
    "producer.job.prometheus": ["serve_metrics"],
    "producer.outputs.summary": ["Summary"],
    "producer.preflight.preflight": ["Preflight"],
    "producer.records.job_store": ["JobState"],
    "producer.records.ledger": ["Ledger"],
    "producer.rows.part": ["Part"],
    "producer.training": ["ArraySpec", "Loader", "py_dataset", "tf_dataset", "tf_outputs"],
    "tasks.protocol.messages": ["FailureRecord"],
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value  # the next look does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
