"""The payload codec: any tree makes the round trip, any bytes give a tree or PayloadError, no limit is overstepped."""

import json
import struct
import tracemalloc
import warnings
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.protocol.codec import DEFAULT_LIMIT_BYTES, FORMAT_VERSION, MAX_DEPTH, Tree, decode, encode
from tasks.protocol.codec.arrays import ALIGNMENT, DTYPES, MAX_DIMS
from worker_config.errors import PayloadError

MIB = 2**20
# What Python itself takes while it decodes: frames, the reader, an error.
SLACK_BYTES = 64 * 1024
unhurried = settings(deadline=None)


def same(left: Any, right: Any) -> bool:
    """Equal to the last bit, and of the same types."""
    if type(left) is not type(right):
        return False
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and left.shape == right.shape and same_elements(left, right)
    if isinstance(left, dict):
        return same(list(left.items()), list(right.items()))
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return struct.pack("d", left) == struct.pack("d", right)
    return bool(left == right)


def same_elements(left: Any, right: Any) -> bool:
    if left.dtype == object:
        return same(left.reshape(-1).tolist(), right.reshape(-1).tolist())
    return bool(left.tobytes() == right.tobytes())


def objects(*elements: object, shape: tuple[int, ...] | None = None) -> np.ndarray[Any, Any]:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array if shape is None else array.reshape(shape)


def raw_payload(*tree: bytes) -> bytes:
    return bytes([0x92, FORMAT_VERSION]) + b"".join(tree)


def extension(code: int, *content: object) -> bytes:
    return bytes(msgpack.packb(msgpack.ExtType(code, msgpack.packb(content))))


# ---- strategies

shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)


@st.composite
def numeric_arrays(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    name = draw(st.sampled_from(sorted(DTYPES)))
    shape, dtype = draw(shapes), DTYPES[name]
    length = int(np.prod(shape)) * dtype.itemsize
    raw = draw(st.binary(min_size=length, max_size=length))
    return np.frombuffer(bytes(byte & 1 for byte in raw) if name == "bool" else raw, dtype).reshape(shape)


@st.composite
def text_arrays(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    shape = draw(shapes)
    count = int(np.prod(shape))
    texts = draw(st.lists(st.text(max_size=9) | st.binary(max_size=9), min_size=count, max_size=count))
    return objects(*texts, shape=shape)


integers = st.integers(-(2**63), 2**64 - 1)
leaves = st.none() | st.booleans() | integers | st.floats() | st.text() | st.binary() | numeric_arrays() | text_arrays()
trees = st.recursive(
    leaves,
    lambda below: (
        st.lists(below, max_size=4)
        | st.lists(below, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=9) | integers, below, max_size=4)
    ),
    max_leaves=8,
)

LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "C order": lambda array: array,
    "Fortran order": np.asfortranarray,
    "transposed": lambda array: array.T,
    "reversed": lambda array: np.flip(array),
    "every second": lambda array: np.repeat(array, 2, axis=-1)[..., ::2] if array.ndim else array,
    "broadcast": lambda array: np.broadcast_to(array, (2, *array.shape)),
    "big-endian": lambda array: array.astype(array.dtype.newbyteorder(">")),
    "unaligned": lambda array: np.ndarray(array.shape, array.dtype, b"\0" + array.tobytes(), offset=1),
}


# ---- the round trip


@unhurried
@given(trees)
def test_any_tree_makes_the_round_trip(tree: Tree) -> None:
    assert same(decode(encode(tree)), tree)


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(deadline=None, max_examples=60)
@given(array=numeric_arrays())
def test_an_array_of_any_layout_arrives_with_its_values_in_c_order(layout: str, array: np.ndarray[Any, Any]) -> None:
    laid_out = LAYOUTS[layout](array)
    expected = np.ascontiguousarray(laid_out).reshape(laid_out.shape).astype(array.dtype)

    assert same(decode(encode(laid_out)), expected)


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (0, 5), (3, 0, 2), (2, 3), (1,) * MAX_DIMS])
def test_every_dtype_keeps_its_shape_and_name(name: str, shape: tuple[int, ...]) -> None:
    array = np.ones(shape, DTYPES[name])

    decoded = decode(encode({"x": [array]}))

    assert same(decoded, {"x": [array]})
    assert not decoded["x"][0].flags.writeable  # type: ignore[index,call-overload,union-attr]


