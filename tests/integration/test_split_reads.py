"""Data sets whose files workers read themselves: what comes out, what failed rows are called, and bad files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from producer import Client
from producer.sources import open_source
from producer.sources.formats.split_source import SplitSource
from tests.manifests import write_manifest
from tests.split_files import MODELS, ROWS, TABLE, WRITERS, digest, parquet_files, partitioned
from tests.systems import System, serving, shared_folders
from tests.waiting import wait_for_job, wait_until
from worker_config.errors import InputError, UsageError


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("s")
    (folder / "split_models.py").write_text(MODELS)
    models = {"seen": "split_models:seen", "odd": "split_models:odd"}
    with serving(folder, write_manifest(folder, models), environ=shared_folders(folder)) as system:
        yield system


@pytest.fixture
def data(system: System, request: pytest.FixtureRequest) -> Path:
    folder = system.folder / "data" / hashlib.sha256(request.node.name.encode()).hexdigest()[:8]
    folder.mkdir()
    return folder


@pytest.mark.parametrize("detached", [False, True], ids=["attached", "detached"])
@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_outputs_are_those_of_the_rows_that_its_library_reads(
    client: Client, data: Path, write: Callable[[Path], Any], detached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_here, take = set(), SplitSource.take_marked

    def noted(self: SplitSource, start: int, stop: int) -> Any:
        read_here.add((start, stop))
        return take(self, start, stop)

    monkeypatch.setattr(SplitSource, "take_marked", noted)
    path, values = write(data)
    if not {"null", "list_null"}.isdisjoint(values):  # rows with nulls have a test of their own
        values = {name: column for name, column in values.items() if not name.endswith("null")}
    options = {} if "" in values else {"columns": list(values)}
    source = open_source(path, **options, **({"contents": True} if path.name == "files" else {}))
    wanted = [digest(list(row)) for row in zip(*values.values(), strict=True)]
    if detached:
        outputs = client.attach(client.submit("seen", source, detach=True, store="slices", chunk_rows=170)).result()
    else:
        job = client.submit("seen", source, store="slices", chunk_rows=170)
        outputs = job.result()
    assert read_here == {(0, 1)}  # to see whether the model takes such rows
    assert isinstance(outputs, np.ndarray)
    assert outputs.tolist() == wanted


def test_a_row_with_a_null_fails_alone_and_is_called_by_file_and_row(client: Client, data: Path) -> None:
    path, _ = parquet_files(data)
    job = client.submit("seen", open_source(path, columns=["null", "text"]), store="slices", on_error="skip")
    wait_for_job(job)
    failed = {record.start: record for record in job.failures()}
    assert sorted(failed) == [row for row in range(ROWS) if row % 11 == 3]
    record = failed[300]  # 3 modulo 11
    assert (record.stage, record.value) == ("read", f"{path}/part-00001.parquet, row 130")
    assert f"{path}/part-00001.parquet: column 'null': row 130 is or holds null" in record.text
    here = client.submit("seen", open_source(path, columns=["null", "text"]), store="files", on_error="skip")
    wait_for_job(here)
    assert [(one.start, one.stage, one.text) for one in here.failures()] == [
        (one.start, one.stage, one.text) for one in job.failures()
    ]


def test_where_rows_may_not_fail_a_null_ends_the_job_as_when_it_is_sent(client: Client, data: Path) -> None:
    path, _ = parquet_files(data)
    texts = []
    for store in ("slices", "files"):
        job = client.submit("seen", open_source(path, columns=["whole", "null"]), store=store, chunk_rows=50)  # type: ignore[arg-type]
        with pytest.raises(InputError) as caught:
            job.result()
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
    assert texts[0].startswith(f"{path}/part-00000.parquet: column 'null': row 3 is or holds null")


def test_a_row_on_which_the_model_fails_is_called_by_file_and_row(client: Client, data: Path) -> None:
    path = data / "many"
    path.mkdir()
    for number in range(3):
        pq.write_table(pa.table({"whole": np.arange(100) + 100 * number}), path / f"part-{number}.parquet")
    job = client.submit("odd", path, store="slices", on_error="fill")
    wait_for_job(job)
    assert [(record.start, record.value) for record in job.failures()] == [
        (5, f"{path}/part-0.parquet, row 5"),
        (102, f"{path}/part-1.parquet, row 2"),
        (199, f"{path}/part-1.parquet, row 99"),
        (296, f"{path}/part-2.parquet, row 96"),
    ]


def test_a_job_continues_at_any_row(client: Client, data: Path) -> None:
    path, values = parquet_files(data)
    source = open_source(path, columns=["text", "number"])
    job = client.submit("seen", source, store="slices", first_row=777)
    wanted = [digest(list(row)) for row in zip(values["text"], values["number"], strict=True)]
    assert [one for part in job.parts() for one in part.outputs] == wanted[777:]  # type: ignore[union-attr]


def test_kept_columns_stand_beside_what_workers_read(client: Client, data: Path) -> None:
    path, _ = parquet_files(data)
    outputs: Any = client.predict(
        "seen", open_source(path, columns=["whole", "text"]), keep=["whole", "row"], store="slices"
    )
    assert outputs["whole"].tolist() == TABLE.column("whole").to_pylist()
    assert outputs["row"].tolist() == list(range(ROWS))


def test_what_folders_say_is_fed_to_models_and_kept(client: Client, data: Path) -> None:
    path, values = partitioned(data)
    source = open_source(path, columns=["text", "year"])
    outputs: Any = client.predict("seen", source, keep=["kind", "year", "row"], store="slices", chunk_rows=170)
    wanted = [digest(list(row)) for row in zip(values["text"], values["year"], strict=True)]
    assert outputs["output"].tolist() == wanted
    assert (outputs["kind"].tolist(), outputs["year"].tolist()) == (values["kind"], values["year"])
    assert outputs["row"].tolist() == list(range(ROWS))


@pytest.mark.parametrize("how", ["removed", "changed", "cut short"])
def test_a_file_that_goes_during_a_job_is_one_clear_error(client: Client, data: Path, how: str) -> None:
    path = data / "many"
    path.mkdir()
    for number in range(40):
        pq.write_table(
            pa.table({"x": np.random.default_rng(number).random(20_000)}), path / f"part-{number:02}.parquet"
        )
    last = path / "part-39.parquet"
    job = client.submit("seen", path, store="slices", chunk_rows=1_000)
    parts = job.parts()
    next(parts)
    if how == "removed":
        last.unlink()
    elif how == "changed":
        os.utime(last, ns=(1, 1))
    else:
        os.truncate(last, last.stat().st_size // 2)
    with pytest.raises(InputError) as caught:
        for _ in parts:
            pass
    text = {"removed": "no such file", "changed": "has changed since", "cut short": "has been cut short since"}[how]
    assert str(caught.value).startswith(str(last))
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    wait_for_job(job)


def test_files_that_workers_do_not_reach_are_sent(client: Client, system: System, data: Path, tmp_path: Path) -> None:
    path, values = parquet_files(tmp_path)
    source = open_source(path, columns=["text", "number"])
    with pytest.raises(UsageError, match="CELERIAC_DATA_ROOTS"):
        client.submit("seen", source, store="slices")
    (data / "link").symlink_to(path)
    with pytest.raises(UsageError, match="CELERIAC_DATA_ROOTS"):
        client.submit("seen", open_source(data / "link"), store="slices")
    job = client.submit("seen", source)
    wanted = [digest(list(row)) for row in zip(values["text"], values["number"], strict=True)]
    assert job.result().tolist() == wanted  # type: ignore[union-attr]


def test_a_worker_without_the_library_is_not_asked(client: Client, system: System, data: Path) -> None:
    import msgspec

    from producer.scheduling.payload_route import choose_store

    path, _ = parquet_files(data)
    slots = wait_until(system.slots, "the slots are there")
    settings = system.settings(spool=system.folder / "spool")
    assert choose_store(open_source(path), slots, settings, None)[0] == "slices"
    poor = [msgspec.structs.replace(slots[0], reads=["csv"]), *slots[1:]]
    assert choose_store(open_source(path), poor, settings, None)[0] == "files"
    lacks = rf"not every worker has the library that reads parquet \({slots[0].worker}; pip install 'celeriac\[parquet"
    with pytest.raises(UsageError, match=lacks):
        choose_store(open_source(path), poor, settings, "slices")
