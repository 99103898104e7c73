"""Lines on stderr that do not write over a bar which is drawn there: text, log record --> a line above the bar."""

from __future__ import annotations

import logging
import sys

import click


def say(text: str) -> None:
    """Write a line, above whatever bar there is."""
    # Without tqdm there is no bar, and most commands do without it.
    if tqdm := sys.modules.get("tqdm"):
        # Its end with it: Ctrl-C may come between two writes, and what is said then would stand in the same line.
        tqdm.tqdm.write(f"{text}\n", file=sys.stderr, end="")
        sys.stderr.flush()
    else:
        click.echo(text, err=True)


class LinesAboveBars(logging.Handler):
    """Writes what is logged."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            say(self.format(record))
        except Exception:
            self.handleError(record)
