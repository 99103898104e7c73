"""Jobs in a chain and a chord of your own Celery app: cd examples/celery_app && python shop.py /PATH/rows.npy.

What it is told by its environment, and so are the two workers `celeriac worker`, with a model `digits`, and
`celery -A shop worker`, which needs no TensorFlow:

    CELERIAC_BROKER_URL     redis://localhost:6379/0
    CELERY_BROKER_URL       redis://localhost:6379/1
    CELERY_RESULT_BACKEND   redis://localhost:6379/1
"""

import sys

from celery import Celery, chord

from producer.celery import load, predict_job

app = Celery("shop")


@app.task
def most_common(reference: dict) -> int:
    """The digit that is predicted most often."""
    return max(digits := load(reference).argmax(axis=1).tolist(), key=digits.count)


@app.task
def total(references: list[dict]) -> int:
    """How many rows several jobs have predicted."""
    return sum(reference["ledger"]["predicted"] for reference in references)


if __name__ == "__main__":
    rows = sys.argv[1]
    digit = (predict_job.s(rows, "digits") | most_common.s()).delay()
    counted = chord(predict_job.s(rows, "digits", f"{rows}.scores{n}.npy") for n in (1, 2))(total.s())
    print(f"most common digit {digit.get()}, {counted.get()} rows in two files")
