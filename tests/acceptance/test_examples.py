"""The examples run as a reader would run them: each in its folder, as a program, with two workers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


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


@pytest.mark.parametrize("name", sorted(folder.name for folder in EXAMPLES.iterdir() if folder.is_dir()))
def test_an_example_says_how_to_run_it(name: str) -> None:
    assert f"cd examples/{name} && python train.py" in (EXAMPLES / name / "train.py").read_text()
