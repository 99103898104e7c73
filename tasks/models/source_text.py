"""The text of a Python file, without what changes nothing of what it does: comments and empty lines.

By text, and not by syntax tree, whose form changes from one version of Python to the next: workers of several would not
hold the same models.
"""

from __future__ import annotations

import io
import tokenize
from pathlib import Path


def source_text(path: Path) -> bytes:
    """What counts of a file; all of one that is no Python, or not in order."""
    data = path.read_bytes()
    if path.suffix != ".py":
        return data
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        lines = io.StringIO(data.decode(encoding), newline=None).readlines()
        tokens = list(tokenize.generate_tokens(iter(lines).__next__))
    except (SyntaxError, tokenize.TokenError, UnicodeDecodeError):
        return data
    if any(token.type == tokenize.ERRORTOKEN for token in tokens):
        return data
    for token in tokens:
        row, column = token.start
        if token.type == tokenize.COMMENT:
            lines[row - 1] = lines[row - 1][:column].rstrip() + "\n"
    # Inside of a text there are no such tokens.
    ends = {token.start[0] - 1 for token in tokens if token.type == tokenize.NL}
    kept = [line for number, line in enumerate(lines) if number not in ends or line.strip()]
    return "".join(kept).rstrip().encode()