@pytest.mark.parametrize("shape", [(), (0,), (0, 5), (3, 0, 2), (2, 1)])
@pytest.mark.parametrize("text", ["", "é🎉", b"\xff\0", b""])
def test_texts_of_any_shape_make_the_round_trip(shape: tuple[int, ...], text: str | bytes) -> None:
    array = np.full(shape, None, dtype=object)
    array[...] = text

    assert same(decode(encode(array)), array)


@pytest.mark.parametrize(
    "array",
    [
        np.array([["a", "é🎉"]]),
        np.array([b"a", b"\xff"]),
        np.array("x"),
        np.empty(0, "U3"),
        np.array(["a", "é" * 300, ""], np.dtypes.StringDType()),
    ],
)
def test_strings_of_numpy_come_back_as_objects(array: np.ndarray[Any, Any]) -> None:
    assert same(decode(encode(array)), array.astype(object))


def test_str_and_bytes_may_share_an_array() -> None:
    array = objects("a", b"b", np.str_("c"), np.bytes_(b"d"))

    assert same(decode(encode(array)), objects("a", b"b", "c", b"d"))


@pytest.mark.parametrize(
    "scalar", [np.float32(1.5), np.float64(2), np.int8(-1), np.bool_(True), ml_dtypes.bfloat16(3), np.complex64(1j)]
)
def test_a_numpy_number_comes_back_as_an_array_without_axes(scalar: np.generic) -> None:
    assert same(decode(encode(scalar)), np.asarray(scalar))


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Point(1, 2), (1, 2)),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (np.str_("é"), "é"),
        (np.bytes_(b"x"), b"x"),
        (np.arange(3, dtype="<i4").view(np.recarray), np.arange(3, dtype="<i4")),
    ],
)
def test_a_subclass_comes_back_as_its_plain_type(value: Any, plain: Any) -> None:
    assert same(decode(encode(value)), plain)


def test_a_memory_mapped_file_comes_back_as_an_array(tmp_path: Path) -> None:
    rows = np.arange(12, dtype="float32").reshape(4, 3)
    np.save(tmp_path / "rows.npy", rows)

    assert same(decode(encode(np.load(tmp_path / "rows.npy", mmap_mode="r")[1:3])), rows[1:3])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "bfloat16"])
@pytest.mark.parametrize("swapped", [False, True])
def test_the_payload_bits_of_nan_survive(dtype: str, swapped: bool) -> None:
    bits = np.frombuffer(b"\x01\x02\xa1\x7f\x03\x04\xf1\xff" * 2, DTYPES[dtype])
    array = bits.byteswap().view(bits.dtype.newbyteorder(">")) if swapped else bits

    assert decode(encode(array)).tobytes() == bits.tobytes()  # type: ignore[union-attr]


def test_a_bool_of_an_odd_byte_becomes_true() -> None:
    assert same(decode(encode(np.array([0, 1, 2], np.uint8).view(bool))), np.array([False, True, True]))


def test_every_numeric_dtype_of_tensorflow_travels() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow as tf

    found = {
        dtype.name: dtype
        for module in (tf.dtypes, tf.dtypes.experimental)
        for dtype in vars(module).values()
        if isinstance(dtype, tf.DType)
    }
    # Handles and texts are no numbers; the quantized types are deprecated, and numpy has them as structures only.
    numeric = {name: dtype for name, dtype in found.items() if name not in {"resource", "variant", "string"}}
    numeric = {name: dtype for name, dtype in numeric.items() if not dtype.is_quantized}

    assert len(numeric) > 20
    assert {name: np.dtype(dtype.as_numpy_dtype) for name, dtype in numeric.items()} == DTYPES


# ---- the wire form

