"""`make peers` from end to end, with two systems that need no environment of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def test_systems_are_compared_and_their_table_put_into_the_page(tmp_path: Path) -> None:
    marks = "<!-- parquet: begin -->\n<!-- parquet: end -->\n<!-- settings: begin -->\n<!-- settings: end -->\n"
    (tmp_path / "page.md").write_text(f"# Peers\n{marks}")
    command = [sys.executable, "-m", "benchmarks.peers", "--quick", "--works", "parquet", "--systems", "loop,pool"]
    command += ["--page", str(tmp_path / "page.md"), "--results", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = (tmp_path / "peers.jsonl").read_text().splitlines()
    visits = json.loads(line)["measured"]["visits"]
    assert set(visits) == {"loop", "pool"}
    for (visit,) in visits.values():
        assert not visit["trouble"]
        assert visit["cold_seconds"] > visit["warm"][0]["seconds"] > 0
        assert visit["pss"] > 0
        assert visit["written"] > 0
    page = (tmp_path / "page.md").read_text()
    assert "| bare loop |" in page
    assert "| `multiprocessing.Pool` |" in page
