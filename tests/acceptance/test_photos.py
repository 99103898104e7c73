"""A folder of photos of every kind becomes a table of path, label and score, by the recipe that stands in README.md."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.acceptance.commands import Celeriac
from tests.acceptance.test_readme import CHECKOUT, README
from tests.forms import LONG
from tests.manifests import write_manifest
from tests.models import in_one_process, keras_may_warn
from tests.systems import System, serving
from worker_config.errors import ExitCode

RECIPE = README.split("## A folder of photos\n")[1].split("\n## ")[0]
MANIFEST, COMMAND = (re.findall(rf"```{kind}\n(.*?)```", RECIPE, re.DOTALL)[0] for kind in ("toml", "console"))
CODE = (CHECKOUT / re.findall(r"\]\((examples/.*?)\)", RECIPE)[0]).read_text()
PHOTOS = 2_000 if LONG else 120
ORIENTATION = 0x0112
TURNED_BY = {3: "ROTATE_180", 6: "ROTATE_90", 8: "ROTATE_270", 5: "TRANSPOSE"}


def turned(photo: Image.Image, path: str, orientation: int) -> None:
    """As a camera that was held otherwise saves it."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    photo.transpose(Image.Transpose[TURNED_BY[orientation]]).save(path, exif=exif)


def with_alpha(photo: Image.Image, mode: str) -> Image.Image:
    """What is white is transparent, and black below."""
    white = np.asarray(photo.convert("L")) > 250
    below = Image.fromarray(np.where(white[..., None], 0, np.asarray(photo)).astype(np.uint8)).convert(mode)
    below.putalpha(Image.fromarray(np.where(white, 0, 255).astype(np.uint8)))
    return below


def save_deep(photo: Image.Image, path: str) -> None:
    Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257).save(path)


# By the end of the name.
KINDS: dict[str, Callable[[Image.Image, str], None]] = {
    "colour.jpg": lambda photo, path: photo.save(path),
    "grey.jpg": lambda photo, path: photo.convert("L").save(path),
    "cmyk.jpg": lambda photo, path: photo.convert("CMYK").save(path),
    "upside-down.jpg": lambda photo, path: turned(photo, path, 3),
    "left.jpg": lambda photo, path: turned(photo, path, 6),
    "right.jpg": lambda photo, path: turned(photo, path, 8),
    "mirrored.jpg": lambda photo, path: turned(photo, path, 5),
    "colour.png": lambda photo, path: photo.save(path),
    "grey.png": lambda photo, path: photo.convert("L").save(path),
    "deep.png": save_deep,
    "alpha.png": lambda photo, path: with_alpha(photo, "RGB").save(path),
    "grey-alpha.png": lambda photo, path: with_alpha(photo, "L").save(path),
    "palette.png": lambda photo, path: photo.quantize(256).save(path),
    "palette-alpha.png": lambda photo, path: with_alpha(photo, "RGB").quantize(256).save(path),
    "palette.gif": lambda photo, path: photo.quantize(256).save(path),
}
# Names that some program stumbles over; the last one is no UTF-8.
ODD_NAMES = [b'a, "b" c.png', b"two\nlines.png", b"back\\xff.png", b" caf\xc3\xa9 .png", b"caf\xe9\xff.png"]
BROKEN = ("cut.jpg", "empty.jpg", "noise.png", "text.jpg")


