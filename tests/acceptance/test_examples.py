"""The examples run as a reader would run them: each in its folder, as a program, with two workers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pyarrow.parquet as pq
import pytest
from nbclient import NotebookClient
from sklearn.datasets import load_digits

from tests.manifests import write_manifest
from tests.models import in_one_process
from tests.systems import serving

EXAMPLES = Path(__file__).parents[2] / "examples"
# Asked of the kernel after the notebook's last cell: what still runs.
RUNNING = "import psutil\npsutil.Process().children(recursive=True)"
# Of a notebook's code.
MOST_LINES = 15


def run(name: str, cache: Path) -> str:
    done = subprocess.run(
        [sys.executable, "train.py"],
        cwd=EXAMPLES / name,
        env={**os.environ, "CELERIAC_CACHE": str(cache), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_digits_are_augmented_on_workers_while_keras_trains(tmp_path: Path) -> None:
    told = run("digits", tmp_path)
    accuracy = re.search(r"accuracy ([\d.]+) on digits", told)
    assert accuracy
    assert float(accuracy[1]) > 0.8
    assert re.search(r"ledger of 10 epochs: 8990 rows: 8990 predicted, 0 failed, 0 skipped", told)
    assert "29/29" in told.splitlines()[1], "the number of batches is known in the first epoch"


def test_image_files_are_decoded_on_workers_and_damaged_ones_left_out(tmp_path: Path) -> None:
    told = run("images", tmp_path)
    left_out = re.findall(r"left out: row (\d+) \((.*)\) failed at preprocess: .*decode:decode raised", told)
    assert [(number, Path(path).parent.name) for number, path in left_out] == [("10", "disc"), ("110", "disc")]
    assert re.search(r"ledger of 10 epochs: 4000 rows: 3980 predicted, 20 failed, 0 skipped", told)
    last = re.findall(r"accuracy: ([\d.]+)", told)[-1]
    assert float(last) > 0.8


def test_a_program_predicts_with_a_model_that_it_has_not_saved(tmp_path: Path) -> None:
    accuracy = re.fullmatch(r"accuracy ([\d.]+) on digits that were not trained on\n", run("script", tmp_path))
    assert accuracy
    assert float(accuracy[1]) > 0.9


def test_a_program_writes_a_folder_of_files(tmp_path: Path) -> None:
    program = EXAMPLES / "outputs" / "write.py"
    lines = program.read_text().split('"""', 2)[2].splitlines()
    assert sum(bool(line.strip()) for line in lines) <= MOST_LINES
    command = [sys.executable, str(program), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout == f"1797 rows in {tmp_path}/ink.parquet\n", done.stderr
    images, digits = load_digits(return_X_y=True)
    written = pq.read_table(tmp_path / "ink.parquet")
    np.testing.assert_array_equal(written["target"], digits)
    np.testing.assert_array_equal(written["output"], images[:, 8 * 3 + 3] + images[:, 8 * 4 + 4])


def test_jobs_stand_in_a_chain_and_a_chord_of_an_app_of_the_user_s_own(tmp_path: Path, models: Path) -> None:
    rows = np.random.default_rng(3).random((300, 64), np.float32)
    np.save(tmp_path / "rows.npy", rows)
    expected = in_one_process(models / "digits.keras", rows)
    with serving(tmp_path, models / "models.toml") as system:
        url = f"redis+socket://{system.redis.socket}?virtual_host=1"
        environ = {
            **os.environ,
            "CELERIAC_BROKER_URL": system.url,
            "CELERY_BROKER_URL": url,
            "CELERY_RESULT_BACKEND": url,
        }
        with (tmp_path / "shop.log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "shop", "worker", "-c", "2"],
                cwd=EXAMPLES / "celery_app",
                env=environ,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            sent = [sys.executable, "shop.py", str(tmp_path / "rows.npy")]
            done = subprocess.run(
                sent, cwd=EXAMPLES / "celery_app", env=environ, capture_output=True, text=True, timeout=300, check=False
            )
        finally:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
    assert done.returncode == 0, done.stderr
    digit = np.bincount(expected.argmax(axis=1)).argmax()
    assert done.stdout == f"most common digit {digit}, 600 rows in two files\n"
    np.testing.assert_allclose(np.load(tmp_path / "rows.npy.scores2.npy"), expected, rtol=1e-5, atol=1e-6)


def run_notebook(name: str, folder: Path, last: str = "") -> dict[str, nbformat.NotebookNode]:
    """The code cells of an example, run in this folder, by their ids; `last` is what the kernel is asked at the end."""
    notebook = nbformat.read(EXAMPLES / "notebook" / name, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs for cell in code), "it is stored without what it showed"
    assert sum(bool(line.strip()) for cell in code for line in cell.source.splitlines()) <= MOST_LINES
    notebook.cells.append(nbformat.v4.new_code_cell(last + RUNNING, id="running"))
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    cells = {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}
    assert told(cells["running"]) == "[]", "what the last cell has closed still runs"
    return cells


def told(cell: nbformat.NotebookNode) -> str:
    assert not [output for output in cell.outputs if output.get("name") == "stderr"]
    return "".join(output.get("text") or output.data["text/plain"] for output in cell.outputs)


def test_a_notebook_runs_from_its_first_cell_to_its_last(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # where Jupyter and IPython write
    rows = np.random.default_rng(5).random((1797, 64), np.float32)
    demo = tmp_path / "celeriac-demo"
    demo.mkdir()
    np.save(demo / "digits.npy", rows)
    write_manifest(demo, {"digits": models / "digits.keras"})
    folder = tmp_path / "examples" / "notebook"
    folder.mkdir(parents=True)
    cells = run_notebook("digits.ipynb", folder, 'np.save("scores", scores)\n')
    expected = in_one_process(models / "digits.keras", rows)
    np.testing.assert_allclose(np.load(folder / "scores.npy"), expected, rtol=1e-5, atol=1e-6)
    digit = expected[0].argmax()
    assert (told(cells["request"]), told(cells["await"])) == (f"np.int64({digit})", f"{digit}\n")
    assert re.search(r"[\d.]+ m?s ± .* per loop", told(cells["milliseconds"]))
    bar = cells["job"].outputs[0].data
    assert "1797/1797" in bar["text/plain"]
    assert '<progress max="1797" value="1797">' in bar["text/html"]
    assert "1797 rows: 1797 predicted, 0 failed, 0 skipped" in told(cells["job"])


def test_a_notebook_predicts_with_what_it_has_trained_and_a_mistake_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    last = """
import numpy as np
expected = model.predict(centred(images), verbose=0)
np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-6)
"""
    cells = run_notebook("trained_here.ipynb", tmp_path, last)
    accuracy = re.fullmatch(r"np.float64\(([\d.]+)\)", told(cells["predict"]))
    assert accuracy
    assert float(accuracy[1]) > 0.9
    [mistake] = cells["mistake"].outputs
    first, second = mistake.traceback
    assert first.startswith("UnknownModelError: no worker holds model 'digit' (did you mean 'digits'?)")
    assert second == '  line 1: client.predict("digit", images)'


def test_a_notebook_shows_a_job_and_the_rows_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    last = "assert (roots == np.sqrt(np.delete(rows, [500, 70_000], axis=0))).all()\n"
    cells = run_notebook("jobs.ipynb", tmp_path, last)
    assert "100000/100000" in cells["job"].outputs[0].data["text/plain"]
    [view] = cells["view"].outputs
    assert view.data["text/plain"].endswith(", done, 100,000 of 100,000 rows done, 2 of them failed>")
    assert "<svg" in view.data["text/html"]
    assert re.findall(r"row (\d+) failed at \w+: .*no root of a negative number", told(cells["failures"])) == [
        "500",
        "70000",
    ]


@pytest.mark.parametrize("name", sorted(folder.name for folder in EXAMPLES.iterdir() if folder.is_dir()))
def test_an_example_says_how_to_run_it(name: str) -> None:
    runs = {"train.py": "python train.py", "shop.py": "python shop.py", "app.py": "uvicorn app:app"}
    runs["write.py"] = "python write.py"
    if name == "flask":
        runs["app.py"] = "gunicorn app:app"
    runs["README.md"] = "jupyter lab digits.ipynb"
    runs |= {path.name: f"python {path.name}" for path in (EXAMPLES / "frames").glob("*.py")}
    programs = [path for path in (EXAMPLES / name).iterdir() if path.name in runs]
    assert programs
    for path in programs:
        assert f"cd examples/{name} && {runs[path.name]}" in path.read_text()
