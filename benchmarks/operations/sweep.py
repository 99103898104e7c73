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
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.operations import judging
from benchmarks.operations.case import COLUMNS, PLACES, ROWS, Case, program_of
from tasks.devices import limit_threads
from tasks.executors import EXECUTORS
from tasks.executors.hurting_rows import Group, hurting_rows
from tasks.executors.operations import NOT_BUILT, operations_of, worst
from tasks.snapshots.record import Snapshot
from tests.snapshots import write_snapshot
from worker_config.manifest import ModelEntry

STAGE_SECONDS = 60
AT_A_TIME = 12
NAMES = [name for name in EXECUTORS if name != "graph"]
# Whose sums a lower precision rounds.
PRODUCTS = re.compile(r"MatMul|Conv|Einsum")


class Seen(msgspec.Struct):
    """What was seen of one case.

    Attributes:
        keys: what it computes on its rows, alone.
        verdicts: by executor, one for each of its places.
        why: by executor, the first and worst difference, or why it was not built.
        tflite_operators: builtin operators of the converted program.
        seconds: that it took.
        failed: why it could not be swept at all; empty where it could.
    """

    name: str
    keys: list[str] = []
    verdicts: dict[str, list[str]] = {}
    why: dict[str, str] = {}
    tflite_operators: list[str] = []
    seconds: float = 0.0
    failed: str = ""


def sweep(cases: Sequence[Case], say: Callable[[str], None]) -> list[Seen]:
    """What is seen of all cases, in their order."""
    with tempfile.TemporaryDirectory(prefix="celeriac-sweep-") as folder:
        path = Path(folder) / "seen.jsonl"
        path.touch()
        skip: dict[str, dict[str, str]] = {}
        done: dict[str, Seen] = {}
        while rest := [case for case in cases if case.name not in done]:
            status = _forked(rest[:AT_A_TIME], skip, path)
            stage = ("", "")
            for line in path.read_text().splitlines():
                kind, *told = msgspec.json.decode(line)
                if kind == "stage":
                    stage = (told[0], told[1])
                elif told[0]["name"] not in done:
                    seen = msgspec.convert(told[0], Seen)
                    done[seen.name] = seen
                    say(f"{len(done):4} of {len(cases)}  {seen.seconds:5.1f} s  {_summary(seen)}")
            if status:
                name, executor = stage
                how = "takes too long" if status == signal.SIGALRM else f"ends the process (signal {status})"
                if executor in ("", "graph"):
                    done[name] = Seen(name, failed=how)
                else:
                    skip.setdefault(name, {})[executor] = how
            path.write_text("")
    return [done[case.name] for case in cases]


def _summary(seen: Seen) -> str:
    if seen.failed:
        return f"{seen.name}: FAILED {seen.failed}"
    return f"{seen.name}: " + " ".join(f"{name} {worst_of(levels)}" for name, levels in seen.verdicts.items())


def worst_of(levels: Sequence[str]) -> str:
    """The worst of some places, or "-"."""
    return NOT_BUILT if NOT_BUILT in levels else worst(levels)


def _forked(cases: Sequence[Case], skip: dict[str, dict[str, str]], path: Path) -> int:
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

            def tell(*what: Any) -> None:
                file.write(msgspec.json.encode(what).decode() + "\n")
                file.flush()

            limit_threads(1)
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 2)
            for case in cases:
                tell("case", sweep_case(case, Path(scratch), skip.get(case.name, {}), tell))
        code = 0
    finally:
        os._exit(code)


def sweep_case(case: Case, scratch: Path, skip: dict[str, str], tell: Callable[..., None]) -> Seen:
    """What is seen of one case; never raises an `Exception`."""
    import keras

    started = time.perf_counter()
    seen = Seen(case.name)
    keras.backend.clear_session()
    try:
        _stage(tell, case, "")
        alone = _snapshot(case, 1, scratch)
        seen.keys = sorted(operations_of(alone[0] / "model"))
        places = case.places
        try:
            _sweep_places(case, places, scratch, skip, tell, seen)
        except Exception:
            if places == 1:
                raise
            places = 1
            _sweep_places(case, 1, scratch, skip, tell, seen)
        missing = [name for name, levels in seen.verdicts.items() if NOT_BUILT in levels and name not in skip]
        if places > 1 and missing and set(missing) - {"bfloat16"}:  # perhaps alone
            again = Seen(case.name, seen.keys)
            _sweep_places(case, 1, scratch, {name: "" for name in NAMES if name not in missing}, tell, again)
            for name in missing:
                seen.verdicts[name] = again.verdicts[name]
                seen.why[name] = again.why.get(name, "")
            seen.tflite_operators = seen.tflite_operators or again.tflite_operators
    except Exception as error:
        seen.failed = _line(error)
    seen.seconds = round(time.perf_counter() - started, 2)
    return seen


def _stage(tell: Callable[..., None], case: Case, executor: str) -> None:
    tell("stage", case.name, executor)
    signal.alarm(STAGE_SECONDS)


def _snapshot(case: Case, places: int, scratch: Path, *, companion: bool = False) -> tuple[Path, Snapshot, list[int]]:
    folder = scratch / "snapshot"
    shutil.rmtree(folder, ignore_errors=True)
    program, owners = program_of(case, places, companion=companion)
    return folder, write_snapshot(folder, program, ModelEntry(path="m", batch_rows=ROWS)), owners


