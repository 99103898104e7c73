"""Batches for training loops, from real workers: the right rows in the right order, once, whatever happens."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from producer import ArraySpec, Client, Loader
from producer.sources import from_batches, from_rows, open_zarr
from producer.training.order import epoch_order
from tests.feeding import (
    ROWS,
    check_nothing_left,
    feeding,
    job_threads,
    labels,
    numbered_rows,
    pairs_of,
)
from tests.systems import System
from tests.waiting import is_alive, wait_until
from worker_config.errors import (
    InputError,
    JobCancelledError,
    MessageError,
    RowsFailedError,
    UnknownLengthError,
    UnknownModelError,
    UsageError,
)

DATA = numbered_rows()
BAD = DATA.copy()
BAD[[3, 17, 18], 0] *= -1


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with feeding(tmp_path_factory.mktemp("s")) as system:
        yield system


def from_memory(order: Any, batch_rows: int) -> list[Any]:
    """The batches of rows in this order, made in this process."""
    return [pairs_of(DATA[order[at : at + batch_rows]]) for at in range(0, len(order), batch_rows)]


def assert_equal(batches: list[Any], expected: list[Any]) -> None:
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected, strict=True):
        assert isinstance(batch, tuple)
        for array, wanted in zip(batch, other, strict=True):
            assert array.dtype == wanted.dtype
            np.testing.assert_array_equal(array, wanted)


@pytest.mark.parametrize("chunk_rows", [None, 1, 7, 64])
@pytest.mark.parametrize("shuffle", [False, True, 9])
def test_batches_are_those_from_memory_in_the_epochs_order(
    client: Client, chunk_rows: int | None, shuffle: bool | int
) -> None:
    loader = Loader(client, "pairs", DATA, batch_rows=8, shuffle=shuffle, seed=5, chunk_rows=chunk_rows)
    assert len(loader) == loader.batches_per_epoch == 8
    seen = []
    for epoch in range(3):
        order = np.asarray(epoch_order(ROWS, shuffle, 5, epoch, (0, 1)))
        batches = list(loader)
        assert_equal(batches, from_memory(order, 8))
        seen.append(labels(batches))
    assert (seen[0] == seen[1]) == (shuffle is False)
    assert (loader.ledger.rows, loader.ledger.predicted, loader.ledger.written) == (3 * ROWS,) * 3
    loader.ledger.check()
    loader.epoch = 1
    assert labels(loader) == seen[1], "a training that goes on has the epoch that it would have had"


def test_several_epochs_in_one_iteration_have_no_gap_and_no_end(client: Client) -> None:
    wanted = {"batch_rows": 8, "shuffle": True, "seed": 2}
    single = Loader(client, "pairs", DATA, **wanted)
    each = [labels(single) for _ in range(3)]
    several = Loader(client, "pairs", DATA, epochs=3, **wanted)
    assert len(several) == 24
    assert labels(several) == [batch for epoch in each for batch in epoch]
    endless = Loader(client, "pairs", DATA, epochs=None, **wanted)
    with pytest.raises(UnknownLengthError, match=r"has no end \(epochs=None\)"):
        len(endless)
    batches = iter(endless)
    assert labels(next(batches) for _ in range(20)) == [batch for epoch in each for batch in epoch][:20]
    batches.close()  # type: ignore[attr-defined]
    assert endless.epoch == 3, "an epoch of which no batch was seen is still to come"
    assert not job_threads()


@pytest.mark.parametrize("shuffle", [False, True, 9])
@pytest.mark.parametrize("streamed", [False, True])
def test_shards_have_all_rows_once(client: Client, shuffle: bool | int, streamed: bool) -> None:
    if streamed and shuffle is True:
        with pytest.raises(UsageError, match="cannot be permuted as a whole; give shuffle a number of rows"):
            Loader(client, "pairs", from_rows(DATA), batch_rows=8, shuffle=True)
        return
    seen = []
    for index in range(3):
        source = from_rows(DATA, batch_rows=7) if streamed else DATA
        loader = Loader(client, "pairs", source, batch_rows=8, shuffle=shuffle, shard=(index, 3), seed=4)
        rows = [row for batch in labels(loader) for row in batch]
        assert len(rows) == ROWS // 3
        seen += rows
    assert sorted(seen) == list(range(ROWS))


def test_a_data_set_that_is_read_in_order(client: Client) -> None:
    loader = Loader(client, "pairs", from_batches([DATA[:50], DATA[50:]]), batch_rows=8, shuffle=10, seed=3)
    with pytest.raises(UnknownLengthError, match="reads a data set of unknown length"):
        len(loader)
    assert loader.element_spec == (ArraySpec((None, 4), np.dtype("f4")), ArraySpec((None,), np.dtype("i8")))
    first, second = labels(loader), labels(loader)
    assert first != second
    assert sorted(row for batch in second for row in batch) == list(range(ROWS))
    expected = epoch_order(ROWS, 10, 3, 0, (0, 1))
    assert [row for batch in first for row in batch] == expected.tolist()  # type: ignore[union-attr]

    once = Loader(client, "pairs", iter(DATA), batch_rows=8)
    assert once.element_spec is not None, "which must not use up the rows"
    assert [row for batch in labels(once) for row in batch] == list(range(ROWS))
    with pytest.raises(InputError, match="can be read only once"):
        list(once)


@pytest.mark.parametrize("kind", ["npy", "zarr"])
def test_rows_of_files_are_permuted(client: Client, system: System, kind: str) -> None:
    path = system.folder / "data" / f"rows.{kind}"
    if kind == "npy":
        np.save(path, DATA)
        source: Any = str(path)
    else:
        import zarr

        zarr.save(str(path), DATA)
        source = open_zarr(path)
    expected = from_memory(np.asarray(epoch_order(ROWS, True, 1, 0, (0, 1))), 16)
    assert_equal(list(Loader(client, "pairs", source, batch_rows=16, shuffle=True, seed=1)), expected)
    assert_equal(list(Loader(client, "pairs", source, batch_rows=16)), from_memory(np.arange(ROWS), 16))


def test_paths_are_permuted_and_text_comes_back(client: Client) -> None:
    paths = np.array([f"image {number}" for number in range(20)], object)
    loader = Loader(client, "texts", paths, batch_rows=6, shuffle=True)
    batches = list(loader)
    names = [name for batch in batches for name in batch["name"]]
    assert sorted(names) == sorted(path.upper() for path in paths)
    assert [float(size) for batch in batches for size in batch["size"]] == [len(name) for name in names]
    assert loader.element_spec["name"] == ArraySpec((None,), np.dtype(object))


@pytest.mark.parametrize("ordered", [False, True])
def test_each_row_comes_once_in_each_epoch_whoever_dies(client: Client, system: System, ordered: bool) -> None:
    loader = Loader(client, "paced", DATA, batch_rows=8, shuffle=True, ordered=ordered, chunk_rows=2)
    for _ in range(2):
        wait_until(lambda: sum(is_alive(slot.pid) for slot in system.slots()) == 2, "both children are up")
        batches = iter(loader)
        seen = labels([next(batches)])
        victim = system.slots()[0].pid
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda victim=victim: not is_alive(victim), "it is dead")  # type: ignore[misc]
        seen += labels(batches)
        assert sorted(row for batch in seen for row in batch) == list(range(ROWS))
        assert len(seen) == len(loader)
    loader.ledger.check()
    assert (loader.ledger.rows, loader.ledger.failed) == (2 * ROWS, 0)


def test_an_unordered_job_has_its_result_in_order(client: Client) -> None:
    job = client.submit("pairs", DATA, chunk_rows=3, ordered=False)
    result = job.result()
    assert isinstance(result, tuple)
    np.testing.assert_array_equal(result[1], np.arange(ROWS))


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("shuffle", [True, 9])
def test_rows_that_fail_are_missing_in_their_batches(
    client: Client, caplog: pytest.LogCaptureFixture, ordered: bool, shuffle: bool | int
) -> None:
    loader = Loader(client, "pairs", BAD, batch_rows=4, shuffle=shuffle, ordered=ordered, chunk_rows=6)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            batches = labels(loader)
            assert len(batches) == len(loader)
            assert sorted(row for batch in batches for row in batch) == sorted(set(range(ROWS)) - {3, 17, 18})
    told = [one.getMessage() for one in caplog.records if "rows failed" in one.getMessage()]
    assert [text.partition(": the first")[0].partition(", the first")[0] for text in told] == [
        f"step pairs, epoch {epoch}: 3 of 60 rows failed" for epoch in (0, 1)
    ]
    rows = [row for record in loader.failures() for row in range(record.start, record.stop)]
    assert sorted(set(rows)) == [3, 17, 18]
    assert "a bad row" in loader.failures()[0].text
    assert (loader.ledger.failed, loader.ledger.predicted) == (6, 114)
    loader.ledger.check()


def test_rows_that_fail_are_filled_or_end_the_epoch(client: Client) -> None:
    loader = Loader(client, "pairs", BAD, batch_rows=8, shuffle=True, on_error="fill")
    batches = list(loader)
    assert [len(batch[1]) for batch in batches] == [8] * 7 + [4]
    assert sum(int(np.isnan(batch[0]).all(axis=1).sum()) for batch in batches) == 3

    order = np.asarray(epoch_order(ROWS, True, 0, 0, (0, 1))).tolist()
    first = next(row for row in order if row in (3, 17, 18))
    loader = Loader(client, "pairs", BAD, batch_rows=8, shuffle=True, on_error="raise", chunk_rows=1)
    with pytest.raises(
        RowsFailedError, match=rf"step pairs, epoch 0: row {first} of the data set failed at infer: .*bad"
    ):
        list(loader)
    assert first in [record.start for record in loader.failures()]

    loader = Loader(client, "pairs", BAD, batch_rows=8, max_failed=2, chunk_rows=1)
    with pytest.raises(RowsFailedError, match=r"3 rows failed, at most 2 may \(max_failed\)"):
        list(loader)
    assert not job_threads()


def test_a_batch_of_which_every_row_failed_is_made_of_another(client: Client) -> None:
    data = DATA.copy()
    data[8:16, 0] = -1
    batches = labels(Loader(client, "pairs", data, batch_rows=8))
    assert [len(batch) for batch in batches] == [8, 4, 4, 8, 8, 8, 8, 4]


def test_batches_of_a_step_that_drops_rows_are_full(client: Client) -> None:
    loader = Loader(client, "good", BAD, batch_rows=8, chunk_rows=3)
    with pytest.raises(UnknownLengthError, match="step good drops rows on purpose"):
        len(loader)
    batches = labels(loader)
    assert [len(batch) for batch in batches] == [8] * 7 + [1]
    assert [row for batch in batches for row in batch] == sorted(set(range(ROWS)) - {3, 17, 18})


def test_outputs_that_change_their_form_are_one_clear_error(client: Client) -> None:
    loader = Loader(client, "changing", DATA, batch_rows=4, chunk_rows=4)
    told = r"step changing, rows 20 to 23 of the data set: output 'x' has rows of float64 \(\), .* had float32 \(\)"
    with pytest.raises(MessageError, match=told):
        list(loader)
    wanted = {"x": ArraySpec((None,), np.dtype("f8"))}
    with pytest.raises(MessageError, match="rows 0 to 3 of the data set: output 'x' has rows of float32"):
        list(Loader(client, "changing", DATA, batch_rows=4, chunk_rows=4, element_spec=wanted))
    assert not job_threads()


@pytest.mark.parametrize("end", ["close", "error", "forgotten", "loader", "interrupt"])
def test_a_loop_that_stops_in_the_middle_leaves_nothing(
    client: Client, system: System, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = system.folder / "gate"
    gate.unlink(missing_ok=True)
    large = np.repeat(DATA, 4_000, axis=1)  # so that rows are in spool files
    loader = Loader(client, "gated", large, batch_rows=4, chunk_rows=4, epochs=None)
    batches: Any = iter(loader)
    next(batches)
    assert job_threads()
    if end == "close":
        batches.close()
    elif end == "error":
        with suppress(ZeroDivisionError):
            for _ in batches:
                raise ZeroDivisionError
        del batches
    elif end == "forgotten":
        del batches
    elif end == "loader":
        loader.close()
        with pytest.raises(JobCancelledError):
            list(batches)
    else:
        # To this thread: one for the process may go to a thread that is awake, and leaves this one asleep.
        timer = threading.Timer(0.3, signal.pthread_kill, (threading.get_ident(), signal.SIGINT))
        unheard = threading.Timer(60.0, loader.close)
        timer.start()
        unheard.start()
        with pytest.raises(KeyboardInterrupt):
            list(batches)  # which waits for rows that do not come
        timer.join()
        unheard.cancel()
        del batches
    gate.touch()
    check_nothing_left(system)
    assert loader.ledger.rows == ROWS


EPOCHS = """
import psutil
from producer import Client, Loader
from tests.feeding import numbered_rows

