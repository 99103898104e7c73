"""Data sets of PyTorch and of Hugging Face's `datasets`, as they are: equal to the arrays in them, in order."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from producer import Client
from producer.rows.source import table_of
from producer.sources import Source, from_loader, open_source
from producer.sources.picked import PickedRows
from worker_config.errors import InputError, UsageError

REASON = "{} is not installed; `make integrations` runs this in an environment that has it"
torch = pytest.importorskip("torch", reason=REASON.format("torch"))
datasets = pytest.importorskip("datasets", reason=REASON.format("datasets"))

ROWS = 300
PIXELS = np.random.default_rng(3).random((ROWS, 64), np.float32)
TENSOR = torch.from_numpy(PIXELS)


def hub(**columns: Any) -> Any:
    return datasets.Dataset.from_dict({name: list(column) for name, column in columns.items()})


def rows_of(data: object) -> Any:
    opened = open_source(data)
    if isinstance(opened, Source):
        return opened.take(0, opened.rows)
    return np.concatenate(list(opened.batches()))  # type: ignore[arg-type]


def loader(data: Any, **options: Any) -> Any:
    return torch.utils.data.DataLoader(data, **{"batch_size": 50, **options})


def test_every_kind_is_predicted_as_its_arrays_are(running_system: Any, client: Client) -> None:
    expected = client.predict("digits", PIXELS)
    pairs = torch.utils.data.TensorDataset(TENSOR, TENSOR[:, 0])
    named = hub(pixels=PIXELS.tolist(), label=range(ROWS))
    kinds: dict[str, Any] = {
        "tensor": TENSOR,
        "tensors by name": {"pixels": TENSOR, "label": torch.arange(ROWS)},
        "loader": loader(TENSOR),
        "loader of one": loader(torch.utils.data.TensorDataset(TENSOR)),
        "loader of pairs": from_loader(loader(pairs), features=0),
        "loader of dicts": loader(named.with_format("torch")),
        "loader of rows": loader(TENSOR, batch_size=None),
        "dataset": named,
        "dataset of tensors": named.with_format("torch"),
        "dataset that streams": named.to_iterable_dataset(),
        "column": named["pixels"],
    }
    for name, data in kinds.items():
        np.testing.assert_allclose(client.predict("digits", data), expected, rtol=1e-5, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(client.predict("digits", TENSOR[:2]), expected[:2], rtol=1e-5, atol=1e-6)
    with pytest.raises(
        InputError, match=r"model digits has the inputs 'pixels'; .* give .*from_loader\(data, features=0\)"
    ):
        client.predict("digits", loader(pairs))
    with pytest.raises(UsageError, match="the data set is a Dataset"):
        client.predict("digits", named, returns="frame")


@pytest.fixture
def system(running_system: Any) -> Any:
    return running_system


def test_tensors_are_not_copied() -> None:
    assert np.shares_memory(rows_of(TENSOR), PIXELS)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.zeros(2, requires_grad=True), r"Use tensor\.detach\(\)\.numpy\(\)"),
        (lambda: TENSOR.to_sparse(), r"Use Tensor\.to_dense\(\)"),
        (lambda: torch.tensor(1.0), "is one Tensor, not rows"),
    ],
)
def test_tensors_that_are_no_arrays_are_told(make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        open_source(make())


def test_a_loader_that_shuffles_is_read_once(caplog: pytest.LogCaptureFixture) -> None:
    source: Any = open_source(loader(TENSOR, shuffle=True, drop_last=True))
    assert "in an order of its own" in caplog.text
    assert "leaves out the last rows" in caplog.text
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        open_source(loader(TENSOR))
    assert not caplog.records
    assert sum(map(len, source.batches())) == ROWS
    with pytest.raises(InputError, match="can be read only once"):
        source.batches()


def test_an_item_that_raises_is_told() -> None:
    class Broken(torch.utils.data.Dataset):  # type: ignore[misc,name-defined]
        def __len__(self) -> int:
            return 4

        def __getitem__(self, row: int) -> Any:
            if row == 3:
                raise OSError("the disk is gone")
            return TENSOR[row]

    batches = open_source(loader(Broken(), batch_size=1)).batches()  # type: ignore[union-attr]
    for _ in range(3):
        next(batches)
    with pytest.raises(InputError, match="DataLoader: batch 3 did not come: OSError: the disk is gone"):
        next(batches)


def test_datasets_keep_their_order_their_columns_and_what_is_made_of_them() -> None:
    named = hub(n=range(5), word="abcde")
    assert rows_of(named.select([4, 0]))["n"].tolist() == [4, 0]
    assert rows_of(named.shuffle(seed=1))["n"].tolist() == named.shuffle(seed=1)["n"][:]
    assert list(rows_of(named.with_format("numpy", columns=["n"]))) == ["n"]
    doubled: Any = open_source(named.with_transform(lambda rows: {"twice": [2 * n for n in rows["n"]]}))
    assert [batch["twice"].tolist() for batch in doubled.batches()] == [[0, 2, 4, 6, 8]]
    cubes = datasets.Features({"cube": datasets.Array2D((2, 3), "float32")})
    cube = datasets.Dataset.from_dict({"cube": PIXELS[:2, :6].reshape(2, 2, 3).tolist()}, features=cubes)
    np.testing.assert_array_equal(rows_of(cube)["cube"], PIXELS[:2, :6].reshape(2, 2, 3))
    assert rows_of(named.select([]))["n"].tolist() == []
    picked: Any = PickedRows("some", open_source(named), np.array([3, 0])).take(0, 2)  # type: ignore[arg-type]
    assert picked["word"].tolist() == ["d", "a"]


def test_nulls_and_pictures_of_a_dataset() -> None:
    with pytest.raises(InputError, match="the Dataset: column 'n': row 1 is or holds null"):
        rows_of(hub(n=[1, None]))
    picture = datasets.Dataset.from_dict(
        {"image": [{"bytes": b"x", "path": None}]}, features=datasets.Features({"image": datasets.Image()})
    )
    assert open_source(picture, columns="image.bytes").take(0, 1)["image.bytes"].tolist() == [b"x"]  # type: ignore[union-attr,index,call-overload]
    table = table_of(open_source(hub(n=[1], at=[{"a": 1}])))
    assert table is not None
    assert list(table.others) == ["at"]
