"""Turns a tree of arrays and plain values into the bytes of a payload, and such bytes into a tree.

The wire form is msgpack, and any msgpack library can read it. The top is `[FORMAT_VERSION, tree]`. An int, float,
bool, str, bytes, None, list or dict is msgpack's own. Three extension types each hold one msgpack array:

    code 1, an array:   [dtype name, shape, padding, raw]   raw: little-endian, C order, aligned by the padding
    code 2, texts:      [shape, items]                      str and bytes of an object array, in C order
    code 3, a tuple:    [element, ...]

`tasks.protocol.codec.compression` wraps a payload in a compressed form; `tasks.protocol.codec.trees` takes a tree
apart into its leaves, by the names that lead to them.
"""

from __future__ import annotations

from tasks.protocol.codec.arrays import DTYPES, Array, dtype_name
from tasks.protocol.codec.compression import Compression, check_installed, is_wrapped, unwrap, wrap
from tasks.protocol.codec.format import DEFAULT_LIMIT_BYTES, FORMAT_VERSION, MAX_DEPTH, Tree
from tasks.protocol.codec.reader import PayloadReader
from tasks.protocol.codec.trees import Columns, Key, columns_of, is_ragged, leaves_of, tree_like, tree_of
from tasks.protocol.codec.writer import PayloadWriter

__all__ = [
    "DEFAULT_LIMIT_BYTES",
    "DTYPES",
    "FORMAT_VERSION",
    "MAX_DEPTH",
    "Array",
    "Columns",
    "Compression",
    "Key",
    "Tree",
    "check_installed",
    "columns_of",
    "decode",
    "dtype_name",
    "encode",
    "encode_parts",
    "is_ragged",
    "leaves_of",
    "tree_like",
    "tree_of",
]


def encode(tree: Tree, limit_bytes: int = DEFAULT_LIMIT_BYTES, compression: Compression | None = None) -> bytes:
    """Return the payload that holds `tree`.

    Args:
        tree: dict with keys str or int, list, tuple, numpy array, int from -2**63 to 2**64 - 1, float, bool, str,
            bytes or None, in each other. An array has a dtype of `tasks.protocol.codec.arrays.DTYPES`, in any byte
            order and memory layout, or holds str and bytes: dtype object, `U`, `S` or StringDType, and comes back as
            object. A numpy number comes back as an array without axes; a subclass (namedtuple, OrderedDict, np.str_,
            np.memmap) as its plain type; a masked array is refused.
        limit_bytes: the memory that the decoded tree may take, estimated from above; the payload is shorter.
        compression: "lz4" or "zstd", by a library of the extra `compression`.

    Raises:
        ConfigError: the library is not installed.
        PayloadError: the tree holds anything else, has more than `MAX_DEPTH` levels or exceeds the limit.
    """
    return b"".join(encode_parts(tree, limit_bytes, compression))


def encode_parts(
    tree: Tree, limit_bytes: int = DEFAULT_LIMIT_BYTES, compression: Compression | None = None
) -> list[bytes | memoryview]:
    """The same payload in parts, for who writes them one after the other; large ones are the arrays' own memory.

    Raises:
        ConfigError, PayloadError: as `encode`.
    """
    writer = PayloadWriter(limit_bytes)
    writer.write(tree)
    return [wrap(b"".join(writer.parts), compression)] if compression else writer.parts


def decode(
    payload: bytes | bytearray | memoryview, limit_bytes: int = DEFAULT_LIMIT_BYTES, *, borrow: bool = False
) -> Tree:
    """Return the tree that `payload` holds; any bytes whatever give a tree or PayloadError.

    Arrays have the dtype (little-endian) and shape that were encoded, and are read-only: copy one to change it.
    Arrays of a `bytes` payload are views that keep it alive; from other buffers, which may change, they are copies.

    Args:
        payload: the bytes.
        limit_bytes: the length that the payload, and the memory that the tree may have, estimated from above.
        borrow: arrays are views of any buffer, of no use any more when that changes.

    Raises:
        PayloadError: the bytes are no payload, have another format version or exceed the limit.
    """
    if is_wrapped(payload):
        payload = unwrap(payload, limit_bytes)
    return PayloadReader(payload, limit_bytes, borrow).read()
