"""What each file of tests costs: processor seconds of its process and of all that descends from it, worker starts.

    pytest -p tests.costs ...

Descendants are looked at while they live: a worker that is killed has children whose times no parent ever learns.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PERIOD_SECONDS = 0.2
_TICKS = os.sysconf("SC_CLK_TCK")
_FIRST = 30
_COMMAND, _WARM = b"tasks\0worker\0", b"warm.py\0worker\0"
# A process is not at once what it becomes.
_LOOKS = 10


class Costs:
    """Follows the processes of one test process."""

    def __init__(self) -> None:
        self.by_file: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
        self._seen: dict[tuple[int, int], float] = {}
        self._looks: Counter[tuple[int, int]] = Counter()
        self._workers: set[tuple[int, int]] = set()
        self._lock = threading.Lock()
        self._last = (0.0, 0)
        threading.Thread(target=self._follow, daemon=True).start()

    def charge(self, file: str) -> None:
        """What was used since the last call is this file's."""
        self._look()
        with self._lock:
            now = (sum(self._seen.values()), len(self._workers))
        cost = self.by_file[file]
        cost[0] += now[0] - self._last[0]
        cost[1] += now[1] - self._last[1]
        self._last = now

    def _follow(self) -> None:
        while True:
            self._look()
            threading.Event().wait(PERIOD_SECONDS)

    def _look(self) -> None:
        alive = {key[0]: (key, parent, seconds) for key, parent, seconds in _processes()}
        with self._lock:
            known = {key for key in self._seen if key[0] in alive and alive[key[0]][0] == key}
            ours = {os.getpid(), *(pid for pid, _ in known)}
            for _ in range(8):  # generations that may be born between two looks
                ours |= {pid for pid, (_, parent, _) in alive.items() if parent in ours}
            for pid in ours & alive.keys():
                key, parent, seconds = alive[pid]
                self._seen[key] = seconds
                self._looks[key] += 1
                if self._looks[key] <= _LOOKS and _is_worker(pid, parent, alive.get(parent, (None, 0, 0.0))[1]):
                    self._workers.add(key)


def _processes() -> Iterator[tuple[tuple[int, int], int, float]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            # Of proc(5), counted from the state: 1 parent, 11 user, 12 system, 19 start.
            yield (int(entry.name), int(fields[19])), int(fields[1]), (int(fields[11]) + int(fields[12])) / _TICKS


def _is_worker(pid: int, parent: int, parents_parent: int) -> bool:
    """Whether it is a worker's main process: the command, or a fork of the warm process that is not itself a child."""
    command = _command(pid)
    if _WARM in command:
        return _WARM in _command(parent) and _WARM not in _command(parents_parent)
    return _COMMAND in command and _COMMAND not in _command(parent)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def pytest_configure(config: pytest.Config) -> None:
    """Begin; with xdist, in each of its processes."""
    config.pluginmanager.register(_Plugin(config), "celeriac-costs")


class _Plugin:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._costs = Costs()
        self._gathered: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Charge a test's file with what the test has used, and its fixtures."""
        result = yield
        self._costs.charge(item.nodeid.partition("::")[0])
        return result

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Gather what xdist's process says."""
        for file, (seconds, workers) in node.workeroutput.get("costs", {}).items():
            self._gathered[file][0] += seconds
            self._gathered[file][1] += workers

    def pytest_sessionfinish(self) -> None:
        """Tell the main process."""
        if hasattr(self._config, "workeroutput"):
            self._config.workeroutput["costs"] = {file: tuple(cost) for file, cost in self._costs.by_file.items()}

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the dearest files."""
        costs = self._gathered or self._costs.by_file
        total = sum(seconds for seconds, _ in costs.values())
        terminalreporter.section(f"processor seconds: {total:.0f} in all")
        for file, (seconds, workers) in sorted(costs.items(), key=lambda item: -item[1][0])[:_FIRST]:
            terminalreporter.line(f"{seconds:8.1f} {int(workers):4} workers  {file}")
