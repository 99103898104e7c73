"""Batches of a DataLoader of PyTorch, transforms and all, through a model of another kind.

cd examples/frames && python with_torch.py
"""

import torch
from torch.utils.data import DataLoader, TensorDataset

from celeriac import local


def brightness(rows):
    """Stands for your model."""
    return rows.mean(axis=(1, 2))


if __name__ == "__main__":
    pictures = TensorDataset(torch.arange(4.0).reshape(4, 1, 1).expand(4, 8, 8))
    with local(models={"brightness": brightness}) as client:
        print(client.predict("brightness", DataLoader(pictures, batch_size=2)).tolist())
