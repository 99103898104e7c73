"""Sweeps cases: each in a snapshot, by each executor, on the rows that hurt, in processes that may crash.

    cases --fork, some at a time--> snapshot -> graph's outputs -> each executor's --> a line of JSON per case --> Seen

Who dies, or takes more than `STAGE_SECONDS`, loses the executor that it was about: the case is swept again without it.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.operations.case import COLUMNS, ROWS, Case, Owner, program_of
from benchmarks.operations.converted import operators
from benchmarks.operations.judging import RELATIVE, ROUNDED, differences
from benchmarks.operations.seen import Found, Seen, summary
from benchmarks.operations.sweep_rows import sweep_rows
from tasks.executors import EXECUTORS, bfloat16, frozen, openvino_ir, tflite
from tasks.executors.graph_operations import operations_of
from tasks.models.devices import limit_threads
from tasks.models.program import concrete
from tasks.snapshots.record import Snapshot
from tests.snapshots import write_snapshot
from worker_config.manifest import ModelEntry

STAGE_SECONDS = 300
AT_A_TIME, TOGETHER = 24, 6


def sweep(cases: Sequence[Case], names: Sequence[str], say: Callable[[str], None]) -> list[Seen]:
    """What is seen of all cases, in their order, by the executors of these names."""
    with tempfile.TemporaryDirectory(prefix="celeriac-sweep-") as folder:
        path = Path(folder) / "seen.jsonl"
        skip: dict[str, dict[str, str]] = {}
        apart: set[str] = set()
        done: dict[str, Seen] = {}
        # Those of the same inputs beside each other.
        ordered = sorted(cases, key=lambda case: (repr(case.inputs), case.is_exact, case.places))
        while rest := [case for case in ordered if case.name not in done]:
            path.write_text("")
            status = _forked(rest[:AT_A_TIME], names, skip, apart, path)
            running, executor = [], ""
            for line in path.read_text().splitlines():
                kind, told = msgspec.json.decode(line)
                if kind == "stage":
                    running, executor = told
                    continue
                seen = msgspec.convert(told, Seen)
                done[seen.name] = seen
                say(f"{len(done):4} of {len(cases)}  {seen.seconds:5.1f} s  {summary(seen)}")
            if not status:
                continue
            how = "takes too long" if status == signal.SIGALRM else "gives no outputs"
            if len(running) > 1:
                apart.update(running)
            elif executor in ("", "graph"):
                done[running[0]] = Seen(running[0], failed=how)
            else:
                skip.setdefault(running[0], {})[executor] = how
    return [done[case.name] for case in cases]


def _forked(
    cases: Sequence[Case], names: Sequence[str], skip: dict[str, dict[str, str]], apart: set[str], path: Path
) -> int:
    """Sweep cases in a process of its own; the signal that ended it, or 0."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        _pid, status = os.waitpid(pid, 0)
        return status & 0x7F or (1 if status else 0)
    code = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        with path.open("a") as file, tempfile.TemporaryDirectory(prefix="celeriac-swept-") as scratch:

            def tell(kind: str, what: Any) -> None:
                file.write(msgspec.json.encode((kind, what)).decode() + "\n")
                file.flush()

            limit_threads(1)
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 2)
            for bundle in _bundles(cases, {*skip, *apart}):
                one = bundle[0].name if len(bundle) == 1 else ""
                for seen in Sweeping(Path(scratch), names, skip.get(one, {}), tell).sweep(bundle):
                    tell("case", seen)
        code = 0
    finally:
        os._exit(code)


def _bundles(cases: Sequence[Case], apart: Collection[str]) -> Iterator[list[Case]]:
    """Cases that can share a program: of the same inputs."""
    bundle: list[Case] = []
    for case in cases:
        first = bundle[0] if bundle else case
        same = (case.inputs, case.is_exact, case.places) == (first.inputs, first.is_exact, first.places)
        if bundle and (not same or len(bundle) == TOGETHER or case.name in apart or first.name in apart):
            yield bundle
            bundle = []
        bundle.append(case)
    if bundle:
        yield bundle


