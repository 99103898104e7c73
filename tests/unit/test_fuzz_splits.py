"""Splits that come by the wire: whatever they say, rows or one clear error, and nothing from outside the roots."""

from __future__ import annotations

import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.child.chunk_payload import PayloadStore, Places
from tasks.protocol.messages import ChunkMessage, ModelRef, SliceRef, unpack
from tasks.protocol.split_ref import FileSpan, FormatName, SplitRef
from tasks.protocol.unfed_rows import without_unfed
from tasks.telemetry.stopwatch import Stopwatch
from tests.forms import LONG
from tests.split_files import ROWS, WRITERS, opened, whole_ref
from worker_config.errors import CeleriacError

MOST_SECONDS = 5
MOST_GROWTH = 256 * 2**20

_NUMBERS = st.sampled_from([0, 1, 2, 7, ROWS, ROWS + 1, 2**16, 2**31, 2**32, 2**40, 2**53, 2**62, 2**63, -1])
_WRONG = st.sampled_from([None, "", "x", 0.5, True, [], {}, b"\xff", "\x00", "\ud7ff"])
_NAMES = st.sampled_from(
    ["", "x", "..", "/", "../../x", "number", "vector", "text", "struct", "struct.inner", "\x00", "\n", "a" * 5_000]
)
# None of them is under the roots; the files of `outside` are as those inside, with their sizes and times.
_PATHS = [
    "{outside}/{name}",
    "{inside}/../outside/{name}",
    "{inside}//..//outside//{name}",
    "{inside}/link/{name}",
    "{inside}/links/{name}",
    "{inside}/%2e%2e/outside/{name}",
    "{inside}/{name}\x00",
    "{inside}\x00/../outside/{name}",
    "{inside}",
    "{inside}/",
    "{inside}-2/{name}",
    "{inside}/none",
    "{inside}/{long}",
    "{inside}/fifo",
    "outside/{name}",
    "/dev/zero",
    "/proc/self/environ",
    "file://{inside}/{name}",
    "s3://rows/../secret/{name}",
    "s3://rows/allowed/../secret/{name}",
    "s3://rows/allowed/%2e%2e/%2e%2e/secret",
    "s3://rows/allowed%2f..%2fsecret",
    "s3://rows/allowed-2/{name}",
    "S3://ROWS/secret/{name}",
    "s3://rows/allowed/\x00",
    "s3://secret:password@rows/allowed/{name}",
    "http://127.0.0.1:1/allowed/{name}?Signature=secret:password",
    "s3://rows",
    "s3://",
    "http://127.0.0.1:1/{name}",
    "http://127.0.0.1:1/allowed/%2e%2e/secret",
    "http://127.0.0.1:1/allowed/..%2fsecret",
    "http://[::1/{name}",
    "https://169.254.169.254/latest/meta-data",
]
_FORMATS: tuple[Any, ...] = msgspec.inspect.type_info(FormatName).values  # type: ignore[attr-defined]
_SPANS = 8
_FIELDS = ("size", "mtime_ns", "first", "start", "stop", "block", "etag")


@dataclass(frozen=True)
class Case:
    """A split as it should be, of one kind of files, as plain values."""

    whole: dict[str, Any]
    inside: Path
    outside: Path


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Case]]:
    cases = {}
    folder = tmp_path_factory.mktemp("splits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELERIAC_CACHE", str(folder / "cache"))
        for write in WRITERS:
            inside, outside = folder / write.__name__ / "inside", folder / write.__name__ / "outside"
            inside.mkdir(parents=True)
            path, values = write(inside)
            ref = whole_ref(opened(path, list(values)))
            ref = msgspec.structs.replace(ref, spans=[one for one in ref.spans if one.size][:_SPANS])
            shutil.copytree(inside, outside)
            for file in filter(Path.is_file, outside.rglob("*")):
                same, link = inside / file.relative_to(outside), inside / "links" / file.relative_to(outside)
                os.utime(file, ns=(1, same.stat().st_mtime_ns))
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(file)
            (inside / "link").symlink_to(outside)
            os.mkfifo(inside / "fifo")
            cases[write.__name__] = Case(msgspec.to_builtins(ref), inside, outside)
            _read(cases[write.__name__], cases[write.__name__].whole)
    yield cases
    shutil.rmtree(folder)


def _read(case: Case, split: dict[str, Any]) -> Any:
    """The rows of a split of a chunk that has as many as the spans, unless they are of no use, or far too many."""
    rows = 1_000
    with suppress(IndexError, TypeError):
        if len(split["spans"]) <= _SPANS:
            rows = sum(span[5] - span[4] for span in split["spans"])
    return fetch(case, split, 0, rows)


def fetch(case: Case, ref: dict[str, Any], start: int, stop: int) -> Any:
    """The rows of a chunk, as they are read by a child of a worker that has been sent this."""
    message = msgspec.to_builtins(ChunkMessage(2, "0" * 12, 0, 0, 1, 1, [ModelRef("m", "d")], SplitRef("csv", [])))
    sent = msgspec.msgpack.encode({**message, "start": start, "stop": stop, "ref": ref, "on_error": "skip"})
    places = Places(data_roots=(case.inside, "s3://rows/allowed", "http://127.0.0.1:1/allowed"))
    store = PayloadStore(redis.Redis(), 60, places)
    try:
        rows, _ = store.fetch(unpack(sent, ChunkMessage), None, Stopwatch())
        return rows
    finally:
        store.splits.close()


