"""A DataFrame with an id column in, the same one with scores out: cd examples/frames && python with_pandas.py"""

import pandas as pd

from celeriac import local


def score(rows):
    """Stands for your model; it is given the columns by name, as arrays."""
    return rows["income"] / (1 + rows["age"])


if __name__ == "__main__":
    customers = pd.DataFrame({"id": ["k7", "b2", "x9"], "age": [24, 49, 99], "income": [100.0, 250.0, 400.0]})
    with local(models={"score": score}) as client:
        print(client.predict("score", customers, returns="frame").to_string(index=False))
