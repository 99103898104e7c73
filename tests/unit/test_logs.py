"""A worker's log by itself: where a record belongs, one line for each, chatter left out, errors kept."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from tasks.models.stderr_filter import hushed, is_chatter
from tasks.telemetry.logs import about, place_of

CHUNK = "chunk 17/400 rows 4352-4608 of job 3f2a90bc41d7, digits@1d39e655"
CHATTER = [
    b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n",
    b"I0000 00:00:1795273315.477148    8796 port.cc:153] oneDNN custom operations are on.\n",
    b"W0000 00:00:1795273315.477148 8796 thing.cc:1] this is slow\n",
    b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n",
]
NO_GPU = b"E0000 00:00:1795273311.571453    8764 cuda_platform.cc:52] failed call to cuInit: UNKNOWN ERROR (303)\n"
ERRORS = [
    b"E0000 00:00:1795273311.571453    8764 cuda_dnn.cc:52] no such library\n",
    b"F0000 00:00:1795273311.571453    8764 tensor.cc:52] check failed\n",
    b"ERROR: Regular TensorFlow ops are not supported by this interpreter\n",
    b"terminate called after throwing an instance of 'std::bad_alloc'\n",
]


def record(message: str, args: object = ()) -> logging.LogRecord:
    return logging.LogRecord("some", logging.INFO, "file", 1, message, (args,) if args else (), None)


def test_a_record_belongs_to_the_chunk_that_it_names() -> None:
    assert place_of(record(f"Task celeriac.infer succeeded: '{CHUNK}: 0.1 s'")) == ("3f2a90bc41d7", 17)
    assert place_of(record("Task %(name)s failed", {"name": "celeriac.infer", "args": CHUNK})) == ("3f2a90bc41d7", 17)
    assert place_of(record("Connected to redis")) is None
    with about(CHUNK):
        assert place_of(record("Task retry")) == ("3f2a90bc41d7", 17)
    assert place_of(record("Task retry")) is None


def test_chatter_is_left_out_and_errors_are_kept() -> None:
    assert all(map(is_chatter, CHATTER))
    assert not any(map(is_chatter, [*ERRORS, NO_GPU]))
    assert is_chatter(NO_GPU, gpu_is_missing=True)
    assert not any(is_chatter(line, gpu_is_missing=True) for line in ERRORS)


def test_what_is_no_chatter_goes_where_it_was_meant_to(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "")
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")

    def fails() -> None:
        with hushed():
            os.write(2, b"".join([*CHATTER, *ERRORS]))
            raise ValueError("of the block")

    with pytest.raises(ValueError, match="of the block"):
        fails()
    os.write(2, b"after\n")
    assert capfd.readouterr().err.encode() == b"".join([*ERRORS, b"after\n"])
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "2"


def test_who_asks_for_chatter_gets_it(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    with hushed():
        os.write(2, CHATTER[1])
    assert capfd.readouterr().err.encode() == CHATTER[1]


def test_a_descriptor_is_given_back() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with hushed():
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before