with Client() as client:
    loader = Loader(client, "heavy", numbered_rows(200), batch_rows=16, epochs=20, shuffle=True)  # 12.5 MiB each
    for number, batch in enumerate(loader):
        assert batch.shape[1:] == (16384,)
        if number % 13 == 12:
            print(psutil.Process().memory_full_info().uss)
    assert len(client._jobs) <= 2
"""


def test_memory_does_not_grow_with_the_epochs(system: System) -> None:
    used = system.numbers_of(EPOCHS)
    assert len(used) == 20
    assert used[-1] < 1.25 * max(used[:6])


def test_what_waits_for_the_trainer_is_bounded(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.training.epoch.MAX_WAITING_BYTES", 2**20)  # 16 rows
    data = numbered_rows(400)
    loader = Loader(client, "heavy", data, batch_rows=4, chunk_rows=4)
    batches = iter(loader)
    next(batches)
    wait_until(lambda: loader._passes[0].job.progress().in_flight == 0, "no more chunks are sent")
    assert loader.ledger.chunks_sent < 50
    assert len(list(batches)) == 99


def test_two_iterations_at_a_time_are_two_epochs(client: Client) -> None:
    loader = Loader(client, "pairs", DATA, batch_rows=8, shuffle=True)
    both = list(zip(loader, loader, strict=True))
    for side in (0, 1):
        assert sorted(row for pair in both for row in pair[side][1].tolist()) == list(range(ROWS))
    assert [pair[0][1].tolist() for pair in both] != [pair[1][1].tolist() for pair in both]
    assert loader.epoch == 2


def test_what_cannot_be_is_refused_at_once(client: Client) -> None:
    with pytest.raises(UsageError, match="max_waiting_bytes is 0"):
        client.submit("pairs", DATA, max_waiting_bytes=0)
    for wanted, told in [
        ({"batch_rows": 0}, "batch_rows is 0"),
        ({"batch_rows": 1, "shuffle": -1}, "shuffle is -1"),
        ({"batch_rows": 1, "seed": -1}, "seed is -1"),
        ({"batch_rows": 1, "epochs": 0}, "epochs is 0"),
        ({"batch_rows": 1, "shard": (2, 2)}, r"shard is \(2, 2\)"),
        ({"batch_rows": 1, "on_error": "no"}, "on_error is 'no'"),
        ({"batch_rows": 1, "element_spec": 3}, "element_spec: the output is 3"),
    ]:
        with pytest.raises(UsageError, match=told):
            Loader(client, "pairs", DATA, **wanted)  # type: ignore[arg-type]
    with pytest.raises(UnknownModelError):
        Loader(client, "other", DATA, batch_rows=1)
    nothing = Loader(client, "pairs", DATA[:0], batch_rows=4, epochs=None)
    assert list(nothing) == []
    with pytest.raises(InputError, match="has no rows that would show what batches look like; give element_spec"):
        _ = nothing.element_spec


def test_the_first_row_may_fail(client: Client, tmp_path: Path) -> None:
    data = DATA.copy()
    data[:2, 0] = -1
    assert Loader(client, "pairs", data, batch_rows=4).element_spec[0] == ArraySpec((None, 4), np.dtype("f4"))
    data[:, 0] = -1
    with pytest.raises(
        RowsFailedError, match=r"the first rows of .* show no outputs of step pairs: .*; give element_spec"
    ):
        _ = Loader(client, "pairs", data, batch_rows=4).element_spec
