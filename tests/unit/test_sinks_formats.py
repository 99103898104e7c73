"""What one format does and the others do not."""

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow.feather
import pyarrow.parquet
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from producer.rows.part import Part
from producer.sinks import open_sink
from tasks.outputs import arrow as arrow_module
from tasks.outputs import zarr as zarr_module
from tests.sink_outputs import BARE, BYTES, MODELS, ROWS, assert_holds, names, parts_of, read_parquet, write
from worker_config.errors import ConfigError, OutputError


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(
    singles=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20),
    doubles=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20),
)
def test_json_floats_are_exact(tmp_path: Path, singles: list[float], doubles: list[float]) -> None:
    rows = min(len(singles), len(doubles))
    outputs = {"single": np.array(singles[:rows], np.float32), "double": np.array(doubles[:rows])}

    write(tmp_path / "out.jsonl", outputs, rows, force=True)

    lines = lines_of(tmp_path / "out.jsonl")
    assert [line["double"] for line in lines] == doubles[:rows]
    assert [line["single"] for line in lines] == singles[:rows]


def test_json_has_null_for_what_is_not_finite_and_base64_for_bytes(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    outputs = {"y": np.array([[np.nan, np.inf], [-np.inf, 0.5]]), "raw": np.array([b"\x00\xff", b""], object)}

    write(path, outputs, 2)

    assert path.read_text() == '{"row":0,"y":[null,null],"raw":"AP8="}\n{"row":1,"y":[null,0.5],"raw":""}\n'
    assert base64.b64decode(lines_of(path)[0]["raw"]) == b"\x00\xff"


def test_json_rows_of_a_bare_output_and_of_several_models(tmp_path: Path) -> None:
    write(tmp_path / "bare.jsonl", np.array([1, 2]), 2)
    write(tmp_path / "models.jsonl", MODELS, ROWS)

    assert lines_of(tmp_path / "bare.jsonl") == [{"row": 0, "output": 1}, {"row": 1, "output": 2}]
    assert list(lines_of(tmp_path / "models.jsonl")[0]) == ["row", "digits/scores", "digits/label", "letters/scores"]


@pytest.mark.parametrize(
    ("name", "outputs", "message"),
    [
        ("out.jsonl", {"y": np.zeros(2, complex)}, "output 'y' is complex128, which JSON cannot hold; use .npy"),
        ("out.jsonl", {"y": np.array(["\ud800", ""], object)}, "rows 0-2 have a value that is no JSON: .*surrogates"),
        ("out.jsonl", {"row": np.zeros(2)}, "an output is named 'row'.*rename"),
        ("out.parquet", {"row": np.zeros(2)}, "an output is named 'row'.*rename"),
        ("out.parquet", {"y": np.zeros(2, complex)}, "output 'y' is complex128, which Parquet cannot hold"),
        ("out.parquet", {"y": np.zeros((2, 0))}, r"output 'y' is rows of float64 \(0,\), which Parquet cannot hold"),
        ("out.parquet", {"y": np.array(["\ud800", ""], object)}, "output 'y' of rows 0-2 is not string"),
        ("out.zarr", {"y": np.array([b"a", b"b"], object)}, "output 'y' is bytes, which Zarr has no lasting form for"),
        ("out.zarr", {"a": np.zeros(2), "a/b": np.zeros(2)}, "output 'a/b' cannot be the name of a Zarr array"),
        ("out.zarr", {"..": np.zeros(2)}, r"output '\.\.' cannot be the name of a Zarr array"),
        ("out.zarr", {"zarr.json": np.zeros(2)}, "output 'zarr.json' cannot be"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_by_name(tmp_path: Path, name: str, outputs: Any, message: str) -> None:
    with pytest.raises(OutputError, match=message) as caught:
        write(tmp_path / name, outputs, 2)

    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []


def test_json_holds_every_number_of_tensorflow(tmp_path: Path) -> None:
    outputs = {"half": np.array([0.5, -2], ml_dtypes.bfloat16), "tiny": np.array([-8, 7], ml_dtypes.int4)}

    write(tmp_path / "out.jsonl", outputs, 2)

    assert (tmp_path / "out.jsonl").read_text().startswith('{"row":0,"half":0.5,"tiny":-8}\n')


def test_zarr_strings_that_turn_into_bytes_are_refused(tmp_path: Path) -> None:
    with open_sink(tmp_path / "out.zarr", 2, force=False) as sink:
        sink.write(Part(0, 0, 1, np.array(["a"], object)))
        with pytest.raises(OutputError, match="the output of rows 1-2 is not all strings"):
            sink.write(Part(1, 1, 2, np.array([b"b"], object)))


def test_zarr_takes_rows_of_no_size(tmp_path: Path) -> None:
    write(tmp_path / "out.zarr", np.zeros((ROWS, 0)), ROWS)

    assert_holds(tmp_path / "out.zarr", np.zeros((ROWS, 0)))


def test_parquet_holds_bytes(tmp_path: Path) -> None:
    write(tmp_path / "out.parquet", BYTES, None)

    assert_holds(tmp_path / "out.parquet", BYTES)


def test_parquet_columns_have_fixed_types(tmp_path: Path) -> None:
    outputs = {"label": np.arange(2, dtype=np.uint8), "v": np.zeros((2, 3), np.float16), "m": np.zeros((2, 2, 3))}

    write(tmp_path / "out.parquet", outputs, 2)

    schema = pyarrow.parquet.read_schema(tmp_path / "out.parquet")
    assert [str(field.type) for field in schema][:2] == ["int64", "uint8"]
    assert [field.type.list_size for field in list(schema)[2:]] == [3, 6]
    assert schema.field("m").metadata[b"shape"] == b"[2, 3]"


def test_parquet_row_groups_have_one_size_whatever_the_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_module, "ROW_GROUP_BYTES", 10 * 16)
    outputs = np.arange(100)

    for chunk_rows in (3, 10, 60):
        with open_sink(tmp_path / "out.parquet", 100, force=True) as sink:
            for part in parts_of(outputs, chunk_rows):
                sink.write(part)
            sink.commit()
        metadata = pyarrow.parquet.read_metadata(tmp_path / "out.parquet")
        groups = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        assert all(8 <= rows <= 12 for rows in groups[:-1])
        np.testing.assert_array_equal(read_parquet(tmp_path / "out.parquet")["output"], outputs)


@pytest.mark.parametrize("rows", [100, None])
def test_zarr_chunks_and_parts_need_not_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int | None
) -> None:
    monkeypatch.setattr(zarr_module, "ZARR_CHUNK_BYTES", 7 * 8)
    outputs = {"m": {"y": np.arange(100), "zero": np.zeros((100, 2))}}

    with open_sink(tmp_path / "out.zarr", rows, force=False) as sink:
        for part in parts_of(outputs, 5):
            sink.write(part)
        sink.commit()

    assert_holds(tmp_path / "out.zarr", outputs)
    group = zarr.open_group(str(tmp_path / "out.zarr"), mode="r")
    assert group.metadata.zarr_format == 3
    assert group["m/y"].chunks == (4,)


@pytest.mark.parametrize(
    ("rows", "wide", "flag"), [(None, 128, 512), (1_000, 128, 512), (300, 128, 300), (3, 3, 3), (0, 1, 1)]
)
def test_zarr_chunks_are_whole_in_a_block_of_rows(tmp_path: Path, rows: int | None, wide: int, flag: int) -> None:
    """Of 16 MiB at most: 512 rows of these; Zarr chunks have 4 MiB at most."""
    outputs = {"wide": np.zeros((rows or 0, 5_000), np.float32), "flag": np.zeros(rows or 0, np.bool_)}

    write(tmp_path / "out.zarr", outputs, rows)

    group = zarr.open_group(str(tmp_path / "out.zarr"), mode="r")
    assert (group["wide"].chunks, group["flag"].chunks) == ((wide, 5_000), (flag,))  # type: ignore[union-attr]


def test_zarr_takes_parts_in_any_order_where_rows_are_known(tmp_path: Path) -> None:
    with open_sink(tmp_path / "out.zarr", ROWS, force=False) as sink:
        for part in reversed(parts_of(BARE)):
            sink.write(part)
        sink.commit()

    assert_holds(tmp_path / "out.zarr", BARE)


def test_zarr_never_removes_a_folder_that_is_no_store(tmp_path: Path) -> None:
    path = tmp_path / "out.zarr"
    path.mkdir()
    (path / "thesis.tex").touch()

    with pytest.raises(OutputError, match="exists and is no Zarr store; choose another name"):
        open_sink(path, 3, force=True)
    assert names(path) == ["thesis.tex"]


@pytest.mark.parametrize(("name", "library"), [("out.parquet", "pyarrow"), ("out.zarr", "zarr")])
def test_a_missing_library_is_named_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)

    with pytest.raises(ConfigError, match=rf"pip install 'celeriac\[{name.removeprefix('out.')}\]'$") as caught:
        open_sink(tmp_path / name, 3, force=False)
    assert f"needs {library}" in str(caught.value)
    assert names(tmp_path) == []


def test_the_libraries_are_imported_only_when_they_are_needed() -> None:
    program = "import sys, producer.sinks; print(sorted({'pyarrow', 'zarr'} & sys.modules.keys()))"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


def test_a_part_larger_than_a_row_group_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_module, "ROW_GROUP_BYTES", 100)

    with open_sink(tmp_path / "out.parquet", None, force=False) as sink:
        sink.write(Part(0, 0, 100, np.arange(100)))
        sink.commit()

    assert pyarrow.parquet.read_metadata(tmp_path / "out.parquet").num_row_groups > 10


