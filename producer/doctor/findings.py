"""What a check has found: that all is well, or what is not and what to do --> lines, JSON, an exit code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import msgspec

from worker_config.errors import CeleriacError, ExitCode

MIB = 2**20


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"  # a run works, but not as well as it could
    ERROR = "error"  # a run would fail


@dataclass(frozen=True)
class Finding:
    """One line of the doctor.

    Attributes:
        check: what was looked at, in one word.
        found: what is so.
        advice: what to do about it; empty where nothing is to be done, or where `found` says it already.
        exit_code: how a run would end; OK for what is no error.
    """

    check: str
    level: Level
    found: str
    advice: str = ""
    exit_code: ExitCode = ExitCode.OK

    def __str__(self) -> str:
        return f"{self.level:<8} {self.check:<12} " + "; ".join(filter(None, [self.found, self.advice]))


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check, Level.OK, found)


def warning(check: str, found: str, advice: str) -> Finding:
    """A run works, but not as well as it could."""
    return Finding(check, Level.WARNING, found, advice)


def error(check: str, found: str, advice: str, code: ExitCode) -> Finding:
    """A run would fail."""
    return Finding(check, Level.ERROR, found, advice, code)


def raised(check: str, cause: CeleriacError) -> Finding:
    """A run would fail by this very error, which says what to do."""
    return error(check, str(cause), "", cause.exit_code)


def of_shard(finding: Finding, address: str) -> Finding:
    """The same, which says of which of several shards it is."""
    return finding if address in finding.found else replace(finding, found=f"{address}: {finding.found}")


def exit_code(findings: Sequence[Finding]) -> ExitCode:
    """That of the first error."""
    return next((finding.exit_code for finding in findings if finding.level is Level.ERROR), ExitCode.OK)


def lines(findings: Sequence[Finding]) -> str:
    """One line for each, and a last one that counts."""
    counts = {level: sum(finding.level is level for finding in findings) for level in Level}
    bad = (Level.ERROR, Level.WARNING)
    last = ", ".join(count_of(counts[level], level) if counts[level] else f"no {level}s" for level in bad)
    return "\n".join([*map(str, findings), last])


def values(findings: Sequence[Finding]) -> dict[str, Any]:
    """The same, as plain values."""
    return {
        "ok": exit_code(findings) is ExitCode.OK,
        "exit_code": int(exit_code(findings)),
        "errors": sum(finding.level is Level.ERROR for finding in findings),
        "warnings": sum(finding.level is Level.WARNING for finding in findings),
        "findings": msgspec.to_builtins(findings),
    }


def mib(size: float) -> str:
    """Bytes, for people."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / MIB:,.1f} MiB"


def count_of(number: int, what: str) -> str:
    """So many of them, in words."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