def _sweep_places(
    case: Case, places: int, scratch: Path, skip: dict[str, str], tell: Callable[..., None], seen: Seen
) -> None:
    _stage(tell, case, "graph")
    folder, snapshot, owners = _snapshot(case, places, scratch, companion=places == 1)
    groups = [_repeated(group, places) for group in hurting_rows(case.inputs, ROWS)]
    groups.append(Group("no rows", "finite", True, [array[:0] for array in groups[0].rows]))
    if not case.is_exact:
        groups = [group for group in groups if group.is_exact or group.kind != "finite"]
    reference = _outputs(EXECUTORS["graph"].load(folder, snapshot, ROWS, 1), groups)
    if all(isinstance(outputs, str) for outputs in reference):
        raise ValueError(f"the graph itself fails: {reference[0]}")
    for name in NAMES:
        _stage(tell, case, name)
        if name in skip:
            seen.verdicts[name], seen.why[name] = ["no"] * places, skip[name]
            continue
        executor = EXECUTORS[name]
        try:
            # XLA's `build` writes nothing: it refuses what this table is about.
            if executor.build and name != "xla":
                executor.build(folder, snapshot, ROWS)
            call = executor.load(folder, snapshot, ROWS, 1)
            if name == "tflite":
                seen.tflite_operators = operators(next(folder.rglob("tflite-*.tflite")))
        except Exception as error:
            seen.verdicts[name], seen.why[name] = [NOT_BUILT] * places, _line(error)
            continue
        outputs = _outputs(call, groups)
        if name == "xla" and all(isinstance(one, str) for one in outputs):
            seen.verdicts[name], seen.why[name] = [NOT_BUILT] * places, str(outputs[0])  # it compiles at its first call
            continue
        is_rounded = EXECUTORS[name].precision != "float32"
        # Others than the frozen graphs never get none.
        count = len(groups) if name in ("frozen", "bfloat16") else len(groups) - 1
        judged = groups[:count]
        seen.verdicts[name], why = _judged(seen.keys, owners, judged, reference[:count], outputs[:count], is_rounded)
        if why:
            seen.why[name] = why
    signal.alarm(0)


def _repeated(group: Group, times: int) -> Group:
    beside = [np.ones((ROWS, COLUMNS), np.float32)] if times == 1 else []
    return replace(group, rows=group.rows * times + beside)


def _outputs(call: Any, groups: Sequence[Group]) -> list[list[np.ndarray[Any, Any]] | str]:
    """For each group the outputs, or the error."""
    found: list[list[np.ndarray[Any, Any]] | str] = []
    for group in groups:
        try:
            found.append(call(group.rows))
        except Exception as error:
            found.append(_line(error))
    return found


def _judged(
    keys: Sequence[str],
    owners: Sequence[int],
    groups: Sequence[Group],
    reference: Sequence[Any],
    outputs: Sequence[Any],
    is_rounded: bool,
) -> tuple[list[str], str]:
    """A verdict for each place, and the first of the worst differences."""
    places = max(owners) + 1
    verdicts, why = ["all"] * places, ("all", "")
    has_products = any(PRODUCTS.match(key) for key in keys)
    for group, wanted, got in zip(groups, reference, outputs, strict=True):
        for place in range(places):
            lost = isinstance(wanted, str)
            if lost or isinstance(got, str):
                found = "" if lost and isinstance(got, str) else "no error" if lost else f"error: {got}"
            else:
                pairs = [(wanted[n], got[n]) for n, owner in enumerate(owners) if owner == place]
                found = _differs(pairs, group, is_rounded and (place > 0 or has_products))
            if not found:
                continue
            level = "no" if lost or group.kind == "finite" else "finite"
            verdicts[place] = worst([verdicts[place], level])
            if worst([why[0], level]) != why[0]:
                why = (level, f"{group.label}, {PLACES[place]}: {found}")
    return verdicts, why[1]


def _differs(pairs: Sequence[Any], group: Group, is_rounded: bool) -> str:
    wanted, got = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    if not is_rounded:
        return judging.first_difference(wanted, got, judging.RELATIVE)
    floats = [number for number, array in enumerate(wanted) if array.dtype.kind in "fcV"]
    relative = judging.GROSS if group.label in judging.GENTLE else 0.0
    return judging.first_difference([wanted[n] for n in floats], [got[n] for n in floats], relative)


def operators(path: Path) -> list[str]:
    """The builtin operators of a TFLite file, an activation that is fused with one behind it."""
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(path.read_bytes(), 0))
    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    activations = {number: name for name, number in vars(schema.ActivationFunctionType).items() if name[0] != "_"}
    found = set()
    for graph in model.subgraphs:
        for operator in graph.operators or []:
            code = model.operatorCodes[operator.opcodeIndex]
            name = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
            activation = getattr(operator.builtinOptions, "fusedActivationFunction", 0)
            found.add(f"{name}+{activations[activation]}" if activation else name)
    return sorted(found)


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    found = re.search(r"error: (.{0,160})", text)
    return f"{type(error).__name__}: {found[1] if found else text}"[:200]
