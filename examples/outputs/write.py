"""Predictions into a folder of Parquet files; whatever ends it, the same program goes on after the rows that are done.

cd examples/outputs && python write.py
"""

import sys

from sklearn.datasets import load_digits

from celeriac import local


def ink(columns):
    """What stands in for a model."""
    return columns["pixel_3_3"] + columns["pixel_4_4"]


folder = sys.argv[1] if len(sys.argv) > 1 else "."
with local(models={"ink": ink}) as client:
    digits = load_digits(as_frame=True).frame
    summary = client.predict_to(f"{folder}/ink.parquet/", "ink", digits, keep="target", resume=True)
    print(f"{summary.ledger['predicted']} rows in {summary.output}")
