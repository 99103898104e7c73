"""A tuple of arrays: by the order of the inputs where there is one, by form where that is clear, else refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from producer.scheduling.admission import check_fits
from tasks.child.load_model import load_model
from tasks.child.loaded_model import LoadedModel
from tasks.models.model_version import entry_digest
from tasks.preparation.serving_spec import ServingSpec
from tasks.protocol.records import ModelInfo, TensorSpec
from tasks.protocol.signature import fit
from tests import towers
from worker_config.errors import InputError, ModelLoadError
from worker_config.manifest import ModelEntry

ROWS = towers.rows_of(7)
TUPLE = tuple(ROWS.values())
KEEP_NONE = (
    r"""m keeps no order of its inputs, and array 0 of the tuple fits '(item|user)\S*' as well as '(item|user)"""
)

ORDERED: dict[str, Callable[[Path], Path]] = {
    "list in .keras": lambda folder: towers.write_keras(folder, "list.keras", towers.listed),
    "list in .h5": lambda folder: towers.write_keras(folder, "list.h5", towers.listed),
    "TFLite without a signature": towers.write_bare_tflite,
}
WITHOUT_ORDER: dict[str, Callable[[Path], Path]] = {
    "dict in .keras": lambda folder: towers.write_keras(folder, "dict.keras", towers.by_key),
    "dict in .h5": lambda folder: towers.write_keras(folder, "dict.h5", towers.by_key),
    "dict in a list": lambda folder: towers.write_keras(folder, "in.keras", lambda u, i: [u, {"item": i}]),
    "SavedModel": towers.write_saved,
    "SavedModel of TensorFlow 1": towers.write_old_saved,
    "TFLite with a signature": towers.write_tflite,
    "frozen graph": towers.write_graph,
}


def loaded(path: Path, inputs: list[str] | None = None) -> LoadedModel:
    entry = ModelEntry(str(path), inputs=inputs or [], batch_rows=4)
    return load_model(ServingSpec("m", entry_digest(entry), entry, batch_rows=4))


def check_right(outputs: Any) -> None:
    np.testing.assert_allclose(outputs, towers.expected(**ROWS), rtol=1e-5, atol=1e-5)


def by_name(model: LoadedModel) -> dict[str, Any]:
    """The rows, in the model's own order; tensors of a graph have a number."""
    return {spec.name: ROWS[spec.name.removesuffix(":0")] for spec in model.info.inputs}


@pytest.mark.parametrize("case", ORDERED)
def test_a_tuple_goes_by_the_order_that_a_format_keeps(tmp_path: Path, case: str) -> None:
    model = loaded(ORDERED[case](tmp_path))
    check_right(model.predict(TUPLE))
    check_right(model.predict(dict(reversed(by_name(model).items()))))


@pytest.mark.parametrize("case", WITHOUT_ORDER)
def test_where_a_format_keeps_no_order_a_tuple_is_refused_until_the_manifest_names_one(
    tmp_path: Path, case: str
) -> None:
    path = WITHOUT_ORDER[case](tmp_path)
    model = loaded(path)
    for rows in (TUPLE, TUPLE[::-1]):
        with pytest.raises(InputError, match=KEEP_NONE) as refused:
            model.predict(rows)
        assert "give a dict of arrays by these names" in str(refused.value)
    check_right(model.predict(by_name(model)))
    names = ["user:0", "item:0"] if path.suffix == ".pb" else ["user", "item"]
    check_right(loaded(path, names).predict(TUPLE))
    check_right(loaded(path, names[::-1]).predict(TUPLE[::-1]))


def test_an_order_in_the_manifest_names_all_inputs_and_no_others(tmp_path: Path) -> None:
    path = towers.write_saved(tmp_path)
    for names in (["user"], ["user", "items"], ["user", "item", "item"]):
        with pytest.raises(ModelLoadError, match="those of the model are 'item', 'user'"):
            loaded(path, names)


FORMS = [TensorSpec("ids", "int32", (None, 4)), TensorSpec("image", "float32", (None, 8, 8, None))]
IDS, IMAGE = np.ones((2, 4), np.int64), np.ones((2, 8, 8, 3))


@pytest.mark.parametrize("rows", [(IDS, IMAGE), (IMAGE, IDS)])
def test_arrays_that_fit_one_input_each_need_no_order(rows: Any) -> None:
    fitted = fit(rows, FORMS, "m", ordered=False)
    assert fitted["ids"].dtype == np.int32
    assert fitted["image"].shape == (2, 8, 8, 3)


@pytest.mark.parametrize(
    ("inputs", "rows", "words"),
    [
        (FORMS, (IDS, IDS), r"no array of the tuple fits the input image \(\?, 8, 8, \?\) float32"),
        (FORMS, (IDS, IMAGE[:, :7]), r"array 1 of the tuple, float64 rows of shape \(7, 8, 3\), fits none of.*ids"),
        (FORMS, (IDS, IMAGE, IDS), "'ids', 'image'; the data set is 3 arrays; give a dict of arrays by these names"),
        (FORMS, np.stack([IDS, IDS]), "the data set is one array; give a dict"),  # a list of arrays becomes one
        # Whole numbers fit floats too: the other way round might be what is meant.
        (
            [TensorSpec("a", "float32", (None, 4)), TensorSpec("b", "int32", (None, 4))],
            (IDS, IDS + 0.5),
            "array 0 of the tuple fits 'a' as well as 'b'",
        ),
        # A free size takes any.
        (
            [TensorSpec(name, "float32", (None, *shape)) for name, shape in {"a": (None,), "b": (4,), "c": ()}.items()],
            (np.ones(2), np.ones((2, 4)), np.ones((2, 5))),
            "array 1 of the tuple fits 'a' as well as 'b'",
        ),
    ],
)
def test_arrays_that_fit_several_inputs_or_none_are_refused(inputs: list[TensorSpec], rows: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        fit(rows, inputs, "m", ordered=False)


def model_of(inputs: list[TensorSpec], *, ordered: bool) -> ModelInfo:
    return ModelInfo("m", "d", 4, inputs, [], 0.0, 0, ordered=ordered)


def test_rows_of_uneven_shape_are_asked_for_their_places_before_they_are_sent() -> None:
    inputs = [TensorSpec(name, "float32", (None, None, 3)) for name in ("item", "user")]
    uneven = [np.ones((1, 3), np.float32), np.ones((2, 3), np.float32)]
    check_fits([model_of(inputs, ordered=True)], (uneven, uneven))
    check_fits([model_of(inputs, ordered=False)], {"user": uneven, "item": uneven})
    check_fits([model_of(inputs, ordered=False)], ([], []))  # no rows are in no order
    for rows in ((uneven, uneven), (uneven, np.ones((2, 4, 3), np.float32))):
        with pytest.raises(InputError, match="keeps no order"):
            check_fits([model_of(inputs, ordered=False)], rows)
    with pytest.raises(InputError, match="'item', 'user'; the data set has 'a', 'b'"):
        check_fits([model_of(inputs, ordered=False)], {"a": uneven, "b": uneven})
