"""Whether the work that is to be continued is still the same: data set, models, policy.

what was done, what is to be done --check_same--> changes that the user has accepted, or OutputError
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from producer.sources.fingerprint import DETAILS, modified_since
from tasks.outputs.temp_paths import not_continued
from worker_config.errors import OutputError

# What may change before an output is continued, if the user says so: the cause of failed rows is in one of these.
_ACCEPTABLE = ("source", "models")
# Of the files of a data set that have changed, an error names so many.
MOST_NAMED = 5
# Kinds of outputs of which rows that are written can get marks: arrays that stand for themselves until the end.
_MARKED_LATER = (".npy", ".npz")


def check_same(
    path: Path, then: Mapping[str, Any], now: Mapping[str, Any], *, accept_changes: bool = False
) -> list[str]:
    """Hold what was done, as JSON has it, against what is to be done, and give the changes that are accepted.

    Where a row that failed would have ended the work, none of those that are written has failed, and others may now.

    Raises:
        OutputError: something has changed; the text says what, and how to go on where that can be meant.
    """
    found = differences(then, now)
    if lets_rows_fail(then, now):
        change = found.pop("on_error")
        if now["on_error"] == "fill" and now.get("kind") not in _MARKED_LATER:
            raise OutputError(
                f"{path}: cannot be continued: {change}, and rows of such an output that are written cannot get marks; "
                "continue with --on-error skip, or start over with --force instead of --resume"
            )
    for name, change in found.items():
        if name not in _ACCEPTABLE or (name == "models" and then[name].keys() != now[name].keys()):
            raise not_continued(path, change)
    changes = list(found.values())
    if changes and not accept_changes:
        raise OutputError(
            f"{path}: cannot be continued: {', and '.join(changes)}; if that is meant, as where the cause of a "
            "failed row was mended, go on with --accept-changes, else start over with --force instead of --resume"
        )
    return changes


def lets_rows_fail(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether rows that fail no longer end the work, as they did."""
    return then.get("on_error") == "raise" and now.get("on_error") in ("skip", "fill")


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """What of the work to be done is not as it was, as JSON had it: by its name, in words."""
    now, found = json.loads(json.dumps(now)), {}
    for name in now:
        if name != "sources" and then.get(name) != now[name]:
            found[name] = _difference(name, then.get(name), now[name])
            if name == "models" and (changed := _differing(then.get("sources") or {}, now.get("sources") or {})):
                found[name] += f": {', '.join(changed)} changed"
    return found


def _difference(name: str, before: Any, now: Any) -> str:
    """Say what is not as it was when the work began."""
    if name == "models":
        names = _differing(before, now) if before.keys() == now.keys() else [*{**before, **now}]
        models = [", ".join(f"{name}@{one[name][:8]}" for name in names if name in one) for one in (before, now)]
        return f"its models are not the same ({models[0]} before, {models[1]} now)"
    if name == "keep":
        kept = [f"--keep {','.join(names)}" if names else "none" for names in (before or (), now)]
        return f"the columns of the input that it keeps are others ({kept[0]} before, {kept[1]} now)"
    if name == "on_error":
        return f"rows that fail were to be treated otherwise (--on-error {_shown(before)} before, {now} now)"
    if name == "chunk_rows":
        return (
            f"rows of its models are not independent, and chunks are others (--chunk-rows {before} before, {now} now)"
        )
    if name == "output":
        return f"its output is another ({before or 'with the broker'} before, {now or 'with the broker'} now)"
    if name == "source":
        differing = _differing(before, now)
    else:
        differing, before, now = [name], {name: before}, {name: now}
    what = "its journal is of another version" if name in ("format", "kind") else "its input has changed"
    shown = [f"{key}: {_shown(before.get(key))} before, {_shown(now.get(key))} now" for key in differing]
    if DETAILS in differing and DETAILS in before and "path" not in differing:
        files = modified_since(now["path"], before["modified"])
        shown[differing.index(DETAILS)] = f"modified since: {_listed(files)}" if files else f"other {DETAILS}"
    return f"{what} ({'; '.join(shown)})"


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [key for key in {**before, **now} if before.get(key) != now.get(key)]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _shown(value: object) -> str:
    return "unknown" if value is None else str(value)
