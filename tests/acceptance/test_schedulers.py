"""The recipes of docs/schedulers.md: commands that there are, files of the right form; what runs here is run."""

from __future__ import annotations

import ast
import configparser
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import numpy as np
import pytest
import yaml

from producer.cli.predict import predict
from tests.held import holding, write_held_models
from tests.manifests import write_manifest
from tests.systems import BIN, System, serving
from tests.waiting import wait_until
from worker_config.errors import ExitCode

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "schedulers.md").read_text()
SCRIPT = REPOSITORY / "examples" / "nightly.sh"
MOST_LINES = 15
DAY = "2026-11-29"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def check_command(text: str) -> None:
    """The first `celeriac predict` of a text has options that there are, and that go together."""
    words = shlex.split(text[text.index("celeriac predict") :])[2:]
    params = predict.make_context("predict", words, resilient_parsing=False).params
    assert params["job"]
    assert params["output"]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("s")
    paths = {"digits": models / "digits.keras", **write_held_models(folder)}
    with serving(folder, write_manifest(folder, paths)) as system:
        yield system


def run_script(system: System, *words: object) -> subprocess.Popen[bytes]:
    environ = system.environ(CELERIAC_BROKER_URL=system.url, PATH=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    command = [str(SCRIPT), *map(str, words)]
    return subprocess.Popen(command, env=environ, cwd=system.folder, stdout=subprocess.PIPE)


def test_the_script_is_short_and_the_one_of_the_page() -> None:
    (shown,) = blocks("sh")
    assert shown == SCRIPT.read_text()
    assert len(shown.splitlines()) <= MOST_LINES
    check_command(shown)


def test_the_script_run_twice_at_a_time_and_once_more_predicts_once(system: System, tmp_path: Path) -> None:
    rows = np.full((8, 4), 42, np.float32)
    np.save(tmp_path / f"{DAY}.npy", rows)
    words = "held", tmp_path / f"{DAY}.npy", tmp_path / "scores.npy"
    with holding(system.folder, 42):
        running = [run_script(system, *words) for _ in range(2)]
        with system.admin() as client:
            key = f"celeriac:named:held of {DAY}.npy"
            wait_until(lambda: client.hget(key, "job"), "one of them has begun", 60)
    told = [one.communicate()[0] for one in (*running, run_script(system, *words))]
    assert [one.returncode for one in running] == [ExitCode.OK, ExitCode.OK]
    done_before = sorted(b'"done_before":true' in one for one in told)
    assert done_before == [False, True, True], told
    np.testing.assert_array_equal(np.load(tmp_path / "scores.npy"), 2 * rows)


def test_cron_is_given_what_the_shell_can_read() -> None:
    (shown,) = blocks("cron")
    *_, line = shown.splitlines()
    assert re.match(r"(\S+ ){4}\S+  /srv/nightly\.sh digits ", line)
    command = line.split("  ", 1)[1]
    assert not re.search(r"(?<!\\)%", command), "cron would end the command there"
    plain = command.replace("\\%", "%").replace("/srv/nightly.sh", "printf '%s\\n'").split(" >>")[0]
    words = subprocess.run(["/bin/sh", "-c", plain], check=True, capture_output=True, text=True).stdout.split()
    assert words[0] == "digits"
    assert [bool(re.search(r"\d{4}-\d\d-\d\d\.npy$", word)) for word in words[1:]] == [True, True]


def test_systemd_s_units_are_read_and_start_the_script(tmp_path: Path) -> None:
    service, timer = map(read_unit, blocks("ini"))
    if analyze := shutil.which("systemd-analyze"):
        for text in blocks("ini"):
            name = re.findall(r"nightly\.\w+$", text.splitlines()[0])[0]
            (tmp_path / name).write_text(text)
        units = [str(path) for path in tmp_path.iterdir()]
        done = subprocess.run([analyze, "verify", "--man=no", *units], check=False, capture_output=True, text=True)
        assert "nightly" not in done.stderr, done
    assert set(service["Service"]["RestartPreventExitStatus"].split()) == {"2", "3", "4", "5"}
    words = shlex.split(service["Service"]["ExecStart"].replace("$$", "$").replace("%%", "%"))
    assert words[:2] == ["/bin/sh", "-c"]
    plain = words[2].replace("exec /srv/nightly.sh", "printf '%s\\n'")
    told = subprocess.run(["/bin/sh", "-c", plain], check=True, capture_output=True, text=True).stdout.split()
    assert told[1] == f"/data/{time.strftime('%Y')}{told[1][10:]}"
    assert timer["Timer"]["Persistent"] == "true"


def read_unit(text: str) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)
    return unit


def test_kubernetes_takes_the_cron_job() -> None:
    (shown,) = blocks("yaml")
    job: dict[str, Any] = yaml.safe_load(shown)
    for version in ("1.31", kubernetes_validate.latest_version()):
        kubernetes_validate.validate(job, version, strict=True)
    spec = job["spec"]["jobTemplate"]["spec"]
    assert spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [2, 3, 4, 5]
    check_command(spec["template"]["spec"]["containers"][0]["args"][0])


def test_airflow_s_command_is_one_that_there_is() -> None:
    (operator,) = [one for one in blocks("python") if "BashOperator" in one]
    (command,) = [
        word.value.value
        for call in ast.walk(ast.parse(operator))
        if isinstance(call, ast.Call)
        for word in call.keywords
        if word.arg == "bash_command" and isinstance(word.value, ast.Constant)
    ]
    check_command(str(command).replace("{{ ds }}", DAY))


def test_airflow_s_function_gives_the_predictions_also_when_it_is_tried_again(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shown,) = [one for one in blocks("python") if "def predict" in one]
    scope: dict[str, Any] = {}
    exec(compile(shown, "docs/schedulers.md", "exec"), scope)  # noqa: S102 - of our own page
    np.save(tmp_path / f"{DAY}.npy", np.random.default_rng(6).random((100, 64), np.float32))
    monkeypatch.setenv("CELERIAC_BROKER_URL", system.url)
    outputs = [np.load(scope["predict"](DAY, str(tmp_path))) for _ in range(2)]
    assert outputs[0].shape == (100, 10)
    np.testing.assert_array_equal(*outputs)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{DAY}.npy", f"scores-{DAY}.npy"]


def test_every_exit_code_is_told_what_to_do_about() -> None:
    told = re.findall(r"^\| ([\d, ]+) \|", PAGE, re.MULTILINE)
    codes = sorted(int(code) for one in told for code in one.split(","))
    assert codes == sorted(set(ExitCode) - {ExitCode.INTERNAL})