def write_photos(folder: Path, count: int) -> None:
    """This many files, of many sizes and all kinds, with odd names among them, and broken ones."""
    folder.mkdir()
    rng = np.random.default_rng(5)
    raw = os.fsencode(folder)
    names = [b"%05d-%b" % (number, kind.encode()) for number, kind in zip(range(count), [*KINDS] * count, strict=False)]
    names[-len(ODD_NAMES) - len(BROKEN) :] = ODD_NAMES
    for name in names:
        coarse = rng.integers(0, 256, (*rng.integers(2, 7, 2), 3), dtype=np.uint8)
        width, height = rng.integers(8, 300, 2).tolist()
        photo = Image.fromarray(coarse).resize((width, height))
        kind = name.partition(b"-")[2].decode() if name not in ODD_NAMES else "colour.png"
        KINDS[kind](photo, os.fsdecode(raw + b"/" + name))
    whole = (folder / "00000-colour.jpg").read_bytes()
    for name, content in zip(BROKEN, (whole[: len(whole) // 2], b"", rng.bytes(500), b"no photo\n"), strict=True):
        (folder / name).write_bytes(content)


def bytes_of(path: str) -> bytes:
    """The path that a text stands for, as docs/data.md says."""
    return re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), path.encode())


@pytest.fixture(scope="module")
def steps(folder: Path) -> Iterator[ModuleType]:
    """The recipe's functions, in this process."""
    sys.path.insert(0, str(folder))
    try:
        import photos
    finally:
        sys.path.remove(str(folder))
    yield photos
    del sys.modules["photos"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe's files, with a model and photos."""
    import keras

    folder = tmp_path_factory.mktemp("p")
    (folder / "models.toml").write_text(MANIFEST)
    (folder / "photos.py").write_text(CODE)
    keras.utils.set_random_seed(3)
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((32, 32, 3)), layers.Conv2D(8, 3, strides=4), layers.Flatten(), layers.Dense(2), layers.Softmax()]
    )
    with keras_may_warn():
        model.save(folder / "photos.keras")
    write_photos(folder / "folder", PHOTOS)
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path, steps: ModuleType) -> dict[bytes, tuple[str, float]]:
    """Label and score of each photo that is whole, in the order of their paths: the model in one process."""
    paths = sorted(Path(folder, "folder").iterdir())
    whole = [os.fsencode(path) for path in paths if path.name not in BROKEN]
    written = steps.best_label(in_one_process(folder / "photos.keras", steps.open_photos(whole)))
    return dict(zip(whole, zip(*(column.tolist() for column in written.values()), strict=True), strict=True))


@pytest.fixture(scope="module")
def system(folder: Path) -> Iterator[System]:
    """The recipe's model, and others that go wrong."""
    (folder / "other.py").write_text(
        "from photos import best_label, open_photos\n\n\n"
        "def label_path(scores):\n    return {'path': scores.argmax(axis=1)}\n\n\n"
        "def by_name(rows):\n    return open_photos(rows['path'])\n"
    )
    recipe = {"path": "photos.keras", "preprocess": "photos:open_photos", "postprocess": "photos:best_label"}
    models = {
        "photos": recipe,
        "named": {**recipe, "preprocess": "other:by_name"},
        "same": {**recipe, "postprocess": "other:label_path"},
    }
    with serving(folder, write_manifest(folder, models, "others.toml"), children=1) as system:
        yield system


