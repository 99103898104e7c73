"""A tuple of arrays for a model that keeps no order of its inputs: refused before anything is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from producer import Client
from producer.sources import from_batches
from tests import towers
from tests.manifests import write_manifest
from tests.systems import System, queues, serving
from worker_config.errors import InputError, RowsFailedError

STEPS = """
def swapped(columns):
    return columns["item"], columns["user"]
"""
ROWS = towers.rows_of(40)
TUPLE = tuple(ROWS.values())


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("order")
    (folder / "order_steps.py").write_text(STEPS)
    saved = {"path": towers.write_saved(folder)}
    manifest = write_manifest(
        folder,
        {
            "listed": towers.write_keras(folder, "listed.keras", towers.listed),
            "saved": saved,
            "stated": {**saved, "inputs": ["user", "item"]},
            "prepared": {**saved, "preprocess": "order_steps:swapped"},
            "step": {"preprocess": "order_steps:swapped"},
            "chained": {"chain": ["step", "saved"]},
            "stated_chain": {"chain": ["stated", "after"]},
            "after": {"preprocess": "numpy:negative"},
        },
    )
    with serving(folder, manifest, children=1) as system:
        yield system


def check_right(outputs: Any) -> None:
    np.testing.assert_allclose(outputs, towers.expected(**ROWS), rtol=1e-5, atol=1e-5)


def rows() -> Iterator[tuple[Any, ...]]:
    yield from zip(*TUPLE, strict=True)


WAYS: dict[str, Callable[[Client], Any]] = {
    "arrays": lambda client: client.predict("saved", TUPLE),
    "rows": lambda client: client.predict("saved", rows()),
    "stream": lambda client: list(client.stream("saved", rows())),
    "batches": lambda client: client.predict("saved", from_batches([TUPLE])),
    "tf.data": lambda client: client.predict("saved", tf.data.Dataset.from_tensor_slices(TUPLE)),
    "beside a model with an order": lambda client: client.predict(["listed", "saved"], TUPLE),
    "detached": lambda client: client.submit("saved", TUPLE, detach=True),
    "try_out": lambda client: client.try_out("saved", TUPLE),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_tuple_without_an_order_is_refused_and_nothing_is_sent(system: System, client: Client, way: str) -> None:
    with system.admin() as server:
        before = server.info("commandstats").get("cmdstat_lpush")
        with pytest.raises(InputError, match=r"saved keeps no order of its inputs.*'item' as well as 'user'.*a dict"):
            WAYS[way](client)
        assert not queues(server)
        assert server.info("commandstats").get("cmdstat_lpush") == before


def test_an_order_in_the_manifest_holds_in_workers_that_run_a_snapshot(client: Client) -> None:
    (info,) = client.describe("stated")
    assert (info.ordered, [spec.name for spec in info.inputs]) == (True, ["user", "item"])
    assert info.executor != "plain"
    check_right(client.predict("stated", TUPLE))
    check_right(client.predict(["listed", "stated"], TUPLE)["stated"])
    check_right(client.predict("saved", dict(reversed(ROWS.items()))))
    np.testing.assert_allclose(client.predict("stated_chain", rows()), -towers.expected(**ROWS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", ["prepared", "chained"])
def test_a_tuple_that_a_function_makes_is_refused_where_it_is_known(client: Client, model: str) -> None:
    """No one knows before it runs; the first chunk says it."""
    with pytest.raises(RowsFailedError, match="keeps no order of its inputs"):
        client.predict(model, ROWS)
