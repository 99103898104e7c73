"""The caller's side: split a data set, submit its chunks, join the outputs.

    from producer import Client, local

    with local(models="models.toml", workers=2) as client:
        predictions = client.predict("digits", images)

Importing this package does not import TensorFlow.
"""

from producer.preflight import own_packages  # noqa: F401 - before what imports the others

# isort: split
from producer.client import Client
from producer.detached.detached_job import DetachedJob
from producer.embedded import local
from producer.job.job import Job
from producer.job.progress import Progress
from producer.job.prometheus import serve_metrics
from producer.preflight.preflight import Preflight, Wanted
from producer.records.job_store import JobState
from producer.records.ledger import Ledger
from producer.rows.part import Part
from producer.training import ArraySpec, Loader, py_dataset, tf_dataset, tf_outputs
from tasks.protocol.messages import FailureRecord
from worker_config import errors

__all__ = [
    "ArraySpec",
    "Client",
    "DetachedJob",
    "FailureRecord",
    "Job",
    "JobState",
    "Ledger",
    "Loader",
    "Part",
    "Preflight",
    "Progress",
    "Wanted",
    "errors",
    "local",
    "py_dataset",
    "serve_metrics",
    "tf_dataset",
    "tf_outputs",
]