@pytest.fixture
def photos(celeriac: Celeriac, folder: Path) -> Celeriac:
    """The command, in a folder that has the recipe's files; its photos are `folder`."""
    for file in ("models.toml", "photos.py", "photos.keras", "folder"):
        (celeriac.folder / file).symlink_to(folder / file)
    return celeriac


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The rows of an output: those of CSV as texts."""
    if path.suffix == ".parquet":
        table: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return table
    with path.open(newline="") as file:
        return [*csv.DictReader(file)]


def check(photos: Celeriac, output: Path, expected: dict[bytes, tuple[str, float]]) -> None:
    """Each photo that is whole has its row, in order; each other one its record."""
    lines = lines_of(output)
    assert [*lines[0]] == ["row", "path", "label", "score"]
    base, real = os.fsencode(photos.folder / "folder"), os.fsencode((photos.folder / "folder").resolve())
    paths = [bytes_of(line["path"]).replace(base, real) for line in lines]
    assert paths == [*expected]
    labels, scores = zip(*expected.values(), strict=True)
    assert [line["label"] for line in lines] == [*labels]
    np.testing.assert_allclose([float(line["score"]) for line in lines], scores, rtol=1e-5)
    assert set(labels) == {"disc", "square"}
    records = [json.loads(line) for line in Path(f"{output}.failures.jsonl").read_text().splitlines()]
    assert [record["value"] for record in records] == [str(photos.folder / "folder" / name) for name in BROKEN]
    assert all(record["stage"] == "preprocess" and record["text"] for record in records)
    numbers = [int(line["row"]) for line in lines] + [record["start"] for record in records]
    assert sorted(numbers) == [*range(len(expected) + len(BROKEN))]


@pytest.mark.parametrize("output", ["photos.parquet", "photos.csv"])
def test_the_recipe_gives_path_label_and_score(
    photos: Celeriac, expected: dict[bytes, tuple[str, float]], output: str
) -> None:
    command = COMMAND.splitlines()[0].removeprefix("$ celeriac ")
    assert output in command
    words = command.partition("#")[0].split()
    words[words.index("-o") + 1] = output
    ended = photos.run(*words)
    assert ended.code == ExitCode.OK, ended
    assert re.search(rf"^{PHOTOS - 4:,} rows predicted .*, 4 failed \(see", ended.stdout), ended
    check(photos, photos.folder / output, expected)


def test_a_picture_is_the_same_to_the_model_whatever_its_file(tmp_path: Path, steps: ModuleType) -> None:
    quarters = np.array([[0, 90], [170, 255]], np.uint8).repeat(48, 0).repeat(32, 1)
    picture = Image.fromarray(quarters).convert("RGB")
    for name, save in KINDS.items():
        save(picture, str(tmp_path / name))
    images = steps.open_photos([str(tmp_path / name) for name in KINDS])
    wanted = np.asarray(picture.resize(steps.SIZE), np.float32) / 127.5 - 1
    for name, image in zip(KINDS, images, strict=True):
        # JPEG has some play where colours meet.
        np.testing.assert_allclose(image[2::7, 2::7], wanted[2::7, 2::7], atol=0.03, err_msg=name)


def test_rows_that_failed_have_their_paths_where_they_are_filled(
    photos: Celeriac, at: list[str], expected: dict[bytes, tuple[str, float]]
) -> None:
    words = ("predict", "photos", "folder", "-o", "all.csv", "--keep", "path", "--on-error", "fill")
    assert photos.run(*words, *at).code == ExitCode.OK
    lines = lines_of(photos.folder / "all.csv")
    assert len(lines) == len(expected) + len(BROKEN)
    failed = [line for line in lines if line["failed"] == "true"]
    assert [Path(line["path"]).name for line in failed] == [*BROKEN]
    assert {(line["label"], line["score"]) for line in failed} == {("", "nan")}


def test_a_broken_photo_ends_the_job_by_default_and_is_named(photos: Celeriac, at: list[str]) -> None:
    ended = photos.run("predict", "photos", "folder", "-o", "all.csv", "--keep", "path", *at)
    assert ended.code == ExitCode.ROWS_FAILED
    assert re.search(
        r"row \d+ \(\S+/folder/(cut|empty|noise|text)\.\w+\) failed at preprocess: .*open_photos", ended.stderr
    )


@pytest.mark.parametrize("name", ["named.parquet", "named.csv"])
def test_a_function_may_have_the_paths_by_name(
    photos: Celeriac, at: list[str], expected: dict[bytes, tuple[str, float]], name: str
) -> None:
    words = ("predict", "named", "folder", "-o", name, "--columns", "path", "--keep", "path", "--on-error", "skip")
    assert photos.run(*words, *at).code == ExitCode.OK
    check(photos, photos.folder / name, expected)


def test_paths_that_are_kept_cannot_be_called_as_an_output(photos: Celeriac, at: list[str]) -> None:
    (photos.folder / "one").mkdir()
    Image.new("L", (9, 9)).save(photos.folder / "one" / "a.png")
    line = photos.refuses(ExitCode.USAGE, "predict", "same", "one", "-o", "out.csv", "--keep", "path", *at)
    assert "column 'path' cannot be kept: an output has this name; rename one of them" in line


def test_a_folder_without_photos_has_no_row(photos: Celeriac, at: list[str]) -> None:
    (photos.folder / "texts").mkdir()
    for name in "ab":
        (photos.folder / "texts" / f"{name}.txt").write_text("text")
    words = ("predict", "photos", "texts", "-o", "out.parquet", "--keep", "path")
    line = photos.refuses(ExitCode.ROWS_FAILED, *words, *at)
    assert re.search(r"row \d \(\S+/texts/\w\.txt\) failed at preprocess: .*cannot identify image file", line)


def test_subfolders_are_told_of(photos: Celeriac, at: list[str]) -> None:
    (photos.folder / "outer" / "inner").mkdir(parents=True)
    words = ("predict", "photos", "outer", "-o", "out.parquet", "--keep", "path")
    line = photos.refuses(ExitCode.INPUT, *words, *at)
    assert re.search(r"/outer: has no files in it; for files in subfolders give the pattern \S+/outer/\*\*/\*", line)
    for name in ("outer/a.png", "outer/inner/b.png"):
        Image.new("L", (9, 9)).save(photos.folder / name)
    ended = photos.run(*words, *at)
    assert ended.code == ExitCode.OK, ended
    assert "outer: its subfolders are left out: inner; for their files too give the pattern outer/**/*" in ended.stderr
    photos.succeeds("predict", "photos", "outer/**/*", "-o", "all.parquet", "--keep", "path", *at)
    lines = lines_of(photos.folder / "all.parquet")
    assert [line["path"] for line in lines] == [
        str(photos.folder / "outer" / name) for name in ("a.png", "inner/b.png")
    ]


def test_a_link_is_the_file_that_it_leads_to_or_a_row_that_fails(photos: Celeriac, at: list[str]) -> None:
    (photos.folder / "links").mkdir()
    Image.new("L", (9, 9)).save(photos.folder / "outside.png")
    for name, target in {"good.png": "../outside.png", "gone.png": "../none.png", "loop.png": "loop.png"}.items():
        (photos.folder / "links" / name).symlink_to(target)
    words = ("predict", "photos", "links", "-o", "out.csv", "--keep", "path", "--on-error", "skip")
    assert photos.run(*words, *at).code == ExitCode.OK
    assert [line["path"] for line in lines_of(photos.folder / "out.csv")] == [str(photos.folder / "links" / "good.png")]
    records = map(json.loads, (photos.folder / "out.csv.failures.jsonl").read_text().splitlines())
    assert [Path(record["value"]).name for record in records] == ["gone.png", "loop.png"]


def test_a_photo_that_was_mended_takes_its_place(photos: Celeriac, at: list[str]) -> None:
    (photos.folder / "some").mkdir()
    base = os.fsencode(photos.folder / "some")
    for name in (*ODD_NAMES, b"a.png"):
        Image.new("L", (9, 9)).save(os.fsdecode(base + b"/" + name))
    broken = Path(os.fsdecode(base + b"/" + ODD_NAMES[-1]))
    whole = broken.read_bytes()
    broken.write_bytes(whole[:40])
    words = ("predict", "photos", "some", "-o", "out.parquet", "--keep", "path", "--on-error", "skip", *at)
    assert photos.run(*words).code == ExitCode.OK
    assert len(lines_of(photos.folder / "out.parquet")) == len(ODD_NAMES)
    broken.write_bytes(whole)
    assert photos.run(*words, "--resume", "--only-failed", "--accept-changes").code == ExitCode.OK
    lines = lines_of(photos.folder / "out.parquet")
    assert {bytes_of(line["path"]) for line in lines} == {base + b"/" + name for name in (*ODD_NAMES, b"a.png")}
    assert len({(line["label"], line["score"]) for line in lines}) == 1
