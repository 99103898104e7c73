"""Opening a data set, from memory and from files."""

import datetime
import os
import tracemalloc
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from producer.sources import from_arrays, open_file
from tasks.datasets.objects import odd_texts
from tasks.outputs.row_spec import RowSpec
from worker_config.errors import InputError, UsageError


def npy_bytes(path: Path, array: Any) -> bytes:
    np.save(path, array)
    return path.read_bytes()


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_file(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    return text


class TestMemory:
    def test_an_array_is_rows_without_a_copy(self) -> None:
        data = np.arange(12, dtype=np.float32).reshape(4, 3)

        source = from_arrays(data)

        assert (source.rows, source.row_bytes, source.label) == (4, 12, "array (4, 3) float32")
        assert source.specs == {"": RowSpec(np.dtype("float32"), (3,))}
        assert source.path is None
        part = source.take(1, 3)
        assert isinstance(part, np.ndarray)
        assert np.shares_memory(part, data)
        np.testing.assert_array_equal(part, data[1:3])

    def test_a_dict_keeps_its_names(self) -> None:
        source = from_arrays({"image": np.zeros((2, 4), np.uint8), "age": [1.5, 2.5]})

        assert (source.rows, source.row_bytes) == (2, 12)
        assert source.label == "image (2, 4) uint8, age (2,) float64"
        assert source.specs == {"image": RowSpec(np.dtype("uint8"), (4,)), "age": RowSpec(np.dtype("float64"), ())}
        np.testing.assert_equal(source.take(1, 2), {"image": np.zeros((1, 4), np.uint8), "age": np.array([2.5])})

    def test_a_tuple_stays_a_tuple(self) -> None:
        source = from_arrays((np.zeros((2, 1)), np.ones(2)))

        part = source.take(0, 1)

        assert isinstance(part, tuple)
        assert [array.shape for array in part] == [(1, 1), (1,)]
        assert list(source.specs) == ["0", "1"]

    def test_foreign_arrays_come_by_their_own_method(self) -> None:
        class Foreign:
            def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
                return np.array([[1, 2]])

        assert from_arrays(Foreign()).specs[""].shape == (2,)

    def test_zero_rows_are_a_data_set(self) -> None:
        source = from_arrays(np.empty((0, 8), np.float32))

        assert (source.rows, source.row_bytes) == (0, 32)
        assert source.take(0, 0).shape == (0, 8)  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        "data",
        [
            np.asfortranarray(np.arange(6, dtype=np.float32).reshape(3, 2)),
            np.arange(6).reshape(3, 2)[::-1],
            np.arange(6, dtype=">i4").reshape(3, 2),
        ],
    )
    def test_rows_come_in_c_order_and_native_bytes(self, data: Any) -> None:
        source = from_arrays(data)

        part = source.take(0, 3)

        assert isinstance(part, np.ndarray)
        assert part.flags.c_contiguous
        assert part.dtype.isnative
        assert part.dtype == source.specs[""].dtype
        np.testing.assert_array_equal(part, data)

    @pytest.mark.parametrize("data", [["a", "bc"], np.array([b"a", b"bc"]), np.array(["a", "bc"], object)])
    def test_text_comes_as_objects(self, data: Any) -> None:
        source = from_arrays(data)

        part = source.take(0, 2)

        assert isinstance(part, np.ndarray)
        assert source.specs[""] == RowSpec(np.dtype(object), ())
        assert part.dtype == object
        assert part.tolist() == list(data)

    @pytest.mark.parametrize("data", [[b"a\0", b"\0"], ["a\0", "\0"], [["a\0"], ["b"]]])
    def test_text_keeps_its_trailing_zeros(self, data: list[Any]) -> None:
        assert from_arrays(data).take(0, 2).tolist() == data  # type: ignore[union-attr]

    def test_the_bytes_of_strings_are_estimated(self) -> None:
        source = from_arrays(np.array([b"x" * 1000, b""] * 5000, object).reshape(5000, 2))

        assert 500 <= source.row_bytes <= 2000

    def test_long_strings_of_any_width_are_taken(self) -> None:
        texts = ["", "a" * 16, "é" * 300]
        source = from_arrays(np.array(texts, np.dtypes.StringDType()))
        assert source.row_bytes > 16
        assert source.take(1, 3).tolist() == texts[1:]
        assert source.take(1, 3).dtype == object

    def test_bfloat16_is_welcome(self) -> None:
        assert from_arrays(np.zeros(3, ml_dtypes.bfloat16)).specs[""].dtype == ml_dtypes.bfloat16

    @pytest.mark.parametrize("rows", [(-1, 2), (2, 1), (0, 5)])
    def test_rows_that_are_not_there_are_refused(self, rows: tuple[int, int]) -> None:
        with pytest.raises(InputError, match="there are 4"):
            from_arrays(np.zeros(4)).take(*rows)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ([[1, 2], [3]], "cannot become an array"),
            ({"a": [[1, 2], [3]]}, "input 'a': cannot become an array"),
            (["a", 1], "holds a int"),
            ([["a"], ["b", "c"]], "holds a list"),
            (5, "is one int, not rows"),
            (None, "is one NoneType, not rows"),
            ("images.npy", "is one str, not rows"),
            ((row for row in [1, 2]), "is one generator, not rows"),
            ((1.0, 2.0), r"input 0: is one float, not rows.*tuple means several inputs"),
            (np.array(3), "not rows"),
            ({}, "holds no arrays"),
            ((), "holds no arrays"),
            ({1: np.zeros(2)}, "1 is none"),
            ({"a": np.zeros(3), "b": np.zeros((4, 2))}, "'a' has 3, 'b' has 4"),
            ((np.zeros(3), np.zeros(4)), "'0' has 3, '1' has 4"),
            (np.zeros(2, [("a", "f4,i4")]), "structured"),
            (np.zeros(2, "datetime64[s]"), "is a time"),
        ],
    )
    def test_what_is_no_data_set_is_refused(self, data: object, message: str) -> None:
        with pytest.raises(InputError, match=message):
            from_arrays(data)

    @pytest.mark.parametrize(
        ("values", "held", "remedy"),
        [
            (
                [Decimal(1), None, Decimal(3)],
                "2 Decimal, 1 NoneType, the first missing value in row 1",
                "as with .astype('float64'), in which",
            ),
            ([2**53 + 1, 2.5], "1 int, 1 float", "make it numbers of one dtype, as with .astype"),
            ([2**63 + 1, -1], "2 int", "make it numbers of one dtype, as with .astype"),
            ([True, 2], "1 bool, 1 int", "make it numbers of one dtype, as with .astype"),
            ([None, None], "2 NoneType, the first missing value in row 0", "it has no value at all: leave it out"),
            ([datetime.date(2020, 1, 1), None], "1 date, 1 NoneType", "convert the times to numbers"),
            ([np.zeros(2), np.zeros(3)], "2 ndarray", "make them numbers of one shape"),
            ([[2**53 + 1, 1], [0.5, 1]], "2 list", "make them numbers of one shape"),
            ([{}, 1], "1 dict, 1 int", "convert it to numbers or texts"),
        ],
    )
    def test_objects_that_are_no_texts_are_named_with_their_remedy(self, values: Any, held: str, remedy: str) -> None:
        column = np.empty(len(values), object)
        column[:] = values
        with pytest.raises(InputError) as caught:
            from_arrays({"age": column})
        text = str(caught.value)
        assert text.startswith(f"input 'age': is an array of Python objects ({held}")
        assert remedy in text

    @pytest.mark.parametrize(
        ("column", "values", "nulls"),
        [
            ([1, None, 3], [1, 0, 3], [1]),
            (np.array([2**60 + 1, None], object), [2**60 + 1, 0], [1]),
            (np.array([None, 2.5, np.int8(3), np.nan], object), [0, 2.5, 3, np.nan], [0]),
            (np.array([True, None], object), [True, False], [1]),
            (np.array([[1, 2], [None, 4]], object), [[1, 2], [0, 4]], [1]),
            (np.array([[1, 2], None, [3.5, 4]], object), [[1, 2], [0, 0], [3.5, 4]], [1]),
            (["a", None, "c"], ["a", "", "c"], [1]),
            (np.array(["a", np.nan, None], object), ["a", "", ""], [1, 2]),
            (np.ma.masked_equal([[1, 2], [3, 4]], 3), [[1, 2], [3, 4]], [1]),
        ],
    )
    def test_rows_that_are_or_hold_null_are_marked(self, column: Any, values: list[Any], nulls: list[int]) -> None:
        source = from_arrays({"age": column, "n": np.arange(len(column))})

        found: Any = source.take_marked(0, len(column))

        np.testing.assert_array_equal(found.rows["age"], values)
        wanted = "O" if isinstance(values[0], str) else np.array(values).dtype.kind
        assert found.rows["age"].dtype.kind == wanted
        assert sorted(found.unfed) == nulls
        text = f"column 'age': row {nulls[0]} is or holds null; fill nulls before, or leave the column out"
        assert found.unfed[nulls[0]] == text
        picked: Any = source.pick(np.array([nulls[0], 0 if nulls[0] else len(column) - 1]))
        assert picked.unfed == {0: text}
        with pytest.raises(InputError, match=rf"^{text}, or let such rows fail \(on_error is 'raise'\)$"):
            source.take(0, len(column))
        assert list(source.only(["n"]).take(0, 2)) == ["n"]
        assert sorted(source.only(["age"]).take_marked(0, len(column)).unfed) == nulls  # type: ignore[union-attr]

    def test_objects_that_no_model_takes_are_left_alone_beside_columns_that_one_takes(self) -> None:
        table = from_arrays({"x": np.zeros(2), "what": np.array([{}, None], object)}).table

        assert table is not None
        assert (table.names, table.others) == (["x"], {"what": "object"})
        with pytest.raises(InputError, match=r"input 'what': is an array of Python objects \(1 dict, 1 NoneType"):
            table.only(["what"])

    def test_texts_with_others_among_them_are_rows_of_which_some_are_marked(self) -> None:
        values = ["a", None, b"b", float("nan"), 3, "\ud800"]
        rows = from_arrays({"city": np.array(values, object), "n": np.arange(6)}).take_marked(0, 6)

        odd: Any = odd_texts(rows)

        missing = "is or holds null; fill nulls before, or leave the column out"
        assert odd.unfed == {
            1: f"column 'city': row 1 {missing}",
            3: f"column 'city': row 3 {missing}",
            4: "input 'city' is of type int, not a text",
            5: "input 'city' is a text with a lone surrogate, which has no UTF-8; give bytes",
        }
        assert odd.rows["city"].tolist() == ["a", "", b"b", "", "", ""]
        assert values[1] is None
        assert odd_texts({"n": np.arange(2)}) == {"n": pytest.approx(np.arange(2))}

    def test_a_foreign_array_that_fails_is_one_line(self) -> None:
        class Broken:
            def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
                raise RuntimeError("call\n  detach() first")

        with pytest.raises(InputError, match=r"cannot become an array: call detach\(\) first"):
            from_arrays(Broken())


