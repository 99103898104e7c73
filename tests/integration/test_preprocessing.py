"""Entries without a model: preprocess functions in the workers, which make trees, drop rows, and fail row by row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from producer import Client, JobOptions, Loader
from producer.sources import open_source
from tests.manifests import write_manifest
from tests.models import in_one_process
from tests.systems import System, serving, shared_folders
from worker_config.errors import RowsFailedError

STEPS = """
import numpy as np


def pairs(rows):
    return rows.astype(np.float32) / 2, rows[:, 0] % 3


def nested(rows):
    return {"left": rows, "right": {"low": rows.min(axis=1)}}, rows[:, 0]


def odd_ones(rows):
    return [row if row[0] % 2 else None for row in rows], rows[:, 0]


def none(rows):
    return [None for row in rows]


def tens(rows):
    return [None if row[0] // 10 % 2 else row for row in rows]


def lengths(paths):
    if any("bad" in path for path in paths):
        raise OSError("cannot be decoded")
    return np.array([len(path) for path in paths])


def forgetful(rows):
    if 17 in rows[:, 0]:
        return None
    return rows


def holes(rows):
    return [None if row[0] == 17 else row for row in rows]


def grows(rows):
    return rows[:, : 1 + rows[0, 0] // 100]


def shorten(rows):
    return rows[1:]


def second_of(pair):
    return pair[1]


def tens_of(numbers):
    return [None if number // 10 % 2 else number for number in numbers]


def doubled(numbers):
    return 2 * numbers


CALLS = []


def counted(rows):
    CALLS.append(len(rows))
    return rows.astype(np.float32)


def flat(pictures):
    return pictures.reshape(len(pictures), -1) / 16


def best(scores):
    return scores.argmax(axis=1)


def first(rows):
    return np.full(len(rows), len(CALLS))


def plus_calls(outputs):
    return np.full(len(outputs), len(CALLS))
"""
ROWS = np.arange(240).repeat(2).reshape(-1, 2)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("p")
    (folder / "my_preprocessing.py").write_text(STEPS)

    def step(name: str, **keys: object) -> dict[str, object]:
        return {"preprocess": f"my_preprocessing:{name}"} | keys

    entries = {name: step(name) for name in ("pairs", "nested", "lengths", "forgetful", "holes", "grows", "shorten")}
    entries |= {name: step(name, drops_rows=True) for name in ("odd_ones", "none", "tens")}
    entries["one"] = step("counted", path="my_preprocessing:first", postprocess="my_preprocessing:plus_calls")
    entries["other"] = step("counted", path="my_preprocessing:first", postprocess="my_preprocessing:plus_calls")
    entries["thinned"] = step("tens", path="my_preprocessing:first", drops_rows=True)
    entries["digits"] = {"path": str(models / "digits.keras"), "preload": False}
    entries["flat"] = step("flat")
    entries["sorted_digits"] = {"chain": ["flat", "digits", "best"]}
    entries["best"] = step("best")
    entries["around"] = {"chain": ["digits"]} | step("flat", postprocess="my_preprocessing:best")
    entries["odd_pairs"] = {"chain": ["odd_ones", "numbers", "tens_of_numbers", "labels"]}
    entries["numbers"] = step("second_of")
    entries["tens_of_numbers"] = step("tens_of", drops_rows=True)
    entries["labels"] = {"path": "my_preprocessing:doubled"}
    with serving(folder, write_manifest(folder, entries), environ=shared_folders(folder)) as system:
        yield system


@pytest.mark.parametrize("chunk_rows", [None, 7])
def test_a_function_alone_makes_trees_of_arrays(client: Client, chunk_rows: int | None) -> None:
    halves, labels = client.predict("pairs", ROWS, chunk_rows=chunk_rows)
    np.testing.assert_array_equal(halves, ROWS / 2)
    np.testing.assert_array_equal(labels, ROWS[:, 0] % 3)
    assert halves.dtype == np.float32

    tree, first = client.predict("nested", ROWS, chunk_rows=chunk_rows)
    np.testing.assert_array_equal(tree["right"]["low"], first)
    assert tree["left"].shape == ROWS.shape


@pytest.mark.parametrize("store", ["redis", "files"])
@pytest.mark.parametrize("chunk_rows", [None, 7, 1])
@pytest.mark.parametrize("on_error", ["raise", "skip", "fill"])
def test_rows_dropped_on_purpose_are_counted_as_skipped(
    client: Client, store: str, chunk_rows: int | None, on_error: str
) -> None:
    given = ROWS[:60]
    job = client.submit("odd_ones", given, chunk_rows=chunk_rows, store=store, on_error=on_error)  # type: ignore[call-overload]
    rows, numbers = job.result()
    np.testing.assert_array_equal(rows, given[1::2])
    np.testing.assert_array_equal(numbers, given[1::2, 0])
    assert (job.ledger.rows, job.ledger.predicted, job.ledger.skipped, job.ledger.failed) == (60, 30, 30, 0)
    assert not job.failures()


def test_a_job_that_goes_on_counts_the_rows_that_were_dropped_before(client: Client) -> None:
    job = client._begin_job(["odd_ones"], open_source(ROWS), JobOptions(first_row=100, dropped_before=50))
    np.testing.assert_array_equal(job.result()[1], ROWS[101::2, 0])
    job.ledger.check()
    assert (job.ledger.predicted, job.ledger.skipped, job.ledger.resumed, job.ledger.written) == (120, 120, 100, 120)


def test_whole_chunks_may_be_dropped_and_all_rows(client: Client) -> None:
    job = client.submit("tens", ROWS, chunk_rows=10)
    numbers = [part.numbers() for part in job.parts()]
    np.testing.assert_array_equal(np.concatenate(numbers), ROWS[ROWS[:, 0] // 10 % 2 == 0, 0])
    assert job.ledger.skipped == 120

    job = client.submit("none", ROWS, chunk_rows=30)
    assert len(job.result()) == 0
    assert (job.ledger.skipped, job.ledger.predicted) == (240, 0)


def test_a_model_sees_only_the_rows_that_are_left(client: Client) -> None:
    job = client.submit(["thinned", "pairs"], ROWS, chunk_rows=15)
    outputs = job.result()
    assert isinstance(outputs, dict)
    assert len(outputs["thinned"]) == len(outputs["pairs"][1]) == job.ledger.predicted == 120
    kept = ROWS[:, 0] // 10 % 2 == 0
    np.testing.assert_array_equal(outputs["pairs"][0], ROWS[kept] / 2)


def test_models_that_share_a_function_have_it_run_once_for_each_chunk(client: Client) -> None:
    outputs = client.predict(["one", "other"], ROWS, chunk_rows=10)
    assert isinstance(outputs, dict)
    np.testing.assert_array_equal(outputs["one"], outputs["other"])


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (
            "forgetful",
            r"row 17 failed at preprocess: ModelError: step forgetful: my_preprocessing:forgetful "
            "returned nothing",
        ),
        ("holes", "row 17 failed at preprocess: .*my_preprocessing:holes returned None for a row; .*drops_rows = true"),
        ("shorten", "rows 0-20 failed at preprocess: .*shorten returned 19 rows for 20"),
        ("grows", "rows of int64 .*earlier ones had int64"),
    ],
)
def test_what_a_function_does_wrong_is_told_with_function_and_row(client: Client, step: str, told: str) -> None:
    with pytest.raises(Exception, match=told):
        client.predict(step, ROWS, chunk_rows=20)


def test_a_file_that_fails_is_recorded_with_its_path(client: Client) -> None:
    paths = np.array([f"/data/{'bad' if n in (3, 40) else 'good'}/{n}.png" for n in range(60)], dtype=object)
    with pytest.raises(RowsFailedError, match=r"row 3 \(/data/bad/3.png\) failed at preprocess: .*cannot be decoded"):
        client.predict("lengths", paths, chunk_rows=20)
    job = client.submit("lengths", paths, chunk_rows=20, on_error="skip")
    assert len(job.result()) == 58
    assert [(record.start, record.value) for record in job.failures()] == [(3, paths[3]), (40, paths[40])]


@pytest.mark.parametrize("name", ["sorted_digits", "around"])
def test_functions_and_models_run_one_after_the_other_in_one_task(client: Client, models: Path, name: str) -> None:
    pictures = load_digits().images
    expected = in_one_process(models / "digits.keras", pictures.reshape(-1, 64).astype(np.float32) / 16).argmax(axis=1)
    job = client.submit(name, pictures)
    np.testing.assert_array_equal(job.result(), expected)
    assert job.ledger.chunks_sent <= 60
    assert len(client.predict(name, pictures[:0])) == 0


@pytest.mark.parametrize("chunk_rows", [None, 7, 1])
def test_rows_may_be_dropped_anywhere_in_a_chain(client: Client, chunk_rows: int | None) -> None:
    job = client.submit("odd_pairs", ROWS, chunk_rows=chunk_rows)
    numbers = ROWS[:, 0]
    left = numbers[(numbers % 2 == 1) & (numbers // 10 % 2 == 0)]
    np.testing.assert_array_equal(job.result(), 2 * left)
    assert job.ledger.skipped == 240 - len(left)


def test_batches_of_a_step_that_drops_rows_are_full_and_of_unknown_number(client: Client) -> None:
    import tensorflow as tf

    loader = Loader(client, "odd_ones", ROWS, batch_rows=16)
    sizes = [len(numbers) for _, numbers in loader]
    assert sizes == [16] * 7 + [8]
    assert (loader.ledger.predicted, loader.ledger.skipped) == (120, 120)
    dataset = loader.tf_dataset()
    assert dataset.cardinality() == tf.data.UNKNOWN_CARDINALITY
    numbers = np.concatenate([numbers.numpy() for _, numbers in dataset])
    np.testing.assert_array_equal(numbers, ROWS[1::2, 0])
