"""Sends a chain and a chord to the app beside it: cd examples/celery_app && python send.py ROWS.npy.

Two workers run: `celeriac worker`, with a model `digits`, and `celery -A shop worker`; both, and this, are told
`CELERIAC_BROKER_URL`.
"""

import sys
from pathlib import Path

from celery import chord
from shop import most_common, total

from producer.celery import predict_job

rows = str(Path(sys.argv[1]).absolute())
digit = (predict_job.s(rows, "digits") | most_common.s()).delay()
counted = chord(predict_job.s(rows, "digits", f"{rows}.scores{n}.npy") for n in (1, 2))(total.s())
print(f"most common digit {digit.get()}, {counted.get()} rows in two files")
