"""Models and manifests that users get wrong: `models`, `predict` and `worker` all say the same one line, and end."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tasks.protocol.rights import WORKER
from tests.acceptance.commands import Celeriac, Ended
from tests.formats import graph_bytes, tflite_case
from tests.forms import LONG, in_long_form
from tests.models import keras_may_warn
from tests.systems import RedisServer
from worker_config.errors import ExitCode

GARBAGE = b"this is no model, whatever its name says"
TABLE = '[models.m]\npath = "{}"\n'


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis for workers that do not come up."""
    server = RedisServer(tmp_path_factory.mktemp("s")).start()
    yield server.url_as(WORKER)
    server.stop()


@pytest.fixture
def celeriac(celeriac: Celeriac) -> Celeriac:
    np.save(celeriac.folder / "rows.npy", np.zeros((3, 64), np.float32))
    return celeriac


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that are sound, and cannot be loaded as they are asked for."""
    import keras

    folder = tmp_path_factory.mktemp("files")
    (folder / "frozen.pb").write_bytes(graph_bytes(straight=True))
    tflite_case(folder)

    @keras.saving.register_keras_serializable("ours")
    class Doubled(keras.layers.Layer):  # type: ignore[misc]
        def call(self, rows):  # type: ignore[no-untyped-def]
            return rows * 2

    with keras_may_warn(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("custom.keras", "lambda.keras", "lambda.h5"):
            layer = Doubled() if "custom" in name else keras.layers.Lambda(lambda rows: rows * 2)
            keras.Sequential([keras.Input((64,)), layer, keras.layers.Dense(3)]).save(folder / name)
    for number in (2, 10):
        (folder / "tree" / str(number)).mkdir(parents=True)
        (folder / "tree" / str(number) / "frozen.pb").write_bytes(b"")
    np.save(folder / "narrow.npy", np.zeros((9, 63), np.float32))
    return folder


def check_refused(celeriac: Celeriac, redis_url: str, code: ExitCode, *words: object, everywhere: bool = False) -> None:
    """`celeriac models` refuses the manifest `models.toml` with this code and a line with these words.

    `everywhere`: so do, at the same time, `predict` and `worker`, which take the same way but longer.
    """
    before = {path: path.stat().st_mtime_ns for path in celeriac.folder.rglob("*")}
    running = [celeriac.start("models")]
    if everywhere:
        running.append(celeriac.start("predict", "m", "rows.npy", "-o", "out.npy", "--workers", 1))
        running.append(celeriac.start("worker", "--workers", 1, "--broker", redis_url))
    ends = [one.end() for one in running]
    celeriac.check_nothing_is_left()
    assert {path: path.stat().st_mtime_ns for path in celeriac.folder.rglob("*")} == before
    for ended in ends:
        line = told(ended)
        assert ended.code == code, ended
        for word in words:
            assert str(word) in line, ended


def told(ended: Ended) -> str:
    """The one line of a command; a worker may say besides what it does, and Celery that it runs as root."""
    assert "Traceback" not in ended.stdout + ended.stderr, ended
    lines = [line for line in ended.lines if line.startswith("celeriac: ")] if "worker" in ended.words else ended.lines
    assert len(lines) == 1, ended
    assert lines[0].startswith("celeriac: "), ended
    return lines[0]


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("m.keras", "not a .keras file: it is no zip archive"),
        pytest.param("m.h5", "not a Keras model: it is no HDF5 file", marks=in_long_form),
        pytest.param("m.pb", "not a frozen graph", marks=in_long_form),
        pytest.param("m.tflite", "not a TFLite file", marks=in_long_form),
        ("m/saved_model.pb", "not a SavedModel: its saved_model.pb is damaged"),
        pytest.param("m.meta", "no checkpoint beside it: m.index is missing", marks=in_long_form),
        ("m.onnx", "not a .keras, .h5, .hdf5, .pb, .meta, .tflite file, nor a SavedModel folder"),
    ],
)
def test_a_file_that_is_no_model(celeriac: Celeriac, redis_url: str, name: str, cause: str) -> None:
    path = celeriac.folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(GARBAGE)
    named = path.parent if name.startswith("m/") else path
    (celeriac.folder / "models.toml").write_text(TABLE.format(named.name))
    line = f"model m cannot be loaded from {named}"
    check_refused(celeriac, redis_url, ExitCode.MODEL, line, cause, everywhere=name == "m.keras")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("custom.keras", ["the class or function", "Doubled", "export the model as a SavedModel"]),
        ("lambda.keras", ["it has a Lambda layer", "lambdas = true in the manifest"]),
        pytest.param("lambda.h5", ["it has a Lambda layer", "lambdas = true in the manifest"], marks=in_long_form),
    ],
)
def test_code_of_its_author_s_own_is_not_run(
    celeriac: Celeriac, redis_url: str, files: Path, name: str, words: list[str]
) -> None:
    (celeriac.folder / "models.toml").write_text(TABLE.format(files / name))
    line = f"model m cannot be loaded from {files / name}: "
    check_refused(celeriac, redis_url, ExitCode.MODEL, line, *words, everywhere=LONG and name == "custom.keras")


@pytest.mark.parametrize(
    ("path", "key", "words"),
    [
        ("{models}/digits_saved", 'signature = "scores"', ["no signature 'scores'; it has: serve, serving_default"]),
        ("{files}/modelTrue.tflite", 'signature = "scores"', ["no signature 'scores'; it has: only"]),
        pytest.param("{files}/frozen.pb", 'outputs = ["wides:0"]', ["'wides:0'", "wide:0"], marks=in_long_form),
        ("{files}/frozen.pb", 'outputs = ["wide:7"]', ["no tensor 'wide:7'; 'wide' has 'wide:0'"]),
        pytest.param(
            "{files}/frozen.pb",
            'inputs = ["lefts:0"]\noutputs = ["wide:0"]',
            ["'lefts:0'", "left:0"],
            marks=in_long_form,
        ),
        ("{files}/tree", "version = 3", ["no version 3; there are: 2, 10"]),
        ("{models}/digits.keras", "version = 3", ["no version 3: it is no tree of versions"]),
    ],
)
def test_what_a_model_does_not_have_is_told_with_what_it_has(
    celeriac: Celeriac, redis_url: str, files: Path, models: Path, path: str, key: str, words: list[str]
) -> None:
    path = path.format(files=files, models=models)
    (celeriac.folder / "models.toml").write_text(TABLE.format(path) + key)
    line = f"model m cannot be loaded from {path}: "
    check_refused(
        celeriac, redis_url, ExitCode.MODEL, line, *words, everywhere=LONG and "frozen.pb" in path and "7" in key
    )


@pytest.mark.parametrize(
    ("name", "precision", "words"),
    [
        ("narrow.npy", 'precision = ["int8"]\ntolerance = 0.1\n', ["(63)", "it should hold rows of pixels (?, 64)"]),
        pytest.param("gone.npy", 'precision = ["int8"]\ntolerance = 0.1\n', ["No such file"], marks=in_long_form),
        ("gone.npy", "", ["No such file"]),
    ],
    ids=["narrow", "gone", "gone, for no precision"],
)
def test_a_calibration_file_that_does_not_fit(
    celeriac: Celeriac, redis_url: str, files: Path, models: Path, name: str, precision: str, words: list[str]
) -> None:
    text = TABLE.format(models / "digits.keras") + precision + f'calibration = "{files / name}"\n'
    (celeriac.folder / "models.toml").write_text(text)
    start = f"model m cannot be loaded from {models}/digits.keras: "
    check_refused(celeriac, redis_url, ExitCode.MODEL, start, f"calibration file {files / name}", *words)


# --- the manifest ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TABLE.format("m.keras") + 'precison = ["int8"]\n', ["models.m", "precison"]),
        (TABLE.format("m.keras") + 'precision = ["int4"]\n', ["models.m", "'int4'", "precision"]),
        (TABLE.format("m.keras") + "preload = 1\n", ["models.m", "bool", "preload"]),
        (TABLE.format("m.keras") + 'prefer = "disk"\n', ["models.m", "'disk'", "prefer"]),
        (TABLE.format("m.keras") + 'precision = ["int8"]\n', ["models.m.precision needs calibration"]),
        (TABLE.format("m.keras") + 'calibration = "../rows.npy"\n', ["models.m.calibration", "leads out of"]),
        (TABLE.format("../x.keras"), ["models.m.path is '../x.keras', which leads out of the manifest's folder"]),
        ('memory_limit = "lots"\n' + TABLE.format("m.keras"), ["memory_limit is 'lots'; write it as '800 MiB'"]),
        ("memory_limit = 800\n" + TABLE.format("m.keras"), ["memory_limit"]),
    ],
)
def test_a_manifest_that_says_what_cannot_be(celeriac: Celeriac, redis_url: str, text: str, words: list[str]) -> None:
    (celeriac.folder / "m.keras").write_bytes(GARBAGE)
    (celeriac.folder / "models.toml").write_text(text)
    check_refused(
        celeriac, redis_url, ExitCode.USAGE, "the manifest models.toml: ", *words, everywhere="precison" in text
    )


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("CELERIAC_CACHE", "cache", "is not an absolute path"),
        ("CELERIAC_PIN_CORES", "yes", "is neither 0 nor 1"),
    ],
)
def test_a_setting_that_cannot_be(celeriac: Celeriac, variable: str, value: str, words: str) -> None:
    (celeriac.folder / "m.keras").write_bytes(GARBAGE)
    (celeriac.folder / "models.toml").write_text(TABLE.format("m.keras"))
    line = celeriac.refuses(ExitCode.USAGE, "models", **{variable: value})
    assert f"{variable}={value!r} {words}" in line
