"""What is written beside a bar stands in a line of its own."""

from __future__ import annotations

import io
import logging
import subprocess
import sys

import pytest
from tqdm import tqdm

from producer.cli.terminal import LinesAboveBars, say


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        """What is to be seen: what comes after a carriage return stands in the place of what was there."""
        seen = []
        for line in self.getvalue().split("\n"):
            cells: list[str] = []
            for piece in line.split("\r"):
                cells[: len(piece)] = piece
            seen.append("".join(cells).rstrip())
        return seen


def test_what_is_logged_stands_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    logger, handler = logging.Logger("a logger"), LinesAboveBars()
    handler.setFormatter(logging.Formatter("celeriac: %(message)s"))
    logger.addHandler(handler)
    bar = tqdm(total=6000, ncols=60)
    bar.update(1200)
    logger.warning("job 3f2a waits")
    bar.refresh()
    first, second = screen.lines()
    assert first == "celeriac: job 3f2a waits"
    assert second.startswith(" 20%|")
    bar.close()


def test_a_line_is_written_with_its_end_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    monkeypatch.setattr(screen, "write", written.append)
    say("a word")
    assert [piece for piece in written if piece] == ["a word\n"]


def test_without_a_bar_it_is_a_line_and_nothing_is_imported_for_it() -> None:
    code = "import sys; from producer.cli.terminal import say; say('a word'); print('tqdm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("False\n", "a word\n")