VECTORS = json.loads((Path(__file__).parent / "codec_vectors.json").read_text())
VALUES: dict[str, Tree] = {
    "none": None,
    "true": True,
    "small int": 7,
    "negative int": -33,
    "largest int": 2**64 - 1,
    "smallest int": -(2**63),
    "float": 1.5,
    "str": "é🎉",
    "bytes": b"\x00\xff",
    "empty dict": {},
    "dict": {"a": 1, 2: "b"},
    "list": [None, [False]],
    "tuple": (1, ("a", [])),
    "float32": np.array([[1, 2], [3, -4]], "<f4"),
    "int64 without axes": np.array(-2, "<i8"),
    "int64 of big-endian": np.array([1, 2], ">i8"),
    "bool": np.array([True, False]),
    "complex64": np.array([1 + 2j], "<c8"),
    "bfloat16": np.array([1, -2], ml_dtypes.bfloat16),
    "float8_e5m2": np.array([1, -2], ml_dtypes.float8_e5m2),
    "int4": np.array([1, -2], ml_dtypes.int4),
    "uint8 without elements": np.empty((3, 0, 2), "u1"),
    "Fortran order": np.asfortranarray(np.array([[1, 2], [3, 4]], "<u2")),
    "texts": objects("a", b"b", "é", "", shape=(2, 2)),
    "rows": {"image": np.array([[0, 255]], "u1"), "name": objects("x")},
}


def test_every_pinned_vector_has_its_value() -> None:
    assert list(VECTORS) == list(VALUES)


@pytest.mark.parametrize("name", VALUES)
def test_a_pinned_value_has_the_pinned_bytes(name: str) -> None:
    assert encode(VALUES[name]).hex() == VECTORS[name]


@pytest.mark.parametrize("name", VECTORS)
def test_pinned_bytes_have_the_pinned_value(name: str) -> None:
    expected = VALUES[name]
    if isinstance(expected, np.ndarray) and expected.dtype != object:
        expected = np.ascontiguousarray(expected, expected.dtype.newbyteorder("<")).reshape(expected.shape)

    assert same(decode(bytes.fromhex(VECTORS[name])), expected)


def read_extension(code: int, data: bytes) -> object:
    content = read_by_msgpack(data)
    if code == 3:
        return tuple(content)
    if code == 2:
        return objects(*content[1], shape=tuple(content[0]))
    name, shape, _, raw = content
    return np.frombuffer(raw, DTYPES[name]).reshape(shape)


def read_by_msgpack(data: bytes) -> Any:
    return msgpack.unpackb(data, ext_hook=read_extension, strict_map_key=False)


@unhurried
@given(trees)
def test_another_msgpack_library_reads_the_same_tree(tree: Tree) -> None:
    assert same(read_by_msgpack(encode(tree)), [FORMAT_VERSION, tree])


plain_trees = st.recursive(
    st.none() | st.booleans() | integers | st.floats() | st.text() | st.binary(),
    lambda below: st.lists(below, max_size=40) | st.dictionaries(st.text() | integers, below, max_size=20),
)


@unhurried
@given(plain_trees)
def test_a_plain_tree_of_another_msgpack_library_is_read(tree: Tree) -> None:
    assert same(decode(msgpack.packb([FORMAT_VERSION, tree])), tree)


@pytest.mark.parametrize("length", [0, 15, 16, 31, 32, 255, 256, 65535, 65536])
def test_every_form_of_a_length_is_read(length: int) -> None:
    for tree in ("x" * length, b"x" * length, [None] * length, dict.fromkeys(range(length))):
        assert same(decode(msgpack.packb([FORMAT_VERSION, tree])), tree)


@pytest.mark.parametrize("elements", [[], list(range(10)), list(range(100)), list(range(70_000))])
def test_every_form_of_an_extension_is_read(elements: list[int]) -> None:
    assert same(decode(raw_payload(extension(3, *elements))), tuple(elements))


def test_a_float_of_four_bytes_is_read() -> None:
    assert decode(raw_payload(struct.pack(">Bf", 0xCA, 0.25))) == 0.25


# ---- copies


