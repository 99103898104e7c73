"""A stream of Arrow that nobody has in memory as a whole, as DuckDB and Flight give them.

cd examples/frames && python with_arrow.py
"""

import numpy as np
import pyarrow as pa

from celeriac import local


def score(rows):
    """Stands for your model."""
    return rows["x"] * 2


if __name__ == "__main__":
    batches = (pa.record_batch({"x": np.arange(start, start + 100_000.0)}) for start in range(0, 3_000_000, 100_000))
    stream = pa.RecordBatchReader.from_batches(pa.schema({"x": pa.float64()}), batches)
    with local(models={"score": score}) as client:
        print(sum(float(part.outputs.sum()) for part in client.submit("score", stream).parts()))
