"""Compressed payloads: the same tree comes back, any bytes give a tree or PayloadError, a bomb does not go off."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress
from typing import Any

import lz4.block
import msgpack
import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tasks.protocol.codec import decode, encode
from worker_config.errors import ConfigError, PayloadError

NAMES = ["lz4", "zstd"]
TREE = {"image": np.zeros((20, 30), np.float32), "names": ["a", "b"], "tuple": (1, None)}


@pytest.mark.parametrize("name", NAMES)
def test_the_tree_comes_back_from_fewer_bytes(name: Any) -> None:
    packed = encode(TREE, compression=name)
    assert len(packed) < len(encode(TREE)) / 4
    tree = decode(packed)
    np.testing.assert_array_equal(tree["image"], TREE["image"])
    assert (tree["names"], tree["tuple"]) == (["a", "b"], (1, None))


@pytest.mark.parametrize("name", NAMES)
@given(at=st.integers(0, 10_000), byte=st.integers(0, 255), cut=st.integers(0, 10_000))
def test_damaged_bytes_are_a_tree_or_one_payload_error(name: Any, at: int, byte: int, cut: int) -> None:
    packed = bytearray(encode(TREE, compression=name))
    packed[at % len(packed)] = byte
    with suppress(PayloadError):
        decode(bytes(packed[: cut % (len(packed) + 1)]))
    with suppress(PayloadError):
        decode(bytes(packed))


@given(rest=st.binary(max_size=60))
def test_any_bytes_behind_the_head_are_a_tree_or_one_payload_error(rest: bytes) -> None:
    with suppress(PayloadError):
        decode(b"\x94" + rest)


@pytest.mark.parametrize("claimed", [1_000, 200_000_000])
@pytest.mark.parametrize("name", NAMES)
def test_a_bomb_is_refused_before_it_takes_more_than_the_limit(name: str, claimed: int) -> None:
    zeros = bytes(50_000_000)
    bomb = lz4.block.compress(zeros, store_size=False) if name == "lz4" else zstandard.compress(zeros)
    packed = msgpack.packb([1, name, claimed, bomb])
    limit = 1_000_000
    tracemalloc.start()
    try:
        with pytest.raises(PayloadError):
            decode(packed, limit_bytes=limit)
        assert tracemalloc.get_traced_memory()[1] < 2 * limit
    finally:
        tracemalloc.stop()


def test_a_compression_that_is_not_there_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = encode(TREE, compression="lz4")
    monkeypatch.setitem(__import__("sys").modules, "lz4.block", None)
    with pytest.raises(ConfigError, match=r"pip install 'celeriac\[compression\]'"):
        encode(TREE, compression="lz4")
    with pytest.raises(PayloadError, match=r"celeriac\[compression\]"):
        decode(packed)


def test_a_wrap_of_another_version_or_kind_is_refused() -> None:
    for head in ([2, "lz4", 1, b""], [1, "gzip", 1, b""], [1, "lz4", -1, b""], [1, "lz4", "x", b""]):
        with pytest.raises(PayloadError):
            decode(msgpack.packb(head))
