"""TFRecord files as a data set."""

import gzip
from pathlib import Path
from typing import Any

import pytest

from producer.rows.readers import BatchReader
from producer.sources import open_tfrecord
from tests.tfrecords import tfrecord
from worker_config.errors import InputError

RECORDS = [b"first", b"", b"\0third\0", b"x" * 1000]

# As TensorFlow writes the records b"a" and b"" (tf.io.TFRecordWriter).
FROM_TENSORFLOW = bytes.fromhex("01000000000000000175de4161786ee428000000000000000029039807d8ea82a2")


def rows_of(source: BatchReader) -> list[bytes]:
    return [row for batch in source.batches() for row in batch]  # type: ignore[misc]


def failure_after(path: Path, rows: int) -> str:
    batches: list[Any] = []
    with pytest.raises(InputError) as caught:
        batches.extend(open_tfrecord(path).batches())  # keeps those before the error
    read = [row for batch in batches for row in batch]
    assert read == RECORDS[:rows]
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    return text


def test_records_are_rows_of_bytes(tmp_path: Path) -> None:
    (tmp_path / "x.tfrecord").write_bytes(tfrecord(RECORDS))

    source = open_tfrecord(tmp_path / "x.tfrecord")

    assert (source.label, source.rows) == ("x.tfrecord", None)
    assert rows_of(source) == RECORDS
    (batch,) = source.batches()
    assert batch.dtype == object  # type: ignore[union-attr]


def test_what_tensorflow_wrote_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.tfrecord").write_bytes(FROM_TENSORFLOW)

    assert rows_of(open_tfrecord(tmp_path / "x.tfrecord")) == [b"a", b""]


def test_compressed_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "x.tfrecord.gz").write_bytes(gzip.compress(tfrecord(RECORDS)))

    assert rows_of(open_tfrecord(tmp_path / "x.tfrecord.gz")) == RECORDS


def test_files_follow_each_other_by_name(tmp_path: Path) -> None:
    for part in (1, 0, 2):
        (tmp_path / f"x.tfrecord-0000{part}-of-00003").write_bytes(tfrecord([b"%d" % part]))

    assert rows_of(open_tfrecord(tmp_path)) == [b"0", b"1", b"2"]
    assert rows_of(open_tfrecord(tmp_path / "x.tfrecord-*[12]-of-00003")) == [b"1", b"2"]


def test_large_records_come_in_batches_of_few(tmp_path: Path) -> None:
    (tmp_path / "x.tfrecord").write_bytes(tfrecord([b"x" * 2**23] * 5))

    assert [len(batch) for batch in open_tfrecord(tmp_path / "x.tfrecord").batches()] == [2, 2, 1]


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "x.tfrecord").write_bytes(b"")

    assert rows_of(open_tfrecord(tmp_path / "x.tfrecord")) == []


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("length", [1, 11, 12, 14, 20])
def test_a_cut_record_is_named_after_those_before_it(tmp_path: Path, suffix: str, length: int) -> None:
    content = tfrecord(RECORDS[:1]) + tfrecord(RECORDS[2:3])[:length]
    path = tmp_path / f"x.tfrecord{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)

    assert "record 1 at byte 21 is cut short" in failure_after(path, 1)


@pytest.mark.parametrize(("position", "cause"), [(0, "damaged length"), (9, "damaged length"), (14, "is damaged")])
def test_a_damaged_record_is_named_after_those_before_it(tmp_path: Path, position: int, cause: str) -> None:
    content = bytearray(tfrecord(RECORDS))
    content[21 + 16 + position] ^= 1
    (tmp_path / "x.tfrecord").write_bytes(content)

    text = failure_after(tmp_path / "x.tfrecord", 2)

    assert "record 2 at byte 37 " in text
    assert cause in text


@pytest.mark.parametrize("change", ["cut", "flip", "none"])
def test_damaged_compression_is_noticed(tmp_path: Path, change: str) -> None:
    content = bytearray(gzip.compress(tfrecord(RECORDS)))
    if change == "cut":
        content = content[:-20]
    elif change == "flip":
        content[-5] ^= 1
    else:
        content = bytearray(tfrecord(RECORDS))
    (tmp_path / "x.tfrecord.gz").write_bytes(content)

    with pytest.raises(InputError, match=r"x\.tfrecord\.gz: record \d at byte \d+ cannot be read: \w"):
        rows_of(open_tfrecord(tmp_path / "x.tfrecord.gz"))


def test_closing_the_iterator_closes_the_file(tmp_path: Path) -> None:
    for name in ("1.tfrecord", "2.tfrecord.gz"):
        content = tfrecord([b"x" * 2**23] * 5)
        (tmp_path / name).write_bytes(gzip.compress(content, 1) if name.endswith(".gz") else content)
        batches = open_tfrecord(tmp_path / name).batches()
        next(batches)
        assert open_files_named(name)

        batches.close()

        assert not open_files_named(name)


def open_files_named(name: str) -> list[Path]:
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [link for link in links if str(link.readlink()).endswith(name)]


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x\.tfrecord: no such file"):
        open_tfrecord(tmp_path / "x.tfrecord")
