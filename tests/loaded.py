"""Models of any format, loaded as a child loads them, or refused, and what their outputs are held against."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from tasks.child.load_model import load_model
from tasks.models.model_version import entry_digest
from tasks.preparation.serving_spec import ServingSpec
from worker_config.errors import ModelLoadError
from worker_config.manifest import ModelEntry

BATCH_ROWS = 5


def loaded(entry: ModelEntry, **changes: Any) -> Any:
    entry = msgspec.structs.replace(entry, batch_rows=BATCH_ROWS, **changes)
    try:
        digest = entry_digest(entry)
    except OSError:
        digest = ""  # loading says what is wrong
    return load_model(ServingSpec("m", digest, entry, batch_rows=BATCH_ROWS))


def check_equal(got: Any, expected: Any) -> None:
    got = got if isinstance(got, dict) else dict.fromkeys(expected, got)
    assert set(got) == set(expected)
    for name, array in expected.items():
        assert got[name].shape == array.shape
        if array.dtype.kind in "OSU":
            assert got[name].tolist() == array.tolist()
        else:
            assert got[name].dtype == array.dtype
            wide = complex if array.dtype.kind == "c" else float  # numpy compares no bfloat16
            np.testing.assert_allclose(got[name].astype(wide), array.astype(wide), rtol=1e-5, atol=1e-5)


def refused(entry: ModelEntry, words: str) -> None:
    with pytest.raises(ModelLoadError, match=words) as error:
        loaded(entry)
    text = str(error.value)
    assert text.startswith(f"model m cannot be loaded from {entry.path}: ")
    assert "\n" not in text
    assert len(text) < 700
