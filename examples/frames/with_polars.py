"""A frame of polars, of which some rows are wanted; what comes back goes on as one.

cd examples/frames && python with_polars.py
"""

import polars as pl

from celeriac import local


def score(rows):
    """Stands for your model; it is given the columns by name, as arrays."""
    return rows["income"] / (1 + rows["age"])


if __name__ == "__main__":
    customers = pl.DataFrame({"id": ["k7", "b2", "x9"], "age": [24, 49, 99], "income": [100.0, 250.0, 400.0]})
    with local(models={"score": score}) as client:
        scored = client.predict("score", customers.filter(pl.col("age") > 30), returns="frame")
    print(scored.select("id", score="output").write_csv(), end="")