def peak_bytes(action: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        kept = action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        del kept


def test_encoding_copies_an_array_once_and_decoding_never() -> None:
    array = np.ones(8 * MIB, np.uint8)
    payload = encode(array)

    assert peak_bytes(lambda: encode({"x": (array,)})) < 8 * MIB + SLACK_BYTES
    assert peak_bytes(lambda: decode(payload)) < SLACK_BYTES


@given(st.text(max_size=40), st.sampled_from(["float32", "complex128", "bfloat16"]))
def test_a_decoded_array_is_an_aligned_view_of_the_payload(before: str, dtype: str) -> None:
    payload = encode((before, np.ones(3, DTYPES[dtype])))

    array: Any = decode(payload)[1]  # type: ignore[index]

    assert not array.flags.owndata
    assert (array.ctypes.data - np.frombuffer(payload, np.uint8).ctypes.data) % ALIGNMENT == 0


@pytest.mark.parametrize("form", [bytearray, lambda payload: memoryview(bytearray(payload))])
def test_an_array_does_not_change_with_the_buffer_it_came_in(form: Callable[[bytes], Any]) -> None:
    buffer = form(encode(np.ones(4, "<f4")))

    array = decode(buffer)
    buffer[-16:] = bytes(16)

    assert same(array, np.ones(4, "<f4"))


def test_a_payload_at_an_odd_address_gives_aligned_arrays() -> None:
    shifted = memoryview(b"\0" + encode(np.ones(4, "<f4")))[1:]

    array: Any = decode(shifted)

    assert array.flags.aligned
    assert same(array, np.ones(4, "<f4"))


# ---- what cannot be encoded


def deep(levels: int) -> list[Any]:
    tree: list[Any] = []
    for _ in range(levels - 1):
        tree = [tree]
    return tree


def endless() -> dict[str, Any]:
    tree: dict[str, Any] = {}
    tree["self"] = [tree]
    return tree


class Thing:
    pass


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"image": [1, 2, {3}]}, r"value of type set at \.image\[2\]; give dict, list"),
        ({"image": (Thing(),)}, r"value of type .*test_codec\.Thing at \.image\[0\]"),
        (bytearray(b"x"), "value of type bytearray at the top"),
        (1j, "value of type complex at the top"),
        ({"a": np.array("2020-01-01", "datetime64[D]")}, r"dtype datetime64\[D\] at \.a; give numbers"),
        (np.timedelta64(1, "s"), r"dtype timedelta64\[s\]"),
        ([np.ones(2, "longdouble")], r"dtype .*(float128|longdouble|float96).* at \[0\]"),
        ([np.ones(2, "clongdouble")], r"dtype .*complex.* at \[0\]"),
        (np.zeros(2, [("a", "i4")]), r"dtype \[\('a', '<i4'\)\] at the top"),
        (np.zeros(2, "V2"), r"dtype \|V2"),
        (np.zeros(2, ml_dtypes.float8_e4m3), "dtype float8_e4m3 "),
        ({"a": objects("x", None)}, r"array element of type NoneType at \.a\[1\]"),
        ({"a": objects("x", "y", "z", 1.5, shape=(2, 2))}, r"array element of type float at \.a\[1, 1\]"),
        (objects(np.zeros(2)), r"array element of type numpy\.ndarray at \[0\]"),
        (np.ma.MaskedArray([1], mask=[True]), "masked array at the top; fill it first"),
        (2**64, "int of more than 64 bits at the top; give a float or a str"),
        ({"a": {-(2**63) - 1: 0}}, r"int of more than 64 bits at \.a\[-9223372036854775809\]"),
        ({1.5: 0}, r"dict key of type float at \[1\.5\]; give str or int keys"),
        ({True: 0}, "dict key of type bool"),
        ({np.int64(1): 0}, r"dict key of type numpy\.int64"),
        ({(1, "\n"): 0}, "dict key of type tuple"),
        ({"two\nlines": object()}, r"value of type object at \['two\\nlines'\]"),
        ("\ud800", "str with a lone surrogate at the top; give bytes"),
        ({"a": objects("\ud800")}, r"str with a lone surrogate at \.a"),
        ({"x" * 1000: object()}, r"at \.x{59}\.\.\.; "),
        (deep(MAX_DEPTH + 1), f"more than {MAX_DEPTH} levels at .*; give a flatter tree"),
        (endless(), f"more than {MAX_DEPTH} levels"),
    ],
)
def test_what_cannot_travel_is_refused_by_name_and_place(tree: Any, message: str) -> None:
    with pytest.raises(PayloadError, match=message) as caught:
        encode(tree)

    assert "\n" not in str(caught.value)


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="numpy 1 cannot make such an array")
def test_an_array_with_too_many_axes_is_refused() -> None:
    with pytest.raises(PayloadError, match="array with 33 axes at the top; give at most 32"):
        encode(np.zeros((1,) * 33))


