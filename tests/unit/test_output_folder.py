"""The folder in which workers leave outputs: nothing outside it, no other file, and what is damaged is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import xxhash

from tasks.outputs.formats import WRITERS
from tasks.outputs.parts import MergeOrder, PartAbout, PartFile, left_part, merge, part_of
from tasks.outputs.temp_paths import OutputTarget
from tasks.protocol.messages import MESSAGE_VERSION, ChunkMessage, FailureRecord, InlineRef, ModelRef, pack, unpack
from tasks.transport.output_folder import attempt_name, open_output_folder
from worker_config.errors import MessageError, OutputError

PARTS = [b"one", np.arange(5).data.cast("B"), b""]
WHOLE = b"".join(PARTS)
SUM = xxhash.xxh3_64_intdigest(WHOLE)


def test_a_file_comes_back_and_goes(tmp_path: Path) -> None:
    name = attempt_name(0, 5, suffix=".part")
    with open_output_folder(str(tmp_path), [tmp_path]) as folder:
        folder.write(name, PARTS)
        assert bytes(folder.read(name, len(WHOLE), SUM)) == WHOLE
        with pytest.raises(OutputError, match="cannot be written: File exists"):
            folder.write(name, PARTS)
        folder.remove([name])
        folder.remove([name])
        with pytest.raises(OutputError, match="No such file"):
            folder.read(name, len(WHOLE), SUM)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [WHOLE[:-1], WHOLE + b"x", WHOLE[:-1] + b"x", b""])
def test_a_file_that_is_not_as_it_was_written_is_refused(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "0-5-00.part").write_bytes(damage)
    with (
        open_output_folder(str(tmp_path), [tmp_path]) as folder,
        pytest.raises(OutputError, match="not as it was written"),
    ):
        folder.read("0-5-00.part", len(WHOLE), SUM)


def test_nothing_outside_the_roots_is_opened(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "link").symlink_to(outside)
    for path in (outside, root / "link", root / ".." / "outside", root / "link" / "deeper"):
        with (
            pytest.raises(OutputError, match="is not under a folder of CELERIAC_OUTPUT_ROOTS"),
            open_output_folder(str(path), [root]),
        ):
            pass
    with pytest.raises(OutputError, match="is not under"), open_output_folder(str(root), []):
        pass
    with pytest.raises(OutputError, match="is not on this worker"), open_output_folder(str(root / "none"), [root]):
        pass
    (root / "file").touch()
    with pytest.raises(OutputError, match="Not a directory"), open_output_folder(str(root / "file"), [root]):
        pass


def test_a_link_that_takes_the_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(WHOLE)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "0-5-00.part").symlink_to(secret)
    with open_output_folder(str(tmp_path / "out"), [tmp_path]) as folder:
        with pytest.raises(OutputError):
            folder.read("0-5-00.part", len(WHOLE), SUM)
        with pytest.raises(OutputError):
            folder.write("0-5-00.part", [b"x"])
    assert secret.read_bytes() == WHOLE


def test_a_folder_that_is_moved_away_keeps_what_is_written_into_it(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with open_output_folder(str(tmp_path / "out"), [tmp_path]) as folder:
        (tmp_path / "out").rename(tmp_path / "moved")
        (tmp_path / "out").symlink_to("/dev")
        with folder.new_file("1-00.npy") as path:
            path.write_bytes(b"x")
    assert (tmp_path / "moved" / "1-00.npy").read_bytes() == b"x"


@pytest.mark.parametrize("suffix", sorted(set(WRITERS) - {".npz"}))
def test_each_format_writes_into_the_folder_that_was_opened(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    part = part_of(message(0, 4), np.arange(4), [], [])
    payload = b"".join(part.payload)
    files = [PartFile(attempt_name(0, 4, suffix=".part"), 0, 4, len(payload), 0, part.rows)]
    with (
        open_output_folder(str(tmp_path / "out"), [tmp_path]) as folder,
        folder.new_file(attempt_name(0, suffix=suffix)) as path,
    ):
        writer = WRITERS[suffix](OutputTarget(path, 4, "t"))

        def moved(_: PartFile) -> memoryview:
            (tmp_path / "out").rename(tmp_path / "moved")
            (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
            return memoryview(payload)

        merge(MergeOrder("out", files, 4, part.outputs), writer, moved)
        writer.publish()
        assert writer.published_bytes() > 0
    assert len(list((tmp_path / "moved").iterdir())) == 1
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("name", ["../thesis.txt", "thesis.txt", "/etc/passwd", ".", "0-5-00.part/../x"])
@pytest.mark.parametrize("where", ["parts", "spent"])
def test_an_order_names_no_other_file(name: str, where: str) -> None:
    part = {"name": name, "start": 0, "stop": 5, "bytes": 3, "checksum": 1, "rows": 5}
    order: dict[str, Any] = {"output": "out", "parts": [], "outputs": [], where: [part if where == "parts" else name]}
    with pytest.raises(MessageError, match="regex"):
        unpack(msgspec.msgpack.encode(order), MergeOrder)


def message(start: int, stop: int, **more: Any) -> ChunkMessage:
    models = [ModelRef("m", "d")]
    return ChunkMessage(MESSAGE_VERSION, "0" * 12, 0, start, stop, None, models, InlineRef(b""), **more)


def test_parts_become_a_file_with_fillers_in_the_place_of_rows_that_failed(tmp_path: Path) -> None:
    failed = [FailureRecord(1, 2, "infer", "ValueError", "bad")]
    payloads: dict[str, bytes] = {}
    files = []
    for start, stop in ((0, 3), (5, 8)):
        outputs = {"x": np.arange(start, stop, dtype=np.float32), "t": np.array(["a"] * (stop - start), object)}
        here = failed if start == 0 else []
        part = part_of(message(start, stop, on_error="fill"), outputs, here, [(6, 7)] if start else [])
        name = attempt_name(start, stop, suffix=".part")
        payloads[name] = b"".join(part.payload)
        files.append(PartFile(name, start, stop, len(payloads[name]), 0, part.rows))
    files.insert(1, PartFile(None, 3, 5, 0, 0, 2))
    order = unpack(pack(MergeOrder("out", files, 7, part.outputs, mask=True)), MergeOrder)
    writer = WRITERS[".jsonl"](OutputTarget(tmp_path / "out.jsonl", 7, "t"))

    assert merge(order, writer, lambda part: memoryview(payloads[str(part.name)])) == 7
    writer.publish()

    lines = [msgspec.json.decode(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert [line["row"] for line in lines] == [0, 1, 2, 3, 4, 5, 7]
    assert [line["failed"] for line in lines] == [False, True, False, True, True, False, False]
    assert [line["x"] for line in lines] == [0.0, 1.0, 2.0, None, None, 5.0, 7.0]
    assert [line["t"] for line in lines] == ["a", "a", "a", "", "", "a", "a"]


def test_a_part_tells_what_it_is_only_where_it_was_said_and_is_whole() -> None:
    sent, outputs = message(3, 6, on_error="skip"), {"x": np.arange(3)}
    failed = [FailureRecord(4, 5, "infer", "ValueError", "bad")]
    about = PartAbout(sent.job, sent.models, sent.on_error, 3, 6, failed, [], (0, 1))
    whole = b"".join(part_of(sent, outputs, failed, [], {"id": np.arange(3)}, about).payload)
    left = left_part(memoryview(whole))
    assert left is not None
    assert (left.about, left.numbers.tolist(), left.checksum) == (about, [3, 5], xxhash.xxh3_64_intdigest(whole))
    assert [one.key for one in (*left.kept, *left.outputs)] == [("id",), ("x",)]
    for damaged in (whole[:-1], whole[1:], b"", whole[:10] + b"?" + whole[11:]):
        assert left_part(memoryview(damaged)) is None
    assert left_part(memoryview(b"".join(part_of(sent, outputs, failed, []).payload))) is None


@pytest.mark.parametrize(
    ("outputs", "told"),
    [
        (np.arange(4), "it must be an array of 3 rows"),
        ({"a": "text"}, "has the type str"),
        ({1: np.arange(3)}, "have strings as names, 1 is none"),
        ({}, "has the type dict"),
    ],
)
def test_outputs_that_are_not_one_row_for_each_are_refused(outputs: Any, told: str) -> None:
    with pytest.raises(MessageError, match=told):
        part_of(message(0, 3), outputs, [], [])


def test_a_folder_in_place_of_a_file_goes_too_and_nothing_that_it_links_to(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").touch()
    name = attempt_name(0, suffix=".zarr")
    with open_output_folder(str(tmp_path), [tmp_path]) as folder:
        (tmp_path / name / "c").mkdir(parents=True)
        (tmp_path / name / "c" / "0").touch()
        (tmp_path / name / "link").symlink_to(tmp_path / "thesis")
        folder.remove([name])
        (tmp_path / name).symlink_to(tmp_path / "thesis")
        folder.remove([name])
    assert [path.name for path in tmp_path.rglob("*")] == ["thesis", "thesis.txt"]


@pytest.mark.parametrize(("first_row", "rows"), [(0, 3), (2, 1), (2, 6), (4, 3), (9, 1), (0, 10), (5, 0)])
def test_a_file_may_begin_and_end_within_parts(tmp_path: Path, first_row: int, rows: int) -> None:
    payloads, files = dict[str, bytes](), []
    for start, stop in ((0, 4), (4, 9), (9, 10)):
        numbers = np.arange(start, stop)
        part = part_of(message(start, stop), numbers, [], [], {"id": numbers * 10})
        name = attempt_name(start, stop, suffix=".part")
        payloads[name] = b"".join(part.payload)
        files.append(PartFile(name, start, stop, len(payloads[name]), 0, part.rows))
    whole = [part for part in files if part.stop > first_row]
    first_row -= whole[0].start
    writer = WRITERS[".npz"](OutputTarget(tmp_path / "out.npz", rows, "t"))
    order = MergeOrder("out", whole, rows, part.outputs, first_row, kept=part.kept)

    merge(order, writer, lambda part: memoryview(payloads[str(part.name)]))
    writer.publish()

    start = whole[0].start + first_row
    with np.load(tmp_path / "out.npz") as arrays:
        assert arrays["arr_0"].tolist() == [*range(start, start + rows)]
        assert arrays["id"].tolist() == [number * 10 for number in range(start, start + rows)]


def test_parts_that_have_not_the_rows_of_an_order_are_refused(tmp_path: Path) -> None:
    part = part_of(message(0, 4), np.arange(4), [], [])
    payload = b"".join(part.payload)
    files = [PartFile(attempt_name(0, 4, suffix=".part"), 0, 4, len(payload), 0, part.rows)]
    writer = WRITERS[".npy"](OutputTarget(tmp_path / "out.npy", 5, "t"))
    with pytest.raises(OutputError, match="the parts have 4 rows, not the 5 that they should have"):
        merge(MergeOrder("out", files, 5, part.outputs), writer, lambda _: memoryview(payload))
    writer.close()
