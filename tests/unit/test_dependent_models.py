"""What a producer makes of models whose rows are not independent: chunks that are the same, whatever workers do."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from producer.detached.plan import choose_chunk_rows
from producer.job.factory import make_sizer
from producer.scheduling import model_pinning
from producer.scheduling.job_options import JobOptions
from producer.sources import from_arrays
from tasks.preparation.serving_spec import ServingSpec, chained
from tasks.protocol.records import Dependence, ModelInfo, TensorSpec
from worker_config.errors import UsageError
from worker_config.manifest import ModelEntry

PLAIN = ModelInfo("digits", "ab" * 32, 64, [], [TensorSpec("scores", "float32", (None, 10))], 0.0, 0, 0.01)
BY_BATCH = [Dependence("neighbours", 0.5)]
MEANT = msgspec.structs.replace(PLAIN, name="meant", independent_rows=False, dependence=BY_BATCH)


@pytest.mark.parametrize(("given", "expected"), [(None, 64), (100, 100)])
def test_chunks_that_are_meant_to_be_the_same_have_one_size(given: int | None, expected: int) -> None:
    sizer = make_sizer([PLAIN, MEANT], from_arrays(np.zeros(4)), "slices", JobOptions(chunk_rows=given))
    for slots, rows_left, seconds in (1, None, 1e-4), (99, 10_000, 50.0), (3, 70, 0.01):
        assert sizer.next_rows(rows_left, slots, share_bytes=8.0) == expected
        sizer.answered(expected, seconds, 1)
    for slots in 1, 99:
        chosen = choose_chunk_rows([MEANT, PLAIN], 10_000, 8.0, slots, fixed_rows=given, sliced=False)
        assert chosen == expected


def test_a_job_begins_with_a_chunk_or_is_refused() -> None:
    model_pinning.check_begins_chunk([PLAIN], 7, None)
    model_pinning.check_begins_chunk([PLAIN, MEANT], 128, None)
    model_pinning.check_begins_chunk([MEANT], 7, 7)
    with pytest.raises(UsageError, match=r"model meant: .* chunks of 64 rows .* none begins with row 7"):
        model_pinning.check_begins_chunk([PLAIN, MEANT], 7, None)


def test_a_chain_depends_on_what_its_members_depend_on() -> None:
    noise = msgspec.structs.replace(PLAIN, dependence=[Dependence("chance", None, seeded=True)])
    unknown = msgspec.structs.replace(PLAIN, dependence=None)
    served = ServingSpec("both", "cd" * 32, ModelEntry(batch_rows=64))
    both = chained(served, [MEANT, noise])
    assert both.dependent == (
        "a row's prediction depends on the other rows of its batch (by up to 0.5 of the outputs' spread) and on chance "
        "(without measure)"
    )
    assert not both.independent_rows
    none = msgspec.structs.replace(PLAIN, dependence=[])
    assert chained(served, [none, none]).dependence == []
    assert chained(served, [none, unknown]).dependence is None
    assert model_pinning.dependent([both, none]) == {"both": f"independent_rows = false: {both.dependent}"}