@pytest.mark.parametrize("suffix", [".feather", ".parquet"])
@pytest.mark.parametrize("shape", [(), (2, 3)])
@pytest.mark.parametrize("dtype", ["int16", ">f4", "float64", "bool"])
def test_a_file_has_zeros_below_its_nulls(tmp_path: Path, suffix: str, shape: tuple[int, ...], dtype: str) -> None:
    nulls = np.broadcast_to((np.arange(ROWS) % 3 == 1).reshape(-1, *[1] * len(shape)), (ROWS, *shape))
    values = np.ones((ROWS, *shape), dtype)
    written = []
    for below in (1, 0):
        path = tmp_path / f"{below}{suffix}"
        write(path, {"n": np.ma.array(np.where(nulls, np.array(below, dtype), values), mask=nulls)}, ROWS)
        written.append(path.read_bytes())
    assert written[0] == written[1]
    if suffix == ".feather":
        column = pyarrow.feather.read_table(tmp_path / f"1{suffix}")["n"].combine_chunks()
        flat = column.flatten() if shape else column
        assert flat.null_count == nulls.sum()
        below_nulls = pyarrow.Array.from_buffers(flat.type, len(flat), [None, flat.buffers()[1]]).to_numpy(False)
        np.testing.assert_array_equal(below_nulls, np.where(nulls, 0, values).ravel())
