"""This module takes the executor for a machine from its trials: the fastest that agrees and that memory allows.

Trials, what the user wants, memory --> choose --> Trial of the executor, a note for people
"""

from __future__ import annotations

from tasks.executors import EXECUTORS
from tasks.snapshots.record import Trial, Trials
from worker_config.manifest import ModelEntry

FASTER_BY = 1.05  # below it, timings are noise and the model's own graph is the better known
SHARE_OF_MEMORY = 0.5


def choose(
    trials: Trials, entry: ModelEntry, *, weight_bytes: int, children: int, available_bytes: int
) -> tuple[Trial, str]:
    """The executor to use, and why it is not another one that was asked for or is faster; one line, maybe empty.

    Args:
        trials: of this kind of machine, "graph" first.
        entry: what the user wants.
        weight_bytes: of the model, which the mapped executors share.
        children: processes that hold the model.
        available_bytes: memory that is free on the machine.
    """
    graph = trials.trials[0]
    if not trials.rows:
        return graph, _sentence(f"the model's own graph is used: {graph.why}" if graph.why else "")
    if not graph.agrees:
        return graph, _sentence(f"the model's own graph is used, which does not agree with itself: {graph.why}")
    wanted = {"float32", *entry.precision}
    notes, fit = [], []
    for trial in trials.trials[1:]:
        executor = EXECUTORS.get(trial.executor)
        if executor is None or executor.precision not in wanted or not trial.agrees:
            continue
        if entry.prefer == "memory" and not executor.shares_weights:
            continue
        fit.append(trial)
    fit = [trial for trial in fit if trial.batch_seconds * FASTER_BY <= graph.batch_seconds]
    fit.sort(key=_handicapped)
    chosen = graph
    for trial in fit:
        copies = children * trial.own_bytes
        if EXECUTORS[trial.executor].shares_weights or copies <= SHARE_OF_MEMORY * available_bytes:
            chosen = trial
            break
        notes.append(
            f"{trial.executor} would be {graph.batch_seconds / trial.batch_seconds:.1f} times as fast as the model's"
            f" own graph, but {_count(children)} of {_size(trial.own_bytes)} are more than half of the"
            f" {_size(available_bytes)} free, where the graph shares {_size(weight_bytes)}"
        )
    notes += [note for precision in entry.precision if (note := _precision_note(precision, trials, entry, chosen))]
    return chosen, _sentence("; ".join(notes))


def _precision_note(precision: str, trials: Trials, entry: ModelEntry, chosen: Trial) -> str:
    """Why a precision that was asked for is not used, with the figures."""
    used = EXECUTORS[chosen.executor].precision
    if used == precision:
        return ""
    if entry.prefer == "memory" and not EXECUTORS[precision].shares_weights:
        return f'{precision} needs a copy of the weights in each child, and prefer is "memory": {used} is used'
    trial = next((trial for trial in trials.trials if trial.executor == precision), None)
    if trial is None:
        return f"{precision} was not tried here: {used} is used"
    if not trial.agrees:
        return f"{precision} {_as_said(trial.why)}: {used} is used"
    if _handicapped(trial) >= _handicapped(chosen):
        slower = f"{trial.batch_seconds * 1e3:.3g} ms a batch, {chosen.executor} {chosen.batch_seconds * 1e3:.3g} ms"
        return f"{precision} is not faster by 5 % here ({slower}): {used} is used"
    if trial.batch_seconds * FASTER_BY > trials.trials[0].batch_seconds:
        return f"{precision} is less than {FASTER_BY - 1:.0%} faster here: {used} is used"
    return ""  # for want of memory, which is said already


def _handicapped(trial: Trial) -> float:
    """A lower precision must be worth it."""
    return trial.batch_seconds * (1.0 if EXECUTORS[trial.executor].precision == "float32" else FASTER_BY)


def _as_said(why: str) -> str:
    """A reason of the gate goes on after the name; any other stands for itself."""
    return why if why.startswith(("deviates", "differs", "has ")) else f"cannot be used ({why})"


def _count(children: int) -> str:
    return "one copy" if children == 1 else f"{children} copies"


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _sentence(text: str) -> str:
    return " ".join(text.split())