class Sweeping:
    """The sweep of some cases in this process.

    Args:
        scratch: a folder.
        names: of executors.
        skip: executors that ended the process, and how.
        tell: takes a kind and what; "stage" before each step.
    """

    def __init__(
        self, scratch: Path, names: Sequence[str], skip: dict[str, str], tell: Callable[[str, Any], None]
    ) -> None:
        self.scratch, self.names, self.skip, self.tell = scratch, names, skip, tell

    def sweep(self, cases: Sequence[Case]) -> list[Seen]:
        """What is seen of each; never raises an `Exception`."""
        import keras

        started = time.perf_counter()
        keras.backend.clear_session()
        try:
            seen = self._seen(cases)
        except Exception as error:
            if len(cases) > 1:
                return [one for case in cases for one in self.sweep([case])]
            seen = [Seen(cases[0].name, failed=_line(error))]
        for one in seen:
            one.seconds = round((time.perf_counter() - started) / len(cases), 2)
        return seen

    def _seen(self, cases: Sequence[Case]) -> list[Seen]:
        seen = [Seen(case.name) for case in cases]
        self._stage(cases, "")
        for case, one in zip(cases, seen, strict=True):
            alone = concrete(program_of([case], 1)[0])
            graph = alone.graph.as_graph_def()
            one.keys = sorted(operations_of(graph, outputs=[output.name for output in alone.outputs]))
        places = cases[0].places
        try:
            self._run_all(cases, places, seen, self.names)
        except Exception:
            if places == 1 or len(cases) > 1:
                raise
            places = 1
            self._run_all(cases, 1, seen, self.names)
        missing = [name for name in self.names if not seen[0].places[name]]
        if len(cases) > 1:
            for case, one in zip(cases, seen, strict=True) if missing else ():
                _add(one, self._again([case], places, one, missing), missing)
        elif places > 1 and missing:  # perhaps alone
            _add(seen[0], self._again(cases, 1, seen[0], missing), missing)
        return seen

    def _again(self, cases: Sequence[Case], places: int, seen: Seen, names: list[str]) -> Seen:
        again = Seen(seen.name, seen.keys)
        self._run_all(cases, places, [again], names)
        left = [name for name in names if not again.places[name]]
        if left and places > 1:
            _add(again, self._again(cases, 1, seen, left), left)
        return again

    def _stage(self, cases: Sequence[Case], executor: str) -> None:
        self.tell("stage", ([case.name for case in cases], executor))
        signal.alarm(STAGE_SECONDS)

    def _run_all(self, cases: Sequence[Case], places: int, seen: Sequence[Seen], names: Sequence[str]) -> None:
        self._stage(cases, "graph")
        folder = self.scratch / "snapshot"
        shutil.rmtree(folder, ignore_errors=True)
        program, owners = program_of(cases, places, companion=places == 1)
        snapshot = write_snapshot(folder, program, ModelEntry(path="m", batch_rows=ROWS))
        groups = sweep_rows(cases[0].inputs, ROWS)
        if not cases[0].is_exact:
            groups = [group for group in groups if group.is_exact or group.kind != "finite"]
        rows = [_repeated(group.rows, places * len(cases), places == 1) for group in groups]
        reference = _outputs(EXECUTORS["graph"].load(folder, snapshot, ROWS, 1), rows)
        failed = [outputs for outputs in reference if isinstance(outputs, str)]
        if len(failed) == len(groups) or (failed and len(cases) > 1):
            raise ValueError(f"the graph itself fails: {failed[0]}")
        with _freezing_once():
            for name in names:
                self._stage(cases, name)
                if name in self.skip:
                    seen[0].places[name] = 1
                    seen[0].found.append(Found(name, 0, "any", "finite", self.skip[name]))
                    continue
                outputs = _run(name, folder, snapshot, rows, seen)
                if len(cases) > 1 and any(isinstance(one, str) for one in outputs):
                    raise ValueError("one of these cases fails for all")
                for number, one in enumerate(seen if outputs else ()):
                    one.places[name] = places
                    if name == "tflite":
                        mine = [place for place, owner in enumerate(owners) if owner[0] == number]
                        one.tflite_operators = operators(next(folder.rglob("tflite.tflite")), mine)
                    relative = RELATIVE if cases[number].is_exact else ROUNDED
                    one.found += differences(name, one.keys, number, owners, groups, reference, outputs, relative)
        for number, one in enumerate(seen):
            one.makes = [
                group.label
                for group, wanted in zip(groups, reference, strict=True)
                if group.kind == "finite" and not isinstance(wanted, str) and _has_infinite(wanted, owners, number)
            ]
        signal.alarm(0)


def _add(seen: Seen, again: Seen, names: Sequence[str]) -> None:
    """What another attempt has seen of these executors."""
    for name in names:
        seen.places[name] = again.places[name]
        seen.found += [found for found in again.found if found.executor == name]
        if name in again.why:
            seen.why[name] = again.why[name]
    seen.tflite_operators = seen.tflite_operators or again.tflite_operators


def _run(name: str, folder: Path, snapshot: Snapshot, rows: Sequence[Any], seen: Sequence[Seen]) -> list[Any]:
    """The outputs or the error of each group; nothing, and why, where the executor cannot be built."""
    executor = EXECUTORS[name]
    for one in seen:
        one.places[name] = 0
    try:
        if executor.build:
            executor.build(folder, snapshot, ROWS, [])
        call = executor.load(folder, snapshot, ROWS, 1)
        outputs = _outputs(call, rows)
        if all(isinstance(one, str) for one in outputs):
            raise ValueError(outputs[0])  # XLA compiles at its first call
    except Exception as error:
        for one in seen:
            one.why[name] = _line(error)
        return []
    return outputs


@contextmanager
def _freezing_once() -> Iterator[None]:
    """Executors share the frozen function, which is half of all the work."""
    original, known = frozen.freeze, {}

    def freeze(folder: Path, snapshot: Snapshot, batch_rows: int | None) -> Any:
        if batch_rows not in known:
            known[batch_rows] = original(folder, snapshot, batch_rows)
        return known[batch_rows]

    modules = (frozen, tflite, bfloat16, openvino_ir)
    for module in modules:
        module.freeze = freeze
    try:
        yield
    finally:
        for module in modules:
            module.freeze = original


def _has_infinite(outputs: Sequence[np.ndarray[Any, Any]], owners: Sequence[Owner], number: int) -> bool:
    mine = [output for output, owner in zip(outputs, owners, strict=True) if owner == (number, 0)]
    return any(not np.isfinite(one.astype(np.complex128)).all() for one in mine if one.dtype.kind in "fcV")


def _repeated(rows: list[np.ndarray[Any, Any]], times: int, has_companion: bool) -> list[np.ndarray[Any, Any]]:
    return rows * times + [np.ones((len(rows[0]), COLUMNS), np.float32)] * has_companion


def _outputs(call: Any, rows: Sequence[Any]) -> list[list[np.ndarray[Any, Any]] | str]:
    """For each group the outputs, or the error."""
    found: list[list[np.ndarray[Any, Any]] | str] = []
    for arrays in rows:
        try:
            found.append(call(arrays))
        except Exception as error:
            found.append(_line(error))
    return found


def _line(error: BaseException) -> str:
    found = re.search(r"error: (.+)", str(error))
    return f"{type(error).__name__}: {' '.join((found[1] if found else str(error)).split())}"[:200]
