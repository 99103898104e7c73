"""The tables of docs/command-line.md that scripts lean on."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = (Path(__file__).parents[1] / "docs" / "command-line.md").read_text()


def section(title: str) -> list[list[str]]:
    """The rows of the table below a heading, by cells."""
    text = re.split(rf"^#+ {title}$", PAGE, flags=re.MULTILINE)[1]
    table = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert table
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[0].splitlines()[2:]]


def fields_told(command: str) -> list[str]:
    (cell,) = [fields for commands, fields in section("JSON") if f"`{command}`" in commands.split(", ")]
    return re.findall(r"`(\w+)`", cell)
