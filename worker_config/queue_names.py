"""Names in Redis that both sides share, without importing Celery: the prefix of all keys, the queue of a model set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

QUEUE = "celeriac"
KEY_PREFIX = "celeriac:"


def queue_of(digests: Mapping[str, str]) -> str:
    """The queue of the workers that hold exactly these models, given as names with digests."""
    model_set = "\n".join(sorted(f"{name}@{digest}" for name, digest in digests.items()))
    return f"{QUEUE}.{hashlib.sha256(model_set.encode()).hexdigest()[:12]}"
