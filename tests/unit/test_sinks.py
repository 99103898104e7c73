"""Outputs on disk: complete under the final name, or not there at all."""

import os
import shutil
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from producer.rows.part import Part
from producer.sinks import open_sink
from producer.sinks.mending.read_back import OutputReader
from tasks.protocol.messages import FailureRecord
from tests.file_limits import files_limited_to
from tests.parts import split
from worker_config.errors import CeleriacError, MessageError, OutputError


def write(path: Path, outputs: Any, rows: int, force: bool = False) -> None:
    """Write whole outputs as one part."""
    with open_sink(path, rows, force) as sink:
        sink.write(Part(0, 0, rows, outputs))
        sink.commit()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(
    data=st.data(),
    rows=st.integers(0, 30),
    chunk_rows=st.integers(1, 12),
    dtype=st.sampled_from(["float32", "int64", "bool", "complex64", "U3", ">f4", "float16"]),
    row_shape=st.sampled_from([(), (3,), (2, 2), (0,)]),
)
def test_parts_in_any_order_become_the_file(
    tmp_path: Path, data: st.DataObject, rows: int, chunk_rows: int, dtype: str, row_shape: tuple[int, ...]
) -> None:
    whole = np.arange(rows * int(np.prod(row_shape))).reshape(rows, *row_shape).astype(dtype)
    parts = [Part(c.index, c.start, c.stop, whole[c.start : c.stop]) for c in split(rows, chunk_rows)]

    with open_sink(tmp_path / "out.npy", rows, force=True) as sink:
        for part in data.draw(st.permutations(parts)):
            sink.write(part)
        sink.commit()

    written = np.load(tmp_path / "out.npy")
    np.testing.assert_array_equal(written, whole)
    assert (written.dtype, written.shape) == (whole.dtype, whole.shape)
    assert names(tmp_path) == ["out.npy"]


def test_nested_outputs_go_flat_into_an_npz(tmp_path: Path) -> None:
    outputs = {"m": {"x": np.arange(6).reshape(3, 2), "y": np.array([True, False, True])}, "n": {"x": np.ones(3)}}

    with open_sink(tmp_path / "out.npz", 3, force=False) as sink:
        for start, stop in [(2, 3), (0, 2)]:
            rows = {m: {o: array[start:stop] for o, array in below.items()} for m, below in outputs.items()}
            sink.write(Part(start, start, stop, rows))
        sink.commit()

    with np.load(tmp_path / "out.npz") as archive:
        assert archive.files == ["m/x", "m/y", "n/x"]
        for model, below in outputs.items():
            for output, array in below.items():
                np.testing.assert_array_equal(archive[f"{model}/{output}"], array)
    assert names(tmp_path) == ["out.npz"]


def test_one_array_in_an_npz_is_named_as_numpy_names_it(tmp_path: Path) -> None:
    write(tmp_path / "out.npz", np.arange(3), 3)

    with np.load(tmp_path / "out.npz") as archive:
        assert archive.files == ["arr_0"]


@pytest.mark.parametrize("outputs", [{"y": np.arange(3)}, {"m": {"y": np.arange(3)}}])
def test_a_dict_of_one_output_may_go_into_an_npy(tmp_path: Path, outputs: Any) -> None:
    write(tmp_path / "out.npy", outputs, 3)

    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), np.arange(3))


def test_several_outputs_into_an_npy_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"2 outputs: x, m/y; use \.npz"):
        write(tmp_path / "out.npy", {"x": np.arange(3), "m": {"y": np.arange(3)}}, 3)
    assert names(tmp_path) == []


def test_two_outputs_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="same name"):
        write(tmp_path / "out.npz", {"m/y": np.arange(3), "m": {"y": np.arange(3)}}, 3)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_zero_rows_keep_dtype_and_row_shape(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"out{suffix}", np.empty((0, 10), np.float16), 0)

    loaded = np.load(tmp_path / f"out{suffix}")
    array = loaded if suffix == ".npy" else loaded["arr_0"]
    assert (array.shape, array.dtype) == ((0, 10), np.float16)
    if suffix == ".npz":
        loaded.close()


