"""A data set of Hugging Face, and its rows with what the model makes of them.

cd examples/frames && python with_datasets.py
"""

from datasets import Dataset

from celeriac import local


def length(rows):
    """Stands for your model."""
    return [len(text) for text in rows["text"]]


if __name__ == "__main__":
    reviews = Dataset.from_dict({"text": ["fine", "not at all what I had hoped for"], "stars": [5, 1]})
    with local(models={"length": length}) as client:
        for review, characters in zip(reviews, client.predict("length", reviews), strict=True):
            print(review["stars"], characters)
