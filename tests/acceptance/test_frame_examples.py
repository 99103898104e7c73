"""Programs with data of other libraries run as a reader would run them, where there is such a library."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "frames"
# Of a program's code, without what says what it is for.
MOST_LINES = 15
TOLD = {
    "pandas": "id  age  income  output\nk7   24   100.0     4.0\nb2   49   250.0     5.0\nx9   99   400.0     4.0\n",
    "polars": "id,score\nb2,5.0\nx9,4.0\n",
    "arrow": "8999997000000.0\n",
    "datasets": "5 4\n1 31\n",
    "torch": "[0.0, 1.0, 2.0, 3.0]\n",
}


@pytest.mark.parametrize("library", TOLD)
def test_a_program_gives_what_its_model_makes_of_its_rows(library: str, tmp_path: Path) -> None:
    if not importlib.util.find_spec("pyarrow" if library == "arrow" else library):
        pytest.skip(f"{library} is not installed; `make integrations` runs this in an environment that has it")
    ended = subprocess.run(
        [sys.executable, f"with_{library}.py"],
        cwd=FOLDER,
        env={**os.environ, "CELERIAC_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == TOLD[library]


def test_each_is_short() -> None:
    programs = sorted(FOLDER.glob("*.py"))
    assert [path.stem.removeprefix("with_") for path in programs] == sorted(TOLD)
    for path in programs:
        lines = {line for node in ast.walk(ast.parse(path.read_text())) for line in _lines(node)}
        assert len(lines) <= MOST_LINES, path.name


def _lines(node: ast.AST) -> range:
    """Those of a statement, but for docstrings."""
    if not isinstance(node, ast.stmt) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        return range(0)
    if isinstance(node, ast.FunctionDef | ast.If):
        return range(node.lineno, node.lineno + 1)
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)