def test_rows_that_are_not_contiguous_are_written_right(tmp_path: Path) -> None:
    array = np.arange(24).reshape(4, 6)[::-1, ::2]

    write(tmp_path / "out.npy", array, 4)

    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), array)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array(["a", "b"], object), "strings.*pickle"),
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_dtypes_that_numpy_files_cannot_hold_are_refused(tmp_path: Path, suffix: str, array: Any, message: str) -> None:
    with pytest.raises(OutputError, match=f"output 'y' is.*{message.removeprefix('is ')}"):
        write(tmp_path / f"out{suffix}", {"y": array}, 2)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("dtype", "wide", "values", "filled"),
    [
        (ml_dtypes.bfloat16, np.float32, [0.5, -2, 3e38], np.nan),
        (ml_dtypes.float8_e5m2, np.float32, [0.5, -2, 57344], np.nan),
        (ml_dtypes.int4, np.int8, [-8, 7, 0], -1),
        (ml_dtypes.uint4, np.uint8, [15, 7, 0], 255),
    ],
)
@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".zarr"])
def test_dtypes_that_no_format_holds_are_written_as_wider_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str, dtype: Any, wide: Any, values: Any, filled: Any
) -> None:
    path, array = tmp_path / f"out{suffix}", np.array([*values, 0]).astype(dtype)
    lost = FailureRecord(3, 4, "infer", "ValueError", "lost")
    with open_sink(path, 4, force=False, mask=True) as sink:
        sink.write(Part(0, 0, 2, {"y": array[:2], "plain": np.arange(2)}))
        sink.write(Part(1, 2, 4, {"y": array[2:], "plain": np.arange(2)}, (lost,)))
        sink.commit()
        assert sink.fill
        assert sink.fill.values["y"] == ("NaN" if wide is np.float32 else filled)

    with OutputReader(path) as reader:
        found = reader.read(4)["y",]
    assert found.dtype == wide
    np.testing.assert_array_equal(found, np.array([*array[:3].astype(wide), filled], wide))
    (told,) = [record.getMessage() for record in caplog.records]
    assert told == (
        f"out{suffix}: output 'y' is {np.dtype(dtype)}, which {suffix} files cannot hold: it is written as "
        f"{np.dtype(wide)}, with the same values"
    )


def test_an_existing_output_needs_force(tmp_path: Path) -> None:
    path = tmp_path / "out.npy"
    path.write_bytes(b"precious")

    with pytest.raises(OutputError, match="exists; use --force"):
        open_sink(path, 3, force=False)
    assert path.read_bytes() == b"precious"

    write(path, np.arange(3), 3, force=True)
    assert len(np.load(path)) == 3


def test_the_old_output_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "out.npy"
    path.write_bytes(b"precious")

    with open_sink(path, 3, force=True) as sink:
        sink.write(Part(0, 0, 3, np.arange(3)))
        assert path.read_bytes() == b"precious"
        assert len(names(tmp_path)) == 2

    assert path.read_bytes() == b"precious"
    assert names(tmp_path) == ["out.npy"]


def test_the_temporary_file_lies_hidden_beside_the_output(tmp_path: Path) -> None:
    sink = open_sink(tmp_path / "out.npy", 3, force=False)

    (name,) = names(tmp_path)
    sink.abort()

    assert name.startswith(".out.npy.")
    assert name.endswith(".part")


def test_the_output_has_the_mode_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "other").touch()

    write(tmp_path / "out.npy", np.arange(3), 3)

    assert stat.S_IMODE((tmp_path / "out.npy").stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "out.npy").symlink_to(tmp_path / "real" / "x.npy")

    write(tmp_path / "out.npy", np.arange(3), 3)

    assert (tmp_path / "out.npy").is_symlink()
    assert names(tmp_path / "real") == ["x.npy"]


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_abort_removes_everything_and_may_come_twice(tmp_path: Path, suffix: str) -> None:
    sink = open_sink(tmp_path / f"out{suffix}", 3, force=False)
    sink.write(Part(0, 0, 2, {"y": np.arange(2)}))

    sink.abort()
    sink.abort()

    assert names(tmp_path) == []


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_an_exception_leaves_nothing_behind(tmp_path: Path, suffix: str) -> None:
    sink = open_sink(tmp_path / f"out{suffix}", 3, force=False)
    sink.write(Part(0, 0, 2, np.arange(2)))

    with pytest.raises(KeyboardInterrupt), sink:
        raise KeyboardInterrupt
    assert names(tmp_path) == []


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_an_incomplete_output_never_gets_its_name(tmp_path: Path, suffix: str) -> None:
    sink = open_sink(tmp_path / f"out{suffix}", 3, force=False)
    sink.write(Part(0, 0, 2, np.arange(2)))

    with pytest.raises(CeleriacError, match="2 of 3 rows"):
        sink.commit()
    assert names(tmp_path) == []


