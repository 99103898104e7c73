"""A web service for one model, in Flask: pixels of a digit in, scores out; what threads ask for together is one batch.

    make demo                                                      # a model, and its manifest
    CELERIAC_MODELS=celeriac-demo/models.toml celery -A tasks worker -c 4
    cd examples/flask && gunicorn app:app --workers 4 --threads 8  # pip install flask gunicorn

with CELERIAC_BROKER_URL set for both. One that is too busy says 503, one that takes longer than two seconds 504.
"""

import numpy as np
from flask import Flask, request

from producer import Client, errors

app = Flask(__name__)
client = Client()  # for all requests of this process
codes = {
    ValueError: 422,
    TypeError: 422,
    errors.InputError: 422,
    errors.BusyError: 503,
    errors.RequestTimeoutError: 504,
}
for kind, status in codes.items():
    app.register_error_handler(kind, lambda error, status=status: ({"detail": str(error)}, status))


@app.post("/digits")
def digits():
    """Scores of the ten digits, for 64 pixels."""
    return client.predict("digits", np.float32([request.get_json()]), timeout_seconds=2)[0].tolist()
