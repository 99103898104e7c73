"""Records of jobs for commands that only show them, which need no signing key.

environment --> Viewer --> records that were checked; without keys also what is signed, and then a line that says so
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import click

from tasks.protocol.seal import Viewer
from worker_config.settings import Settings, variable_of


@contextmanager
def viewing() -> Iterator[Viewer]:
    """What opens records in the block, with the keys of the environment if it has any; no other setting is read."""
    variable = variable_of("signing_key")
    viewer = Viewer(Settings.from_env({variable: os.environ.get(variable, "")}).signing_key)
    yield viewer
    if viewer.unchecked:
        click.echo(f"celeriac: jobs are signed, and {variable} is not set here: they are shown unchecked", err=True)