def test_the_deepest_tree_makes_the_round_trip() -> None:
    assert decode(encode(deep(MAX_DEPTH))) == deep(MAX_DEPTH)


# ---- limits


@pytest.mark.parametrize("tree", [np.ones(1000), b"x" * 8000, "x" * 4000, "é" * 500, [0.5] * 100, objects(*"x" * 99)])
def test_a_tree_beyond_the_limit_names_size_and_limit(tree: Tree) -> None:
    with pytest.raises(PayloadError, match=r"needs at least \d+ bytes of memory and the limit is 8000; send fewer"):
        encode(tree, limit_bytes=8000)
    with pytest.raises(PayloadError, match=r"needs at least \d+ bytes of memory and the limit is|has \d+ bytes"):
        decode(encode(tree), limit_bytes=8000)


@pytest.mark.parametrize("tree", [np.ones((1, 1000)), {"a": np.ones((1, 1000)), "b": np.ones(1)}, [np.ones(1000)]])
def test_of_a_single_row_the_advice_is_about_that_row(tree: Tree) -> None:
    with pytest.raises(PayloadError, match=r"the limit is 8000; this is a single row, which has to fit: make"):
        encode(tree, limit_bytes=8000)


def test_a_payload_longer_than_the_limit_is_refused_first() -> None:
    with pytest.raises(PayloadError, match="the payload has 101 bytes and the limit is 100; send fewer rows"):
        decode(b"\xc1" * 101, limit_bytes=100)


@unhurried
@given(trees, st.integers(0, 4000))
def test_a_limit_that_lets_a_payload_out_lets_it_in_again(tree: Tree, limit_bytes: int) -> None:
    try:
        payload = encode(tree, limit_bytes)
    except PayloadError:
        return

    assert len(payload) <= limit_bytes
    assert same(decode(payload, limit_bytes), tree)


def test_the_default_limit_is_what_redis_can_hold() -> None:
    assert DEFAULT_LIMIT_BYTES == 512 * MIB


# ---- any bytes


def decodes_within(payload: bytes, limit_bytes: int) -> None:
    """A tree or PayloadError, and neither takes more memory than the limit."""
    outcome: list[Tree] = []
    refusals: list[PayloadError] = []

    def attempt() -> None:
        try:
            outcome.append(decode(payload, limit_bytes))
        except PayloadError as error:
            refusals.append(error)

    assert peak_bytes(attempt) <= limit_bytes + SLACK_BYTES
    assert not any("\n" in str(error) for error in refusals)
    if outcome:
        assert same(decode(encode(outcome[0], limit_bytes), limit_bytes), outcome[0])


SEEDS = [bytes.fromhex(text) for text in VECTORS.values()]
HEADS = [bytes([first]) + rest for first in range(0xC0, 0xE0) for rest in (b"", b"\0\0\0\1", b"\0\1", b"\xff" * 8)]
fragments = st.sampled_from(HEADS) | st.sampled_from([seed[2:] for seed in SEEDS]) | st.binary(max_size=8)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_give_a_tree_or_a_payload_error(content: bytes, with_version: bool) -> None:
    decodes_within(raw_payload(content) if with_version else content, 16 * 1024)


@settings(deadline=None, max_examples=300)
@given(st.lists(fragments, max_size=30))
def test_any_heads_give_a_tree_or_a_payload_error(content: list[bytes]) -> None:
    decodes_within(raw_payload(*content), 16 * 1024)


@settings(deadline=None, max_examples=500)
@given(st.data())
def test_a_changed_payload_gives_a_tree_or_a_payload_error(data: st.DataObject) -> None:
    payload = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(payload)))
        change = data.draw(st.sampled_from(["flip", "cut", "remove", "insert"]))
        if change == "flip" and place < len(payload):
            payload[place] ^= data.draw(st.integers(1, 255))
        elif change == "cut":
            del payload[place:]
        elif change == "remove":
            del payload[place : place + data.draw(st.integers(1, 8))]
        else:
            payload[place:place] = data.draw(fragments)

    decodes_within(bytes(payload), 16 * 1024)


