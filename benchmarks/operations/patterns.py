"""Operations that become something else together: each pattern is the least that a case of the sweep needed."""

from __future__ import annotations

from tasks.executors.operations import Pattern

PATTERNS: list[Pattern] = []
