"""Your own Celery app, whose worker is light: cd examples/celery_app && celery -A shop worker."""

import os
from collections import Counter

from celery import Celery

from producer.celery import load  # the import makes predict_job a task of this app

URL = os.environ.get("SHOP_URL", "redis://localhost:6379/1")
app = Celery("shop", broker=URL, backend=URL)


@app.task
def most_common(reference: dict) -> int:
    """Which digit is predicted most often."""
    return Counter(load(reference).argmax(axis=1).tolist()).most_common(1)[0][0]


@app.task
def total(references: list[dict]) -> int:
    """How many rows several jobs have predicted."""
    return sum(reference["ledger"]["predicted"] for reference in references)
