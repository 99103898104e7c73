"""From every kind of data set to every kind of output: what one process gives for the same rows, in their order."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from producer import Client
from producer.broker.broker_channel import BrokerChannel
from producer.outputs.predict_to_sink import predict_to_sink
from producer.outputs.run_options import RunOptions
from producer.outputs.summary import PredictionFailedError
from producer.sinks import FORMATS, open_sink
from producer.sources import open_source
from tasks.protocol.messages import FileRef, PayloadRef, RedisRef
from tests.data_sets import KINDS, PIXELS, ROWS, expected_of, rows_of, write_parquet
from tests.sink_outputs import NAMELESS, READERS
from tests.systems import System

CHUNK_ROWS = 16


@pytest.fixture(scope="module")
def system(kinds_system: System) -> System:
    return kinds_system


@pytest.fixture(scope="module")
def client(system: System) -> Iterator[Client]:
    with Client(system.url, settings=system.settings(spool=system.folder / "spool")) as client:
        yield client


@pytest.fixture(scope="module")
def expected(system: System) -> Any:
    """What one process gives for a kind of data set; asked once for each model, unless rows differ."""
    known: dict[str, Any] = {}

    def of(name: str, data: object) -> Any:
        kind = KINDS[name]
        if name == "paths of files":  # they are in another folder each time
            return expected_of(kind, data, system.folder)
        if kind.model not in known:
            known[kind.model] = expected_of(kind, data, system.folder)
            for array in known[kind.model].values() if kind.model == "pair" else [known[kind.model]]:
                assert len(np.unique(array.round(4), axis=0)) > 0.9 * ROWS, "a row out of order would not be seen"
        return known[kind.model]

    return of


def check(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            check(found[name], expected[name])
    elif expected.dtype.kind == "f":
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_array_equal(found, expected)


def joined(rows: list[Any]) -> Any:
    """Predictions row by row as whole arrays."""
    if isinstance(rows[0], dict):
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return np.stack(rows)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("name", KINDS)
def test_every_source_goes_into_every_sink(
    client: Client, expected: Any, tmp_path: Path, name: str, suffix: str
) -> None:
    data, model = KINDS[name].make(tmp_path), KINDS[name].model
    (tmp_path / "out").mkdir()
    output = tmp_path / "out" / f"out{suffix}"
    source = open_source(data)
    with open_sink(output, source.rows, force=False) as sink:
        if (model, suffix) == ("pair", ".npy"):
            with pytest.raises(PredictionFailedError, match=r"there are 2 outputs: .*; use \.npz"):
                predict_to_sink(client, [model], source, sink, run=RunOptions(CHUNK_ROWS))
            return
        summary = predict_to_sink(client, [model], source, sink, run=RunOptions(CHUNK_ROWS, quiet=True))

    wanted = expected(name, data)
    found = READERS[suffix](output)  # which looks at the rows' numbers too
    [info] = client.describe([model])
    name = NAMELESS[suffix] if suffix in (".npy", ".zarr") else info.outputs[0].name
    check(found, wanted if isinstance(wanted, dict) else {name: wanted})
    assert {summary.ledger[what] for what in ("rows", "predicted", "written")} == {ROWS}


@pytest.mark.parametrize("chunk_rows", [1, None])
@pytest.mark.parametrize("name", KINDS)
def test_every_source_gives_a_result(
    client: Client, expected: Any, tmp_path: Path, name: str, chunk_rows: int | None
) -> None:
    data = KINDS[name].make(tmp_path)

    job = client.submit(KINDS[name].model, data, chunk_rows=chunk_rows)

    check(job.result(), expected(name, data))
    assert job.ledger.chunks_answered == (ROWS if chunk_rows else 1)
    job.ledger.check()


@pytest.mark.parametrize("name", KINDS)
def test_every_source_gives_parts_one_after_another(client: Client, expected: Any, tmp_path: Path, name: str) -> None:
    data = KINDS[name].make(tmp_path)

    parts = list(client.submit(KINDS[name].model, data, chunk_rows=CHUNK_ROWS).parts())

    starts = range(0, ROWS, CHUNK_ROWS)
    assert [(part.index, part.start, part.stop) for part in parts] == [
        (index, start, min(start + CHUNK_ROWS, ROWS)) for index, start in enumerate(starts)
    ]
    wanted = expected(name, data)
    for part in parts:
        rows = slice(part.start, part.stop)
        check(part.outputs, {key: a[rows] for key, a in wanted.items()} if isinstance(wanted, dict) else wanted[rows])


@pytest.mark.parametrize("name", KINDS)
def test_the_rows_of_every_source_can_be_streamed(client: Client, expected: Any, tmp_path: Path, name: str) -> None:
    data = KINDS[name].make(tmp_path)

    predictions = list(client.stream(KINDS[name].model, rows_of(data), chunk_rows=CHUNK_ROWS, max_delay=60))

    check(joined(predictions), expected(name, data))


@pytest.mark.parametrize("store", ["redis", "files"])
@pytest.mark.parametrize("name", KINDS)
def test_every_source_takes_every_way(
    client: Client, expected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, store: Any
) -> None:
    data = KINDS[name].make(tmp_path)
    monkeypatch.setattr("producer.broker.broker_channel.MAX_INLINE_BYTES", 0)  # small rows would ride in the message
    refs = seen_refs(monkeypatch)

    predictions = client.predict(KINDS[name].model, data, chunk_rows=CHUNK_ROWS, store=store)

    check(predictions, expected(name, data))
    assert {type(ref) for ref in refs} == {RedisRef if store == "redis" else FileRef}


@pytest.mark.parametrize("suffix", FORMATS)
def test_strings_go_into_the_sinks_that_can_hold_them(client: Client, tmp_path: Path, suffix: str) -> None:
    words = [f"née {row}" for row in range(ROWS)]
    shouts = [f"N\u00e9E {row}".encode() for row in range(ROWS)]  # TensorFlow's letters are those of ASCII
    assert list(np.asarray(client.predict("shouts", words, chunk_rows=CHUNK_ROWS))) == shouts
    source, output = open_source(words), tmp_path / f"out{suffix}"
    with open_sink(output, source.rows, force=False) as sink:
        if suffix in (".npy", ".npz", ".zarr"):
            with pytest.raises(PredictionFailedError, match=r"is (strings|bytes), which .*; use \.jsonl"):
                predict_to_sink(client, ["shouts"], source, sink, run=RunOptions(CHUNK_ROWS))
            return
        predict_to_sink(client, ["shouts"], source, sink, run=RunOptions(CHUNK_ROWS, quiet=True))

    held = [base64.b64encode(shout).decode() for shout in shouts] if suffix in (".jsonl", ".csv") else shouts
    [found] = READERS[suffix](output).values()
    assert list(found) == held


def no_records(folder: Path) -> Path:
    (folder / "none.tfrecord").touch()
    return folder / "none.tfrecord"


def no_columns(folder: Path) -> Path:
    write_parquet(folder / "none.parquet", slice(0, 0))
    return folder / "none.parquet"


@pytest.mark.parametrize(
    ("model", "make", "shapes"),
    [
        ("digits", lambda _: PIXELS[:0], {"output": (0, 10)}),
        ("digits", lambda _: iter(()), {"output": (0, 10)}),
        ("mean", lambda _: iter(()), {"output": (0, 3)}),
        ("texts", no_records, {"output": (0, 2)}),
        ("pair", no_columns, {"wide": (0, 6), "narrow": (0, 1)}),
    ],
    ids=["array", "generator", "generator of uneven rows", "tfrecord", "parquet"],
)
def test_no_rows_are_an_output_of_the_model_s_shape(
    client: Client, tmp_path: Path, model: str, make: Any, shapes: dict[str, tuple[int, ...]]
) -> None:
    source = open_source(make(tmp_path))
    with open_sink(tmp_path / "out.zarr", source.rows, force=False) as sink:
        predict_to_sink(client, [model], source, sink, run=RunOptions(quiet=True))

    assert {name: array.shape for name, array in READERS[".zarr"](tmp_path / "out.zarr").items()} == shapes


def test_a_file_of_rows_is_read_by_workers_alone(
    system: System, client: Client, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = KINDS["npy"].make(system.folder / "data")
    refs = seen_refs(monkeypatch)

    predictions = client.predict("digits", data, chunk_rows=CHUNK_ROWS, store="slices")

    check(predictions, expected("npy", data))
    assert refs == []


def seen_refs(monkeypatch: pytest.MonkeyPatch) -> list[PayloadRef]:
    """Where the producer put rows, from now on."""
    refs: list[PayloadRef] = []
    put = BrokerChannel.put

    def seen(channel: BrokerChannel, *words: Any, **more: Any) -> PayloadRef:
        refs.append(put(channel, *words, **more))
        return refs[-1]

    monkeypatch.setattr(BrokerChannel, "put", seen)
    return refs