_edits = st.lists(
    st.one_of(
        st.tuples(st.just("path"), st.sampled_from(_PATHS)),
        st.tuples(st.sampled_from(_FIELDS), _NUMBERS | _WRONG),
        st.tuples(st.just("block"), st.tuples(_NUMBERS, _NUMBERS, _NUMBERS)),
        st.tuples(st.just("format"), st.sampled_from(_FORMATS) | _WRONG),
        st.tuples(st.just("columns"), st.lists(_NAMES | _WRONG, max_size=3)),
        st.tuples(st.just("same columns"), st.integers(0, 3)),
        st.tuples(
            st.just("kinds"),
            st.dictionaries(_NAMES, st.sampled_from(["", "int64", "string", "list", "x", "null", "decimal128"])),
        ),
        st.tuples(st.just("kind"), st.sampled_from(["", "int64", "string", "list", "x", "null", "date64", "A" * 400])),
        st.tuples(st.just("made"), st.dictionaries(_NAMES, st.lists(_NAMES | _WRONG, max_size=2), max_size=2)),
        st.tuples(st.just("spans"), st.sampled_from(["none", "many", "backwards", "wrong"]) | _WRONG),
    ),
    min_size=1,
    max_size=3,
)


def _changed(case: Case, edits: list[tuple[str, Any]], at: int) -> dict[str, Any]:
    whole: dict[str, Any] = {**case.whole, "spans": [list(span) for span in case.whole["spans"]]}
    names = FileSpan.__struct_fields__
    for what, value in edits:
        spans = whole["spans"] if isinstance(whole["spans"], list) else []
        span = spans[at % len(spans)] if spans else None
        if what == "path" and span:
            name = os.path.relpath(case.whole["spans"][at % len(case.whole["spans"])][0], case.inside)
            span[0] = value.format(inside=case.inside, outside=case.outside, name=name, long="x" * 300)
        elif what in names:
            if span:
                span[names.index(what)] = list(value) if isinstance(value, tuple) else value
        elif what == "same columns":
            whole["columns"] = [*whole["columns"], *whole["columns"][:value]]
        elif what == "kind":
            whole["kinds"] = dict.fromkeys(whole["kinds"], value)
        elif what == "spans":
            ways = {"none": [], "many": (spans * 2_000)[:16_000], "backwards": spans[::-1], "wrong": [[]]}
            whole["spans"] = ways.get(value, value) if isinstance(value, str) else value
        else:
            whole[what] = value
    return whole


def check(read: Callable[[], object], whole: Callable[[Any], bool]) -> None:
    """See what comes of it: rows that are `whole`, or one of our errors."""
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told = "-"
    try:
        rows = read()
    except CeleriacError as error:
        told = str(error)
    else:
        assert whole(rows)
    assert told
    assert not {"\n", "\0"} & set(told)
    assert "secret:password" not in told
    assert time.process_time() - began < MOST_SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST_GROWTH


@pytest.mark.parametrize("name", [write.__name__ for write in WRITERS])
@settings(
    max_examples=3_000 if LONG else 25,
    derandomize=not LONG,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(edits=_edits, at=st.integers(0, _SPANS - 1))
def test_a_split_is_rows_or_one_clear_error(
    name: str, cases: dict[str, Case], edits: list[tuple[str, Any]], at: int
) -> None:
    check_split(cases[name], edits, at)


# What was found: each once took long, much memory, or ended in another error.
@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("contents", ("spans", "none")),
        ("contents", ("path", "{inside}\0/../outside/{name}")),
        ("zarr_group", ("stop", 2**62)),
        ("hdf5", ("stop", 2**62)),
        ("parquet_files", ("spans", "many")),
        ("feather", ("spans", "many")),
    ],
)
def test_what_was_found_is_one_clear_error(name: str, cases: dict[str, Case], edit: tuple[str, Any]) -> None:
    with pytest.raises(CeleriacError):
        _read(cases[name], _changed(cases[name], [edit], 0))
    check_split(cases[name], [edit], 0)


def check_split(case: Case, edits: list[tuple[str, Any]], at: int) -> None:
    changed = _changed(case, edits, at)
    given = {span[0] for span in case.whole["spans"]}

    def whole(rows: Any) -> bool:
        unknown = {number for number, span in enumerate(changed["spans"]) if span[0] not in given}
        return unknown <= set(without_unfed(rows)[1])  # of files that are a row each

    check(lambda: _read(case, changed), whole)


@settings(
    max_examples=3_000 if LONG else 100,
    derandomize=not LONG,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    changes=st.dictionaries(
        st.sampled_from(["path", "size", "mtime_ns", "offset", "dtype", "row_shape", "etag"]),
        _NUMBERS | _WRONG | st.lists(_NUMBERS, max_size=32) | st.sampled_from([*_PATHS, "float64", "bool", "object"]),
        max_size=2,
    ),
    start=_NUMBERS,
    stop=_NUMBERS,
)
def test_a_slice_is_rows_or_one_clear_error(
    cases: dict[str, Case], changes: dict[str, Any], start: int, stop: int
) -> None:
    case = cases["contents"]
    path = Path(case.whole["spans"][7][0])
    status = path.stat()
    ref = msgspec.to_builtins(SliceRef(str(path), status.st_size, status.st_mtime_ns, 0, "uint8", ()))
    if isinstance(changes.get("path"), str):
        name = os.path.relpath(path, case.inside)
        named = changes["path"].format(inside=case.inside, outside=case.outside, name=name, long="x" * 300)
        changes = {**changes, "path": named}

    def read() -> Any:
        return fetch(case, ref | changes, start, stop)

    check(read, lambda rows: "path" not in changes and len(rows) == stop - start)