@pytest.mark.parametrize("seed", SEEDS, ids=list(VECTORS))
def test_a_truncated_payload_is_one_payload_error(seed: bytes) -> None:
    for length in range(len(seed)):
        with pytest.raises(PayloadError, match="not a payload"):
            decode(seed[:length])


@pytest.mark.parametrize(
    "content",
    [
        b"\xdd\xff\xff\xff\xff" * 1000,
        b"\xdd\x00\x0f\xff\x00" * 60 + bytes(MIB),  # each level fits into the bytes that are left
        b"\xdf\x00\x01\xff\x00" + b"\x00\xdf\x00\x01\xff\x00" * 60 + bytes(MIB),
        b"\xdf\xff\xff\xff\xff" * 1000,
        b"\x91" * 100_000,
        b"\x81\x00" * 100_000,
        b"\xc7\x02\x03\x91" * 100_000,
        b"\xdd\x00\x10\x00\x00" + b"\x80" * MIB,
        b"\xdd\x00\x10\x00\x00" + b"\x90" * MIB,
        b"\xdd\x00\x10\x00\x00" + b"\xa0" * MIB,
        b"\xdd\x00\x08\x00\x00" + b"\x81\x00\x00" * (MIB // 2),
        b"\xdd\x00\x04\x00\x00" + b"\xc7\x01\x03\x90" * (MIB // 4),
        b"\xdd\x00\x01\x00\x00" + extension(1, "int8", [0], b"", b"") * 65_536,
        b"\xdd\x00\x01\x00\x00" + extension(2, [0], []) * 65_536,
        b"\xdd\x00\x01\x00\x00" + b"\xcb\x3f\xf0\x00\x00\x00\x00\x00\x01" * 65_536,
        extension(2, [MIB], [""] * MIB),
        extension(1, "bool", [MIB], b"", b"\1" * MIB),
        msgpack.packb("x" * MIB + "🎉"),
        msgpack.packb("é" * (MIB // 2)),
        msgpack.packb(dict.fromkeys(range(30_000))),
        b"\xc9\xff\xff\xff\xff\x01",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\x00\x10\x00\x00" + bytes(MIB),
    ],
)
def test_no_payload_takes_more_memory_than_the_limit(content: bytes) -> None:
    for limit_bytes in (2 * MIB, 8 * MIB):
        decodes_within(raw_payload(content), limit_bytes)


def smallest_limit(payload: bytes) -> int:
    """The least limit under which the payload decodes, or a little more."""
    refused, enough = 0, 16 * MIB
    while enough - refused > 8192:
        middle = (refused + enough) // 2
        try:
            decode(payload, middle)
        except PayloadError:
            refused = middle
        else:
            enough = middle
    return enough


@pytest.mark.parametrize(
    "element",
    [0.5, 2**60, "", "x" * 20, "é", "🎉", b"", b"x" * 20, [], [0.5], ["x"] * 5, {}, {2**60: 0.5}, (), (0.5,), ((),)]
    + [dict.fromkeys(range(length)) for length in (5, 6, 11, 22)]
    + [np.ones(3), np.ones((1,) * MAX_DIMS), objects(), objects("x"), objects("é", b"x", 9 * "x")],
    ids=lambda element: repr(element)[:20],
)
def test_a_tree_takes_no_more_memory_than_the_least_limit_that_lets_it_in(element: Tree) -> None:
    payload = encode([element] * 1500)
    changeable = bytearray(payload)
    limit_bytes = smallest_limit(payload)

    assert peak_bytes(lambda: decode(payload)) <= limit_bytes + SLACK_BYTES
    assert peak_bytes(lambda: decode(changeable)) <= limit_bytes + SLACK_BYTES


@pytest.mark.parametrize("length", [1366, 5462, 21_846])
def test_a_dict_that_has_just_grown_takes_no_more_memory_than_its_least_limit(length: int) -> None:
    payload = encode(dict.fromkeys(range(length)))

    assert peak_bytes(lambda: decode(payload)) <= smallest_limit(payload) + SLACK_BYTES


@pytest.mark.parametrize("shape", [[0, 2**62], [2**62, 0], [0, 2**64 - 1], [0] * MAX_DIMS, [2**64 - 1] * 31 + [0]])
@pytest.mark.parametrize("dtype", ["int8", "float64"])
def test_an_enormous_shape_without_elements_is_a_value_or_a_payload_error(shape: list[int], dtype: str) -> None:
    decodes_within(raw_payload(extension(1, dtype, shape, b"", b"")), MIB)
    decodes_within(raw_payload(extension(2, shape, [])), MIB)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "not a payload: a length of 1 with 0 bytes left, at byte 0; .*encode and send them again"),
        (b"\x01", "something else than a list that begins with a format version"),
        (b"\x91\xc3", "something else than a format version"),
        (b"\x92\x02\xc0", "has format version 2, only 1 is understood here; run the same release"),
        (b"\x93\x07\xc0\xc0", "has format version 7, only 1 is understood"),
        (b"\x91\x01", "1 elements instead of format version and tree"),
        (raw_payload(b"\xc0\xc0"), "1 bytes too many, at byte 3"),
        (raw_payload(b"\xc1"), "a byte that begins no value"),
        (raw_payload(b"\xa1\xff"), "a str that is not UTF-8"),
        (raw_payload(b"\xa3\xed\xa0\x80"), "a str that is not UTF-8"),
        (raw_payload(b"\x82\x01\xc0\x01\xc0"), "the same dict key twice"),
        (raw_payload(b"\x81\xc4\x01a\xc0"), "a dict key that is neither str nor int"),
        (raw_payload(b"\x81\xc3\xc0"), "a dict key that is neither str nor int"),
        (raw_payload(b"\x81\x90\xc0"), "a dict key that is neither str nor int"),
        (raw_payload(b"\x91" * (MAX_DEPTH + 1)), f"more than {MAX_DEPTH} levels"),
        (raw_payload(extension(4)), "an unknown extension type 4"),
        (raw_payload(msgpack.packb(msgpack.Timestamp(1))), "an unknown extension type 255"),
        (raw_payload(b"\xd4\x03\xc0"), "something else than the elements of a tuple"),
        (raw_payload(b"\xd5\x03\x90\x00"), "1 bytes too many"),
        (raw_payload(b"\xd4\x03\x91\x00"), "a length of 1 with 0 bytes left"),
        (raw_payload(extension(1, "int8", [1], b"")), "3 instead of 4 as the parts of an array"),
        (raw_payload(extension(1, "O", [1], b"", b"12345678")), "an unknown dtype 'O'"),
        (raw_payload(extension(1, "x" * 999, [1], b"", b"")), "an unknown dtype 'x{32}'"),
        (raw_payload(extension(1, "int8", [2], b"", b"1")), r"1 instead of 2 as the bytes of int8 in shape \(2,\)"),
        (raw_payload(extension(1, "int8", [2**63, 2], b"", b"")), "an impossible shape"),
        (raw_payload(extension(1, "int8", [-1], b"", b"")), "something else than the length of an axis"),
        (raw_payload(extension(1, "int8", [True], b"", b"1")), "something else than the length of an axis"),
        (raw_payload(extension(1, "int8", [1.0], b"", b"1")), "something else than the length of an axis"),
        (raw_payload(extension(1, "int8", [1] * 33, b"", b"1")), "an array with 33 axes"),
        (raw_payload(extension(1, "bool", [1], b"", b"\2")), "a bool that is neither 0 nor 1"),
        (raw_payload(extension(2, [2], ["a"])), r"1 instead of 2 as the texts in shape \(2,\)"),
        (raw_payload(extension(2, [1], [1])), "an element that is neither str nor bytes"),
        (raw_payload(extension(2, [1], [["a"]])), "an element that is neither str nor bytes"),
        (memoryview(b"\x92\x00\x01\x00\xc0\x00")[::2], r"a memoryview with gaps; pass bytes\(view\)"),
    ],
)
def test_what_is_no_payload_is_refused_with_the_reason(payload: bytes, message: str) -> None:
    with pytest.raises(PayloadError, match=message) as caught:
        decode(payload)

    assert "\n" not in str(caught.value)
