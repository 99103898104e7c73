"""Whatever became of the bytes that we read: a value or one of our errors, within bounds of time and memory."""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.forms import LONG
from tests.fuzzing import TARGETS, WAYS, damaged
from worker_config.errors import CeleriacError

# Each example, and all of a reader together.
MOST_SECONDS = 5
MOST_GROWTH = 256 * 2**20

_contents = st.binary(max_size=8) | st.sampled_from(
    [b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7, b"\xff\xff\xff\x7f", b"\x80", b"-1", b"99999999999", b"null", b"{}"]
)
edits = st.lists(
    st.tuples(st.sampled_from(WAYS), st.integers(0, 2**16 - 1), st.integers(0, 40), _contents), min_size=1, max_size=4
)


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERIAC_INPUT_MIB", "16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("fuzz")
    for target in TARGETS.values():  # so that no example pays for what is imported at first use
        target.read(target.example, folder)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_whole_is_read(name: str, folder: Path) -> None:
    assert TARGETS[name].read(TARGETS[name].example, folder) is not None


def _journal(name: str, *more: bytes) -> tuple[str, bytes]:
    """The journal of a target, with more lines."""
    return name, TARGETS[name].example + b"".join(b"00000000 %b\n" % line for line in more)


# A page that claims them, and which pyarrow takes memory for.
_CLAIMS_2_GIB = damaged(
    TARGETS[".parquet"].example,
    [
        ("set", 256, 13, b"\x80"),
        ("set", 184, 21, b"\xff" * 8),
        ("join", 6, 3, b"\x92"),
        ("join", 32681, 39, b""),
    ],
)

# What was found: each once ended in another error.
FOUND = [
    ("outputs", TARGETS["outputs"].example.replace(b"slot", b"\x80lot", 1)),
    ("outputs", TARGETS["outputs"].example.replace(b"\xa4slot", b"\xa4\xffslo", 1)),
    ("chunk", TARGETS["chunk"].example.replace(b"float32", b"float\x80\x80")),
    ("slot", TARGETS["slot"].example.replace(b"worker", b"\x80orker")),
    ("failures", TARGETS["failures"].example.replace(b"infer", b"infe\x80")),
    ("ledger", TARGETS["ledger"].example.replace(b"path", b"pat\x80")),
    ("snapshot", TARGETS["snapshot"].example.replace(b"mapped", b"mappe\x80")),
    ("snapshot, with its hash", TARGETS["snapshot, with its hash"].example.replace(b"mapped", b"mappe\x80")),
    ("notes of executors", b'"\x80"'),
    ("batch of an executor", b"Infinity"),
    ("job", TARGETS["job"].example.replace(b"digits", b"digit\x80")),
    ("state of a job", b"walking"),
    (".npy of text", TARGETS[".npy of text"].example.replace(b"b\0\0\0", b"b\0\0\x11")),
    (".parquet", _CLAIMS_2_GIB),
    ("task arguments", bytes(msgpack.packb({"version": 1}))),
    ("note", TARGETS["note"].example.replace(b"worker", b"wor\ner")),
    ("count of a job", b"many"),
    _journal("journal, .npy, with checksums", TARGETS["journal, .npy"].example.split(b"\n")[0].partition(b" ")[2]),
    _journal("journal, .npz, with checksums", b"[1, 2]"),
    _journal("journal, .jsonl, with checksums", b"{"),
    _journal("journal, .parquet, with checksums", b'{"start": 10, "stop": "x", "mark": 0}'),
    _journal("journal, .zarr, with checksums", b'{"start": 10, "stop": 20, "mark": 0, "nonfinite": [1, 2, 3]}'),
]


@pytest.mark.parametrize(("name", "data"), FOUND, ids=lambda value: value if isinstance(value, str) else "")
def test_what_was_found_is_one_of_our_errors(name: str, data: bytes, folder: Path) -> None:
    assert data != TARGETS[name].example
    check(name, data, folder)


@pytest.mark.parametrize("name", TARGETS)
@settings(
    max_examples=2_000 if LONG else 25,
    derandomize=not LONG,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(edits=edits)
def test_what_is_damaged_is_a_value_or_one_of_our_errors(name: str, folder: Path, edits: list) -> None:  # type: ignore[type-arg]
    check(name, damaged(TARGETS[name].example, edits), folder)


def check(name: str, data: bytes, folder: Path) -> None:
    """Read it, and see what comes of it."""
    target = TARGETS[name]
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told = ""
    try:
        target.read(data, folder)
    except (CeleriacError, *target.documented) as error:
        told = str(error)
    assert "\n" not in told
    assert time.process_time() - began < MOST_SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST_GROWTH
