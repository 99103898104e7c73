"""A web service for one model: pixels of a digit in, scores out; what many ask for at the same time runs as one batch.

    make demo                                                      # a model, and its manifest
    CELERIAC_MODELS=celeriac-demo/models.toml celery -A tasks worker -c 4
    cd examples/fastapi && uvicorn app:app --workers 4             # pip install fastapi uvicorn

with CELERIAC_BROKER_URL set for both. One that is too busy says 503, one that takes longer than two seconds 504.
"""

from contextlib import asynccontextmanager

import numpy as np
from fastapi import FastAPI, responses

from producer import AsyncClient, errors


@asynccontextmanager
async def lifespan(app):
    """One client for all requests of this process."""
    async with AsyncClient() as app.state.client:
        yield


def status(code):
    """Answers with this code and the error's own words."""
    return lambda request, error: responses.JSONResponse({"detail": str(error)}, code)


codes = {errors.InputError: status(422), errors.BusyError: status(503), errors.RequestTimeoutError: status(504)}
app = FastAPI(lifespan=lifespan, exception_handlers=codes)


@app.post("/digits")
async def digits(pixels: list[float]) -> list[float]:
    """Scores of the ten digits, for 64 pixels."""
    return (await app.state.client.predict("digits", np.float32([pixels]), timeout_seconds=2))[0].tolist()
