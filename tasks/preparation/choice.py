"""The executor for a machine, from its trials: one that agrees, takes least of the processor, and fits into memory.

Trials, what the user wants, memory --> choose --> Trial of the executor, a note for people

What counts is processor seconds, the least of many calls, and one executor gives way to another only where that is
clearly faster, in a fixed order: so the choice does not depend on what else the machine does meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tasks.accuracy.class_agreement import agreement_text, too_few
from tasks.executors import EXECUTORS
from tasks.executors.operation_table import RUNTIMES, table
from tasks.models.error_text import LACKS
from tasks.snapshots.installed import installed
from tasks.snapshots.record import Trial, Trials
from worker_config.manifest import ModelEntry

# Below it, timings are noise, and an executor that comes earlier in `_ORDER` is the better known.
FASTER_BY = 1.1
_ORDER = ("frozen", "tflite", "xla", "openvino", "bfloat16", "openvino_bfloat16", "int8", "openvino_int8")
SHARE_OF_MEMORY = 0.5
# Of executors that do without TensorFlow.
_INSTALL = {
    "tflite": "pip install 'celeriac[runtime]'",
    "int8": "pip install 'celeriac[runtime]'",
    "openvino": "pip install 'celeriac[openvino]'",
    "openvino_bfloat16": "pip install 'celeriac[openvino]'",
    "openvino_int8": "pip install 'celeriac[openvino]'",
}
# What a batch takes while it is run is told from here on: it is there once for each child.
LARGE_BATCH_BYTES = 512 * 2**20


def choose(
    trials: Trials, entry: ModelEntry, *, weight_bytes: int, children: int, available_bytes: int
) -> tuple[Trial, str]:
    """The executor to use, and why it is not another one that was asked for or is faster; one line, maybe empty.

    The mapped executors share `weight_bytes`; `children` processes hold the model.
    """
    graph = trials.trials[0]
    if not trials.rows:
        return graph, _sentence(f"the model's own graph is used: {graph.why}" if graph.why else "")
    if not graph.agrees:
        return graph, _sentence(f"the model's own graph is used, which does not agree with itself: {graph.why}")
    wanted = {"float32", *entry.precision}
    notes, chosen = [], graph
    for trial in _in_order(trials):
        executor = EXECUTORS[trial.executor]
        if executor.precision not in wanted or not trial.agrees or not _is_faster(trial, chosen):
            continue
        if entry.prefer == "memory" and trial.copies_weights:
            continue
        copies = children * trial.own_bytes
        if not trial.copies_weights or copies <= SHARE_OF_MEMORY * available_bytes:
            chosen = trial
            continue
        notes.append(
            f"{trial.executor} would be {_seconds(graph) / _seconds(trial):.1f} times as fast as the model's"
            f" own graph, but {_count(children)} of {_size(trial.own_bytes)} are more than half of the"
            f" {_size(available_bytes)} free, where the graph shares {_size(weight_bytes)}"
        )
    notes += [
        f"{trial.executor} {trial.why.removeprefix('it ')}"
        for trial in _of("float32", trials)
        if trial.why.startswith(LACKS)
    ]
    notes += [note for precision in entry.precision if (note := _precision_note(precision, trials, entry, chosen))]
    return chosen, _sentence("; ".join(notes + _looked_at(trials, entry, chosen) + _measured_by(trials, entry)))


def choose_without_tensorflow(
    here: Trials, elsewhere: Sequence[Trials], entry: ModelEntry, room_bytes: float = math.inf
) -> tuple[Trial | None, str]:
    """The executor for a machine without TensorFlow, and a note; or None, and why there is none.

    `here` are the trials of this machine, `elsewhere` those of all kinds of machines that the snapshot has been on.
    One that copies more weights into a child than `room_bytes` is taken only where there is no other.
    """
    wanted = {"float32", *entry.precision}
    fit: list[Trial] = []
    whys: dict[str, str] = {}
    for trial in (one for one in _in_order(here) if not EXECUTORS[one.executor].needs_tensorflow):
        if EXECUTORS[trial.executor].precision not in wanted:
            continue
        if not trial.agrees:
            whys[trial.executor] = f"{trial.executor} {_as_said(trial.why)}"
        elif trial.unproven:
            whys[trial.executor] = f"{trial.executor} is unproven for {', '.join(trial.unproven[:3])}{_tested(trial)}"
        else:
            fit.append(trial)
    if not fit:
        lacking = {
            trial.executor: f"{trial.executor}, by which it could be run, is not installed; {_INSTALL[trial.executor]}"
            for trials in elsewhere
            for trial in _in_order(trials)
            if trial.agrees and RUNTIMES.get(trial.executor) and not installed(RUNTIMES[trial.executor])
        }
        why = here.trials[0].why or "; ".join((lacking | whys).values()) or "no other executor was found for it"
        return None, _sentence(f"its own graph runs it ({why})")
    in_room = [trial for trial in fit if not trial.copies_weights or trial.own_bytes <= room_bytes] or fit
    chosen = in_room[0]
    for trial in in_room[1:]:
        chosen = trial if _is_faster(trial, chosen) else chosen
    rest = []
    if chosen.limit is not None or not chosen.tiny:
        rest = [f"rows that are not for {chosen.executor} fail, as TensorFlow is not installed"]
    rest += [note for precision in entry.precision if (note := _precision_note(precision, here, entry, chosen))]
    return chosen, _sentence("; ".join(rest + _looked_at(here, entry, chosen) + _measured_by(here, entry)))


def _tested(trial: Trial) -> str:
    """Which version of the package that runs it is known."""
    package = RUNTIMES[trial.executor]
    known = table().runtimes.get(package, "")
    return f" with {package} {installed(package)}: pip install '{package}=={known}'" if known else ""


def batch_note(trial: Trial, weight_bytes: int, batch_rows: int) -> str:
    """That a child needs much memory for a batch, and what to do; empty where it does not."""
    weights = weight_bytes if trial.copies_weights else 0
    size = trial.own_bytes + trial.peak_bytes - weights
    if batch_rows < 2 or size < LARGE_BATCH_BYTES:
        return ""
    return f"a batch of {batch_rows} rows takes {_size(size)} in each child; with a smaller batch_rows it takes less"


def _measured_by(trials: Trials, entry: ModelEntry) -> list[str]:
    """What executors in float32 were held against, where that was not the model in float64."""
    if entry.float32_tolerance:
        return [f"executors may be off from the own graph by tolerance, {entry.float32_tolerance:g} of the spread"]
    if not any(trial.rows for trial in trials.trials[1:]):
        return []
    if not trials.no_truth:
        kept = ", ".join(trials.left)
        return [f"executors were held against float64 but for {kept}, which TensorFlow has not"] if kept else []
    varies = f", which varies by {trials.noise:.1g} of its size," if trials.noise else ""
    return [f"executors were held against the own graph{varies} and not against float64: {trials.no_truth}"]


def _looked_at(trials: Trials, entry: ModelEntry, chosen: Trial) -> list[str]:
    """What a lower precision is used upon, and what its rows cannot show."""
    tried = [trial for precision in entry.precision for trial in _of(precision, trials) if trial.rows]
    notes = []
    if chosen in tried:
        if entry.agreement and chosen.agreement is not None:
            kept = agreement_text(chosen.agreement, chosen.classes, chosen.rows)
        else:
            kept = f"a deviation of {chosen.error:.2g} of the outputs' spread on {chosen.rows:,} rows"
        notes.append(f"{chosen.executor} has {kept}")
    if (
        tried
        and entry.agreement
        and (few := too_few(max((trial.classes for trial in tried), key=len), entry.agreement))
    ):
        notes.append(few)
    if tried and tried[0].rows < trials.rows_in_file:
        notes.append(f"{tried[0].rows:,} of the {trials.rows_in_file:,} rows of {trials.rows} were looked at")
    return notes


def _precision_note(precision: str, trials: Trials, entry: ModelEntry, chosen: Trial) -> str:
    """Why a precision that was asked for is not used, with the figures."""
    used = EXECUTORS[chosen.executor].precision
    if used == precision:
        return ""
    trial = min(_of(precision, trials), key=lambda one: (not one.agrees, _seconds(one)), default=None)
    if entry.prefer == "memory" and trial and trial.copies_weights:
        return f'{precision} needs a copy of the weights in each child, and prefer is "memory": {used} is used'
    if trial is None:
        return f"{precision} was not tried here: {used} is used"
    if not trial.agrees:
        return f"{precision} {_as_said(trial.why)}: {used} is used"
    if not _is_faster(trial, chosen):
        slower = f"{_seconds(trial) * 1e3:.3g} ms a batch, {chosen.executor} {_seconds(chosen) * 1e3:.3g} ms"
        return f"{precision} is not faster by {FASTER_BY - 1:.0%} here ({slower}): {used} is used"
    return ""  # for want of memory, which is said already


def _in_order(trials: Trials) -> list[Trial]:
    """Those of executors that there are, but for the own graph's."""
    known = [trial for trial in trials.trials[1:] if trial.executor in _ORDER]
    return sorted(known, key=lambda one: _ORDER.index(one.executor))


def _of(precision: str, trials: Trials) -> list[Trial]:
    """Of executors of this precision."""
    return [trial for trial in trials.trials if (it := EXECUTORS.get(trial.executor)) and it.precision == precision]


def _is_faster(trial: Trial, other: Trial) -> bool:
    return _seconds(trial) * FASTER_BY <= _seconds(other)


def _seconds(trial: Trial) -> float:
    return trial.processor_seconds or trial.batch_seconds


def _as_said(why: str) -> str:
    """A reason of the gate goes on after the name; any other stands for itself."""
    return why if why.startswith(("deviates", "differs", "has ")) else f"cannot be used ({why})"


def _count(children: int) -> str:
    return "one copy" if children == 1 else f"{children} copies"


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _sentence(text: str) -> str:
    return " ".join(text.split())
