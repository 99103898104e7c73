"""Model sets are built on one machine, and served on another one without TensorFlow: to the bit, or with a clear word.

Each environment is a real one, in which `import tensorflow` fails; another processor, or another version of a package,
is a line of its start-up file.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.executors import EXECUTORS
from tasks.models.batches import in_batches
from tasks.preparation.trials import known_trials
from tasks.snapshots import cache
from tests.acceptance.commands import Celeriac, Ended
from tests.environments import build_wheel, make_small_environment, run, site_of
from tests.manifests import write_manifest
from tests.models import keras_may_warn
from tests.waiting import wait_until
from worker_config.errors import ExitCode

ROWS = 203
STEPS = """
import pathlib
import scales

def scaled(rows):
    return rows * scales.FACTOR + float(pathlib.Path(__file__).with_name("offset.txt").read_text())
"""
PROCESSOR = "import tasks.models.devices as devices\ndevices.processor = lambda: 'of another kind'\n"
VERSION = """
import importlib.metadata as metadata
true = metadata.version
metadata.version = lambda name: "9.9" if name == {name!r} else true(name)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """`pip install celeriac[runtime]`"""
    return make_small_environment(tmp_path_factory.mktemp("runtime"), wheel, ["runtime"])


@pytest.fixture(scope="module")
def openvino(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """With OpenVINO, and without LiteRT, so that models are run by it."""
    pytest.importorskip("openvino")
    folder = tmp_path_factory.mktemp("openvino")
    return make_small_environment(folder, wheel, ["runtime", "openvino"], without="ai-edge-litert")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """With what was installed where the set was built, but for TensorFlow."""
    pytest.importorskip("openvino")
    return make_small_environment(tmp_path_factory.mktemp("both"), wheel, ["runtime", "openvino"])


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """Without anything that runs a model."""
    return make_small_environment(tmp_path_factory.mktemp("bare"), wheel, ["runtime"], without="ai-edge-litert")


@pytest.fixture(scope="module")
def rows() -> Any:
    return np.random.default_rng(3).normal(0, 1, (ROWS, 8, 8, 1)).astype(np.float32)


@pytest.fixture(scope="module")
@keras_may_warn()
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that others than TensorFlow run, one with functions of its own; and `texts`, which it alone runs."""
    import keras
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("models")
    keras.utils.set_random_seed(5)
    layers = keras.layers
    net = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )
    net.save(folder / "net.keras")

    class Texts(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def __call__(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"length": tf.strings.length(texts)}

    texts = Texts()
    tf.saved_model.save(texts, folder / "texts", signatures={"serving_default": texts.__call__})
    (folder / "steps.py").write_text(STEPS)
    (folder / "scales.py").write_text("FACTOR = 2.0\n")
    (folder / "offset.txt").write_text("0.5")
    (folder / "unused.py").write_text("")
    models = {
        "net": str(folder / "net.keras"),  # which is absolute
        "scaled": {"path": "net.keras", "preprocess": "steps:scaled", "files": ["offset.txt"]},
        "texts": "texts",
    }
    return write_manifest(folder, models, memory_limit="4 GiB")


@pytest.fixture
def celeriac(tmp_path_factory: pytest.TempPathFactory, rows: Any) -> Iterator[Celeriac]:
    yield from _celeriac(Celeriac(tmp_path_factory.mktemp("c")), rows)


@pytest.fixture
def on(tmp_path_factory: pytest.TempPathFactory, rows: Any) -> Iterator[Callable[[Path], Celeriac]]:
    """The command of another environment."""
    made: list[Celeriac] = []

    def on_machine(environment: Path) -> Celeriac:
        made.append(Celeriac(tmp_path_factory.mktemp("e"), environment / "bin" / "celeriac"))
        np.save(made[-1].folder / "rows.npy", rows)
        return made[-1]

    yield on_machine
    for one in made:
        one.stop()


def _celeriac(celeriac: Celeriac, rows: Any) -> Iterator[Celeriac]:
    np.save(celeriac.folder / "rows.npy", rows)
    yield celeriac
    celeriac.stop()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, manifest: Path) -> tuple[Path, dict[str, Any]]:
    """A set of all models, and what was told of it."""
    celeriac = Celeriac(tmp_path_factory.mktemp("b"))
    ended = celeriac.run("models", "--models", manifest, "--build", "set", "--json")
    assert ended.code == ExitCode.OK, ended
    celeriac.stop()
    return celeriac.folder / "set", ended.json


@pytest.fixture
def there(tmp_path: Path, built: tuple[Path, dict[str, Any]]) -> Path:
    """A copy of the set at another place, as on another machine."""
    shutil.copytree(built[0], tmp_path / "there")
    return tmp_path / "there"


def predict(celeriac: Celeriac, models: Path, model: str = "net", *words: str, **environ: str) -> Ended:
    """A run with a cache of its own; the output is `out.npy`, of several models `out.npz`."""
    output = "out.npz" if "," in model else "out.npy"
    environ = {"CELERIAC_CACHE": str(celeriac.root / "cache"), **environ}
    return celeriac.run("predict", model, "rows.npy", "-o", output, "--models", models, *words, **environ)


def predicted(celeriac: Celeriac, models: Path, model: str = "net", **environ: str) -> Any:
    ended = predict(celeriac, models, model, **environ)
    assert ended.code == ExitCode.OK, ended
    outputs = np.load(celeriac.folder / "out.npy")
    (celeriac.folder / "out.npy").unlink()
    return outputs


def refusal(celeriac: Celeriac, models: Path, code: ExitCode = ExitCode.MODEL, model: str = "net") -> str:
    ended = predict(celeriac, models, model)
    assert ended.code == code, ended
    celeriac.check_one_line(ended)
    return ended.lines[0]


def of_executor(folder: Path, name: str, rows: Any) -> Any:
    """What an executor gives in this process, which has TensorFlow, on what the set holds of a model."""
    (snapshot_folder,) = [one.parent for one in folder.glob(f"snapshots/*/built/{name}.*")][:1]
    snapshot = cache.read(snapshot_folder.parent)
    assert snapshot is not None
    call = EXECUTORS[name].load(snapshot_folder.parent, snapshot, 64, 1)
    return in_batches(call, [rows], 64)[0]


# What is built.


def test_the_set_says_what_it_is_and_holds_what_is_needed(built: tuple[Path, dict[str, Any]]) -> None:
    folder, told = built
    assert {name: one["without"] for name, one in told["models"].items()} == {
        "net": "tflite",
        "scaled": "tflite",
        "texts": "",
    }
    assert told["models"]["texts"]["needs"].startswith("its own graph runs it (no rows can be made up")
    assert told["installed"] == []
    record = json.loads((folder / "built.json").read_text())
    assert record["sha256"] == told["digest"]
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert set(record["record"]["files"]) == files - {"built.json"}
    assert {name for name in files if "/" not in name} == {
        "built.json",
        "models.toml",
        "steps.py",
        "scales.py",
        "offset.txt",
    }
    assert not [name for name in files if name.endswith((".lock", "in-use", ".log"))]
    assert 'memory_limit = "4096 MiB"' in (folder / "models.toml").read_text()
    # One snapshot for the two models of one file.
    assert len(list(folder.glob("snapshots/*"))) == 2


# Served elsewhere.


def test_without_tensorflow_the_outputs_are_the_same_to_the_bit(
    celeriac: Celeriac,
    on: Callable[[Path], Celeriac],
    runtime: Path,
    built: tuple[Path, dict[str, Any]],
    there: Path,
    rows: Any,
) -> None:
    lines = "import importlib.util as i; print([n for n in ('tensorflow', 'keras', 'openvino') if i.find_spec(n)])"
    assert run([str(runtime / "bin" / "python"), "-c", lines], celeriac.folder) == "[]\n"
    elsewhere = on(runtime)
    alone = {"CELERIAC_MODEL_SET": "net,scaled"}
    for model in ("net", "scaled"):
        here = predicted(celeriac, built[0] / "models.toml", model, **alone)
        assert here.shape == (ROWS, 4)
        assert predicted(elsewhere, there / "models.toml", model, **alone).tobytes() == here.tobytes()
    assert predicted(elsewhere, there / "models.toml").tobytes() == of_executor(built[0], "tflite", rows).tobytes()
    assert {path.name for path in there.iterdir()} == {path.name for path in built[0].iterdir()}  # it was only read


def test_where_all_is_as_it_was_built_no_executor_is_tried(
    on: Callable[[Path], Celeriac], both: Path, built: tuple[Path, dict[str, Any]], there: Path, rows: Any
) -> None:
    elsewhere = on(both)
    assert len(predicted(elsewhere, there)) == ROWS
    (folder,) = (path.parent for path in (elsewhere.root / "cache").glob("*/weights.bin"))
    tried_there = {path.name for path in built[0].glob("snapshots/*/trials-*")}
    assert {path.name for path in folder.glob("trials-*")} <= tried_there


def test_by_openvino_too(
    on: Callable[[Path], Celeriac], openvino: Path, built: tuple[Path, dict[str, Any]], there: Path, rows: Any
) -> None:
    elsewhere = on(openvino)
    outputs = predicted(elsewhere, there / "models.toml")
    assert outputs.tobytes() == of_executor(built[0], "openvino", rows).tobytes()
    ended = elsewhere.run(
        "models", "--models", there / "models.toml", "--json", CELERIAC_CACHE=str(elsewhere.root / "cache")
    )
    told = {one["name"]: one["executor"] for one in ended.json["models"]}
    assert told == {"net": "openvino", "scaled": "openvino"}
    assert "pip install 'celeriac[worker]'" in ended.json["broken"]["texts"]


def test_on_another_processor_executors_are_tried_anew_without_tensorflow(
    on: Callable[[Path], Celeriac],
    runtime: Path,
    built: tuple[Path, dict[str, Any]],
    there: Path,
    rows: Any,
    tmp_path: Path,
) -> None:
    environment = varied(runtime, tmp_path, PROCESSOR)
    elsewhere = on(environment)
    outputs = predicted(elsewhere, there / "models.toml")
    assert outputs.tobytes() == of_executor(built[0], "tflite", rows).tobytes()
    (folder,) = (path.parent for path in (elsewhere.root / "cache").glob("*/weights.bin"))
    # A packed file and a record for each kind of processor.
    assert len(list(folder.glob("built/tflite-*.packed"))) == 2
    new = {path.name for path in folder.glob("trials-*")} - {
        path.name for path in built[0].glob("snapshots/*/trials-*")
    }
    trials = known_trials(folder, folder / new.pop())
    assert trials is not None
    assert [(one.executor, one.agrees, one.rows > 0) for one in trials.trials if one.rows] == [("tflite", True, True)]


def test_a_row_that_needs_the_own_graph_fails_and_says_why(
    celeriac: Celeriac,
    on: Callable[[Path], Celeriac],
    runtime: Path,
    built: tuple[Path, dict[str, Any]],
    there: Path,
    rows: Any,
) -> None:
    odd = rows.copy()
    odd[17, 0, 0, 0] = np.nan
    odd[101] = 1e30
    right = predicted(celeriac, built[0] / "models.toml")
    elsewhere = on(runtime)
    np.save(elsewhere.folder / "rows.npy", odd)
    ended = predict(elsewhere, there / "models.toml")
    assert ended.code == ExitCode.ROWS_FAILED, ended
    assert "row 17 " in ended.stderr
    assert "tflite is not for this row" in ended.stderr
    assert "TensorFlow" in ended.stderr
    ended = predict(elsewhere, there / "models.toml", "net", "--on-error", "fill", "--max-failed", "2", "--force")
    assert ended.code == ExitCode.OK, ended
    filled = np.load(elsewhere.folder / "out.npy")
    failed = [17, 101]
    assert np.isnan(filled[failed]).all()
    assert np.delete(filled, failed, 0).tobytes() == np.delete(right, failed, 0).tobytes()


def test_models_that_need_tensorflow_are_named_all_and_the_others_served(
    on: Callable[[Path], Celeriac], runtime: Path, there: Path, tmp_path: Path
) -> None:
    elsewhere = on(runtime)
    line = refusal(elsewhere, there / "models.toml", model="texts")
    assert "model texts needs it: its own graph runs it (no rows can be made up" in line
    assert "pip install 'celeriac[worker]'" in line
    (there / "built.json").unlink()  # a manifest like any other, whose models were never prepared
    line = refusal(elsewhere, there / "models.toml", model="net,scaled")
    assert "model net needs it" in line
    assert "model scaled needs it" in line
    assert "celeriac models --build" in line


def test_functions_and_tflite_files_need_no_set(
    on: Callable[[Path], Celeriac], runtime: Path, built: tuple[Path, dict[str, Any]], rows: Any
) -> None:
    elsewhere = on(runtime)
    [converted] = built[0].glob("snapshots/*/built/tflite.tflite")
    shutil.copyfile(converted, elsewhere.folder / "net.tflite")
    (elsewhere.folder / "steps.py").write_text("def twice(rows):\n    return 2 * rows\n")
    chain = {"chain": ["twice", "net"]}
    models = write_manifest(elsewhere.folder, {"net": "net.tflite", "twice": "steps:twice", "both": chain})
    assert (predicted(elsewhere, models, "twice") == 2 * rows).all()
    assert predicted(elsewhere, models, "both").shape == (ROWS, 4)
    (elsewhere.folder / "steps.py").write_text("import keras\ndef twice(rows):\n    return 2 * rows\n")
    line = refusal(elsewhere, models, model="twice")
    assert "model twice needs it: a function of its own imports it" in line


@pytest.mark.parametrize("name", ["openvino", "ai-edge-litert"])
def test_a_runtime_that_is_not_installed_is_named_with_its_command(
    on: Callable[[Path], Celeriac], bare: Path, there: Path, name: str
) -> None:
    line = refusal(on(bare), there / "models.toml")
    install = {"openvino": "celeriac[openvino]", "ai-edge-litert": "celeriac[runtime]"}[name]
    assert f"is not installed; pip install '{install}'" in line


@pytest.mark.parametrize(("has", "package"), [("runtime", "ai-edge-litert"), ("openvino", "openvino")])
def test_another_version_of_a_runtime_of_which_nothing_is_known(
    on: Callable[[Path], Celeriac],
    there: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    has: str,
    package: str,
) -> None:
    environment = varied(request.getfixturevalue(has), tmp_path, VERSION.format(name=package))
    line = refusal(on(environment), there / "models.toml")
    assert " is unproven for " in line
    assert f"with {package} 9.9: pip install '{package}==" in line


def varied(environment: Path, folder: Path, code: str) -> Path:
    """The same environment, in which this is run when Python starts."""
    other = folder / "varied"
    shutil.copytree(environment, other, symlinks=True)
    for script in (other / "bin").iterdir():
        if not script.is_symlink() and script.read_bytes().startswith(b"#!"):
            script.write_text(script.read_text().replace(str(environment), str(other)))
    (site_of(other) / "sitecustomize.py").write_text(code)
    return other


# Not what was built.


@pytest.mark.parametrize(
    "name",
    [
        "built.json",
        "models.toml",
        "steps.py",
        "offset.txt",
        "models/scaled/net.keras",
        "snapshot.json",
        "weights.bin",
        "model/saved_model.pb",
        "reference.bin",
        "built/tflite.tflite",
        "trials-",
    ],
)
@pytest.mark.parametrize("how", ["a bit", "missing"])
def test_a_damaged_set_is_refused_by_the_file(
    on: Callable[[Path], Celeriac], runtime: Path, there: Path, name: str, how: str
) -> None:
    # The snapshot of the model with the same file.
    (weights,) = there.glob("snapshots/*/built/tflite.tflite")
    places = [path for path in (*there.rglob("*"), *there.iterdir()) if path.is_file()]
    path = next(path for path in places if str(path).startswith((str(there / name), str(weights.parents[1] / name))))
    if how == "a bit":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif name == "built.json":
        return  # then it is another manifest; see above
    else:
        path.unlink()
    line = refusal(on(runtime), there / "models.toml", model="scaled")
    assert path.name in line
    assert "copy it anew from where it was built" in line
    assert "celeriac models --build" in line


def test_a_cache_that_cannot_be_written_is_named(on: Callable[[Path], Celeriac], runtime: Path, there: Path) -> None:
    elsewhere = on(runtime)
    (elsewhere.folder / "file").touch()
    ended = predict(elsewhere, there, CELERIAC_CACHE=str(elsewhere.folder / "file" / "cache"))
    assert ended.code == ExitCode.MODEL, ended
    elsewhere.check_one_line(ended)
    assert "Not a directory" in ended.lines[0]
    assert "name another folder with CELERIAC_CACHE" in ended.lines[0]


def test_what_is_in_the_cache_of_a_set_and_damaged_there_is_copied_again(
    on: Callable[[Path], Celeriac], runtime: Path, there: Path
) -> None:
    elsewhere = on(runtime)
    before = predicted(elsewhere, there / "models.toml")
    (packed,) = (elsewhere.root / "cache").glob("*/built/tflite.tflite")
    data = bytearray(packed.read_bytes())
    data[len(data) // 2] ^= 1
    packed.write_bytes(data)
    assert predicted(elsewhere, there / "models.toml").tobytes() == before.tobytes()


# Written whole.


def test_nothing_is_written_over_and_nothing_half(
    celeriac: Celeriac, manifest: Path, built: tuple[Path, dict[str, Any]]
) -> None:
    words = ("models", "--models", manifest, "--build")
    line = celeriac.refuses(ExitCode.USAGE, *words, built[0])
    assert "exists already" in line
    celeriac.folder.joinpath("empty").mkdir()
    broken = write_manifest(celeriac.folder, {"net": "net.keras"})
    (celeriac.folder / "net.keras").write_bytes(b"no model")
    ended = celeriac.run("models", "--models", broken, "--build", "empty")
    assert ended.code == ExitCode.MODEL, ended
    assert ended.lines[-1].startswith("celeriac: model net cannot be loaded from ")
    assert celeriac.hidden_names() == set()
    assert list(celeriac.folder.joinpath("empty").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_build_that_is_ended_leaves_no_set(celeriac: Celeriac, manifest: Path, number: signal.Signals) -> None:
    running = celeriac.start("models", "--models", manifest, "--build", "set", CELERIAC_MODEL_SET="texts", fresh=True)
    wait_until(lambda: "making a snapshot" in running.stderr.read_text(), "the build has begun")
    running.signal(number)
    assert not (celeriac.folder / "set").exists()
    if number != signal.SIGKILL:
        assert running.end().code == ExitCode.CANCELLED
        assert celeriac.hidden_names() == set()
    # What it left does not stop the next one.
    ended = celeriac.start("models", "--models", manifest, "--build", "set", CELERIAC_MODEL_SET="texts").end()
    assert ended.code == ExitCode.OK, ended
    assert celeriac.hidden_names() == set()
    assert (celeriac.folder / "set" / "built.json").exists()
    assert "needs TensorFlow: its own graph runs it" in ended.stdout


def test_a_file_that_would_not_be_found_elsewhere_is_refused(celeriac: Celeriac, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("a")
    (celeriac.folder / "steps.py").write_text("def same(rows):\n    return rows\n")
    write_manifest(celeriac.folder, {"step": {"preprocess": "steps:same", "files": [str(tmp_path / "vocab.txt")]}})
    line = celeriac.refuses(ExitCode.USAGE, "models", "--build", "set")
    assert f"models.step.files names {tmp_path}/vocab.txt" in line
    assert "put it beside the manifest" in line