class TestNpy:
    def test_a_file_is_not_read_until_it_is_sliced(self, tmp_path: Path) -> None:
        data = np.arange(12, dtype=np.float32).reshape(4, 3)
        np.save(tmp_path / "images.npy", data)

        source = open_file(tmp_path / "images.npy")

        assert isinstance(source.data, np.memmap)
        assert (source.rows, source.row_bytes, source.label) == (4, 12, "images.npy")
        assert source.path == tmp_path / "images.npy"
        part = source.take(1, 4)
        assert isinstance(part, np.ndarray)
        np.testing.assert_array_equal(part, data[1:4])

    def test_a_file_that_shrinks_after_it_was_opened_is_an_error_and_no_death(self, tmp_path: Path) -> None:
        np.save(tmp_path / "images.npy", np.zeros((4, 3_000), np.float32))
        source = open_file(tmp_path / "images.npy")
        os.truncate(tmp_path / "images.npy", 1_000)

        with pytest.raises(InputError, match=r"images\.npy: has been cut short since it was opened; rows 1-4"):
            source.take(1, 4)

    @pytest.mark.parametrize("suffix", [".npy", ".npz"])
    def test_a_file_that_changes_after_it_was_opened_is_refused(self, tmp_path: Path, suffix: str) -> None:
        path, other = tmp_path / f"images{suffix}", tmp_path / f"other{suffix}"
        for number, name in enumerate((path, other)):
            rows = np.full((4, 2**20 + 1), number, np.float32)  # mapped in an .npz too
            np.save(name, rows) if suffix == ".npy" else np.savez(name, x=rows)
        os.utime(other, ns=(0, 0))  # two writes may fall into one tick of the clock
        source = open_file(path)
        taken = source.take(0, 1)
        assert np.all((taken["x"] if isinstance(taken, dict) else taken) == 0)

        other.replace(path)  # as large, and no less a data set
        with pytest.raises(InputError, match=r"images\.np[yz]: has changed since it was opened; rows 1-2 may be"):
            source.take(1, 2)

    @pytest.mark.parametrize("shape", [(0, 3), (4, 0), (0,)])
    def test_a_file_without_values_is_read(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        np.save(tmp_path / "none.npy", np.empty(shape, np.int16))

        source = open_file(str(tmp_path / "none.npy"))

        assert source.rows == shape[0]
        assert source.specs[""] == RowSpec(np.dtype("int16"), shape[1:])
        assert source.path is None

    @pytest.mark.parametrize(
        "data",
        [
            np.asfortranarray(np.arange(6.0).reshape(3, 2)),
            np.arange(6, dtype=">f4").reshape(3, 2),
            np.array(["a", "bc"]),
        ],
    )
    def test_a_file_whose_bytes_are_not_what_is_taken_has_no_path(self, tmp_path: Path, data: Any) -> None:
        np.save(tmp_path / "x.npy", data)

        source = open_file(tmp_path / "x.npy")

        assert source.path is None
        np.testing.assert_array_equal(source.take(0, len(data)), data)

    def test_raw_bytes_are_read_as_the_dtype_that_is_named(self, tmp_path: Path) -> None:
        array = np.array([[0.5, -2], [3e38, 0]], ml_dtypes.bfloat16)
        np.save(tmp_path / "x.npy", array)

        with pytest.raises(InputError, match=r"x.npy: its dtype .V2 is raw bytes, .* \(--dtype bfloat16\), or save"):
            open_file(tmp_path / "x.npy")
        source = open_file(tmp_path / "x.npy", dtype="bfloat16")

        assert source.path == tmp_path / "x.npy"
        assert source.specs == {"": RowSpec(array.dtype, (2,))}
        np.testing.assert_array_equal(source.take(1, 2), array[1:])
        with pytest.raises(InputError, match="holds no raw bytes of 1 each that could be int4; leave out the dtype"):
            open_file(tmp_path / "x.npy", dtype="int4")
        with pytest.raises(UsageError, match="dtype is 'float32', for raw bytes in a NumPy file; give one of bfloat16"):
            open_file(tmp_path / "x.npy", dtype="float32")

    @pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
    def test_every_format_version_is_read(self, tmp_path: Path, version: tuple[int, int]) -> None:
        with (tmp_path / "x.npy").open("wb") as stream:
            np.lib.format.write_array(stream, np.arange(3), version=version)

        assert open_file(tmp_path / "x.npy").rows == 3

    def test_a_cut_file_is_refused_with_its_sizes(self, tmp_path: Path) -> None:
        path = tmp_path / "cut.npy"
        path.write_bytes(npy_bytes(path, np.zeros(100))[:-1])

        assert "cut short: 927 bytes of 928" in refused(path)

    @pytest.mark.parametrize("length", [3, 6, 7, 9, 20, 100])
    def test_a_file_cut_in_its_header_is_refused(self, tmp_path: Path, length: int) -> None:
        path = tmp_path / "cut.npy"
        path.write_bytes(npy_bytes(path, np.zeros(100))[:length])

        assert "again" in refused(path) or "is not a NumPy array" in refused(path)

    @pytest.mark.parametrize(
        ("content", "cause"),
        [
            (b"", "empty (0 bytes)"),
            (b"hello, world", "is not a NumPy array"),
            (b"\x93NUMPY\x09\x09" + b"x" * 100, "unknown format version"),
            (b"\x93NUMPY\x01\x00\x10\x00" + b"((((((((((((((((", "damaged"),
            (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}", "damaged"),
        ],
    )
    def test_what_is_no_npy_file_is_refused(self, tmp_path: Path, content: bytes, cause: str) -> None:
        (tmp_path / "x.npy").write_bytes(content)

        assert cause in refused(tmp_path / "x.npy")

    @pytest.mark.parametrize("shape", ["(-1,)", "(0, -3)", f"(0, {2**62})", f"({2**70},)", "5", "(1.5,)"])
    def test_an_impossible_shape_is_refused(self, tmp_path: Path, shape: str) -> None:
        header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
        content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
        (tmp_path / "x.npy").write_bytes(content)

        assert "again" in refused(tmp_path / "x.npy")

    def test_pickled_objects_are_refused(self, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", np.array([{}, "a"], object))

        assert "save it as a numeric or string array" in refused(tmp_path / "x.npy")

    @pytest.mark.parametrize(
        ("array", "cause"),
        [
            (np.array(1.0), "is one value"),
            (np.zeros(2, [("a", "f4,i4")]), "structured"),
            (np.zeros(2, ml_dtypes.bfloat16).view("V2"), "raw bytes"),
        ],
    )
    def test_arrays_that_are_no_rows_are_refused(self, tmp_path: Path, array: Any, cause: str) -> None:
        np.save(tmp_path / "x.npy", array)

        assert cause in refused(tmp_path / "x.npy")


class TestNpz:
    @pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.int4])
    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_raw_bytes_are_what_the_caller_says(self, tmp_path: Path, save: Any, dtype: Any) -> None:
        array = np.arange(6).astype(dtype).reshape(3, 2)
        save(tmp_path / "x.npz", a=array, b=np.arange(3))

        rows: Any = open_file(tmp_path / "x.npz", dtype=np.dtype(dtype).name).take(1, 3)

        assert (rows["a"].dtype, rows["b"].dtype) == (array.dtype, np.int64)
        np.testing.assert_array_equal(rows["a"], array[1:])

    def test_arrays_come_by_name(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", a=np.arange(3), b=np.ones((3, 2), np.float32))

        source = open_file(tmp_path / "x.npz")

        assert (source.rows, source.label, source.path) == (3, "x.npz", None)
        np.testing.assert_equal(source.take(1, 2), {"a": np.array([1]), "b": np.ones((1, 2), np.float32)})

    def test_one_array_stays_a_dict(self, tmp_path: Path) -> None:
        np.savez_compressed(tmp_path / "x.npz", np.arange(3))

        assert list(open_file(tmp_path / "x.npz").specs) == ["arr_0"]

    @pytest.mark.parametrize(
        ("arrays", "cause"),
        [
            ({}, "holds no arrays"),
            ({"a": np.zeros(3), "b": np.zeros(4)}, "'a' has 3, 'b' has 4"),
            ({"a": np.zeros(3), "version": np.array(2)}, "input 'version': is one value"),
            ({"a": np.array([{}], object)}, "array 'a': holds pickled"),
        ],
    )
    def test_archives_that_are_no_data_set_are_refused(self, tmp_path: Path, arrays: Any, cause: str) -> None:
        np.savez(tmp_path / "x.npz", **arrays)

        assert cause in refused(tmp_path / "x.npz")

    def test_members_that_are_no_arrays_are_refused(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr("readme.txt", "hello")

        assert "array 'readme.txt': is not a NumPy array" in refused(tmp_path / "x.npz")

    @pytest.mark.parametrize("cut", [10, 200, 400, -1])
    def test_a_cut_archive_is_refused(self, tmp_path: Path, cut: int) -> None:
        path = tmp_path / "x.npz"
        np.savez(path, a=np.arange(100))
        path.write_bytes(path.read_bytes()[:cut])

        assert "damaged or cut short" in refused(path)

    def test_a_flipped_byte_is_noticed(self, tmp_path: Path) -> None:
        path = tmp_path / "x.npz"
        np.savez(path, a=np.arange(100))
        content = bytearray(path.read_bytes())
        content[400] ^= 1
        path.write_bytes(content)

        assert "damaged" in refused(path)


class TestLargeNpz:
    """Members that are mapped: uncompressed, and of more than 16 MiB."""

    ROWS = 2200

    @pytest.fixture
    def data(self) -> dict[str, Any]:
        image = np.random.default_rng(0).random((self.ROWS, 1024), np.float64)
        return {"image": image, "fortran": np.asfortranarray(image), "swapped": image.astype(">f8"), "age": image[:, 0]}

    def test_rows_are_what_was_written(self, tmp_path: Path, data: dict[str, Any]) -> None:
        np.savez(tmp_path / "x.npz", **data)

        source = open_file(tmp_path / "x.npz")

        assert isinstance(source.data, dict)
        assert [type(array) is np.memmap for array in source.data.values()] == [True, True, True, False]
        part = source.take(1000, 1010)
        assert isinstance(part, dict)
        assert all(array.flags.c_contiguous and array.flags.aligned for array in part.values())
        np.testing.assert_equal(part, {name: array[1000:1010] for name, array in data.items()})

    def test_compressed_ones_are_read(self, tmp_path: Path) -> None:
        data = np.zeros((self.ROWS, 1024))
        np.savez_compressed(tmp_path / "x.npz", image=data)

        source = open_file(tmp_path / "x.npz")

        np.testing.assert_equal(source.take(0, self.ROWS), {"image": data})

    def test_what_stands_before_the_archive_is_skipped(self, tmp_path: Path, data: dict[str, Any]) -> None:
        np.savez(tmp_path / "x.npz", image=data["image"])
        content = (tmp_path / "x.npz").read_bytes()
        (tmp_path / "x.npz").write_bytes(b"something else" + content)

        np.testing.assert_equal(open_file(tmp_path / "x.npz").take(0, 2), {"image": data["image"][:2]})

    def test_memory_is_bounded(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", image=np.zeros((self.ROWS * 4, 1024)))

        tracemalloc.start()
        try:
            source = open_file(tmp_path / "x.npz")
            parts: Any = (source.take(start, start + 100) for start in range(0, source.rows, 100))
            rows = sum(len(part["image"]) for part in parts)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

        assert rows == self.ROWS * 4
        assert peak < 4 * 2**20

    def test_a_member_that_promises_more_than_it_has_is_refused(self, tmp_path: Path) -> None:
        header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({2**40},), }}\n".encode()
        content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr("a.npy", content + bytes(17 * 2**20))

        assert "array 'a': is cut short" in refused(tmp_path / "x.npz")


class TestPaths:
    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        assert "no such file" in refused(tmp_path / "x.npy")

    def test_a_folder_is_refused(self, tmp_path: Path) -> None:
        assert "is a folder" in refused(tmp_path)

    def test_a_path_under_a_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"x")

        assert "Not a directory" in refused(tmp_path / "file" / "x.npy")

    def test_a_pipe_is_refused_without_waiting_for_its_other_end(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "x.npy")

        assert "not a regular file" in refused(tmp_path / "x.npy")

    @pytest.mark.parametrize("name", ["x.csv", "x", ".npy"])
    def test_other_types_are_told_which_ones_work(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(b"x")

        assert ".npy or .npz" in refused(tmp_path / name)

    def test_the_case_of_the_suffix_does_not_matter(self, tmp_path: Path) -> None:
        with (tmp_path / "X.NPY").open("wb") as stream:
            np.save(stream, np.arange(3))

        assert open_file(tmp_path / "X.NPY").rows == 3

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
    @pytest.mark.parametrize("suffix", [".npy", ".npz"])
    def test_a_file_that_may_not_be_read_is_refused(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"x{suffix}"
        np.savez(tmp_path / "x.npz", np.arange(3))
        np.save(tmp_path / "x.npy", np.arange(3))
        path.chmod(0)

        assert "may not be read" in refused(path)