def test_an_output_without_any_part_is_refused(tmp_path: Path) -> None:
    sink = open_sink(tmp_path / "out.npy", 0, force=False)

    with pytest.raises(OutputError, match="no part came"):
        sink.commit()
    assert names(tmp_path) == []


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_part_unlike_the_first_one_is_refused_and_may_come_again(tmp_path: Path, suffix: str) -> None:
    with open_sink(tmp_path / f"out{suffix}", 4, force=False) as sink:
        sink.write(Part(0, 0, 2, np.zeros((2, 3), np.float32)))
        with pytest.raises(MessageError, match=r"chunk 1 .*float32 \(4,\), earlier ones had float32 \(3,\)"):
            sink.write(Part(1, 2, 4, np.zeros((2, 4), np.float32)))
        sink.write(Part(1, 2, 4, np.ones((2, 3), np.float32)))
        sink.commit()

    assert names(tmp_path) == [f"out{suffix}"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.txt", "use .npy or .npz"),
        ("out", r"\(none\).*use .npy or .npz"),
        ("missing/out.npy", "there is no folder .*missing; make it first"),
        ("file/out.npy", "there is no folder"),
        ("folder.npy", "is a folder"),
        ("pipe.npy", "not a regular file"),
        ("x" * 251 + ".npy", "File name too long"),
    ],
)
def test_what_cannot_be_written_is_refused_before_any_work(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.npy").mkdir()
    os.mkfifo(tmp_path / "pipe.npy")
    before = names(tmp_path)

    with pytest.raises(OutputError, match=message) as caught:
        open_sink(tmp_path / name, 3, force=True)

    assert "\n" not in str(caught.value)
    assert names(tmp_path) == before


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder where nobody may create files")
def test_a_folder_that_takes_no_files_is_refused() -> None:
    with pytest.raises(OutputError, match=r"/proc/out\.npy: cannot be written"):
        open_sink("/proc/out.npy", 3, force=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)

    with pytest.raises(OutputError, match="Permission denied"):
        open_sink(tmp_path / "out.npy", 3, force=False)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_too_little_room_is_an_error_at_the_first_part(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=2**30, free=2**20))

    with (
        pytest.raises(OutputError, match="the disk has 1 MiB free"),
        open_sink(tmp_path / f"out{suffix}", 2**20, force=False) as sink,
    ):
        sink.write(Part(0, 0, 1, np.zeros(1)))
    assert names(tmp_path) == []


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_disk_that_refuses_the_rows_is_one_line(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"

    with files_limited_to(4096), pytest.raises(OutputError, match="cannot be written: File too large") as caught:
        write(path, np.zeros(4096), 4096)

    assert str(caught.value).startswith(str(path))
    assert names(tmp_path) == []


def test_a_disk_that_refuses_the_zip_file_is_one_line(tmp_path: Path) -> None:
    outputs = {"x": np.zeros(400), "y": np.zeros(400)}  # each fits, both together do not

    with files_limited_to(4096), pytest.raises(OutputError, match="cannot be written"):
        write(tmp_path / "out.npz", outputs, 400)
    assert names(tmp_path) == []


def test_rows_that_could_not_be_written_are_not_counted(tmp_path: Path) -> None:
    sink = open_sink(tmp_path / "out.npz", 4096, force=False)

    with files_limited_to(4096), pytest.raises(OutputError):
        sink.write(Part(0, 0, 4096, np.zeros(4096)))
    with pytest.raises(CeleriacError, match="0 of 4096 rows"):
        sink.commit()
    assert names(tmp_path) == []
