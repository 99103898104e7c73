"""What executors make of TensorFlow's operations, as a sweep has found it, and what follows for a model.

    operations.json --(executor, the model's operations)--> judge --> Verdict: refusal, is_of_finite, unknown

`python -m benchmarks.operations` makes the table; docs/executors.md shows it. An entry holds for one version of
TensorFlow, and of the package that runs the executor: under another one every operation is unknown.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

from tasks.snapshots.installed import installed
from worker_config.decodable import decodable
from worker_config.foreign_errors import some_of

TABLE = Path(__file__).with_name("operations.json")
# On all rows; on finite rows of moderate size; not even on these, or an error is lost.
Level = Literal["all", "finite", "no"]
LEVELS: tuple[Level, ...] = ("all", "finite", "no")
NOT_BUILT = "-"
_BY_TFLITE = ("tflite", "int8")
_CHECKS = ("Assert", "CheckNumerics")
# The packages that run an executor's models, where that is not TensorFlow alone.
RUNTIMES = {
    "tflite": "ai-edge-litert",
    "int8": "ai-edge-litert",
    "openvino": "openvino",
    "openvino_bfloat16": "openvino",
    "openvino_int8": "openvino",
}
# The packages that executors are built with besides, where models are prepared; children need not have them.
CONVERTERS = {"openvino_int8": "nncf"}
# Executors that were not swept: what rounds in the same places of the same graph tells of them.
SWEPT_AS = {"openvino_int8": "openvino_bfloat16"}
_NAMED = 3


class Pattern(msgspec.Struct, frozen=True, omit_defaults=True):
    """Operations that together become something else than each alone, by executor, as its verdict."""

    name: str
    operations: list[str]
    xla: str = "all"
    frozen: str = "all"
    tflite: str = "all"
    openvino: str = "all"
    bfloat16: str = "all"
    openvino_bfloat16: str = "all"
    int8: str = "all"


class SweptLayer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the sweep saw of one case: an operation, a function or a layer.

    Attributes:
        operations: the keys that it consists of.
        verdicts: by executor; "-" where it was not built.
        tflite_operators: of the converted models.
        why: by executor, the first difference; docs/executors.md alone has it.
    """

    operations: list[str]
    verdicts: dict[str, str]
    tflite_operators: list[str] = []
    why: dict[str, str] = {}


class Table(msgspec.Struct, frozen=True):
    """The whole table.

    Attributes:
        tensorflow: the version that it holds for.
        operations: by key and executor, the verdict; "-" where it was not built.
        makers: keys that make NaN or infinities of finite rows: division by 0. What stands behind them gets such
            numbers, whatever the rows are.
        by_size: by executor, keys that are "finite" for the largest and smallest numbers alone, not for NaN or
            infinities.
        tflite_operators: builtin operators of TFLite that do something else than what they were converted from.
        patterns: what becomes something else together.
        layers: all that was swept, by name: operations, functions, layers.
        runtimes: by package of `RUNTIMES`, the version that its executors' entries hold for.
    """

    tensorflow: str
    operations: dict[str, dict[str, str]]
    makers: list[str] = []
    by_size: dict[str, list[str]] = {}
    tflite_operators: dict[str, str] = {}
    patterns: list[Pattern] = []
    layers: dict[str, SweptLayer] = {}
    runtimes: dict[str, str] = {}


@dataclass(frozen=True)
class Verdict:
    """What an executor makes of a model.

    Attributes:
        level: the worst of what is known of its operations.
        because: the operations, operators of TFLite and patterns of that level; none where it is "all".
        unknown: operations that the table does not tell, sorted; of them nothing is promised.
    """

    level: Level
    because: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def refusal(self) -> str:
        """Why the executor is not for the model; empty where it may be."""
        if self.level != "no":
            return ""
        return f"it does not give what the model gives for {some_of(self.because, _NAMED)}"

    @property
    def is_of_finite(self) -> bool:
        """Whether it is equal on finite rows of moderate size alone, as far as is known."""
        return self.level == "finite" or bool(self.unknown)


@cache
def table(path: Path = TABLE) -> Table:
    """The table that comes with this package."""
    return msgspec.json.decode(path.read_bytes(), type=decodable(Table))


def judge(
    executor: str,
    operations: Collection[str],
    tflite_operators: Collection[str] = (),
    *,
    tensorflow: str | None = None,
    known: Table | None = None,
) -> Verdict:
    """The worst of all entries for these operations together; the model's own graph is equal to itself.

    What is equal on finite rows alone is not where another operation makes NaN or infinities of finite rows.

    `tflite_operators` are those of the model as converted, where the executor is one of TFLite; `tensorflow` is the
    version that runs the model, None the one that is installed.
    """
    if executor == "graph":
        return Verdict("all")
    known = known or table()
    is_unswept = executor in SWEPT_AS
    executor = SWEPT_AS.get(executor, executor)
    runtime = RUNTIMES.get(executor, "")
    is_another = runtime in known.runtimes and installed(runtime) != known.runtimes[runtime]
    if is_another or (installed("tensorflow") if tensorflow is None else tensorflow) != known.tensorflow:
        return Verdict("all", unknown=tuple(sorted(operations)))
    present = frozenset(operations)
    found = {key: _of_operation(key, executor, present, known) for key in operations}
    if executor in _BY_TFLITE:
        found |= {f"TFLite's {name}": _of_operator(name, known) for name in tflite_operators}
    found |= {
        f"pattern {pattern.name}": getattr(pattern, executor, "all")
        for pattern in known.patterns
        if present.issuperset(pattern.operations)
    }
    if is_unswept:  # what is cut off at the range of 8 bits is finite, whatever it was
        found = {name: "finite" if one == "all" else one for name, one in found.items()}
    unknown = tuple(sorted(name for name, level in found.items() if level == NOT_BUILT))
    level = worst(found.values())
    makers = present.intersection(known.makers)
    hurt = {name for name, one in found.items() if one == "finite"}.difference(known.by_size.get(executor, ()))
    if level == "finite" and makers and hurt:
        return Verdict("no", tuple(sorted(makers | hurt)), unknown)
    because = (
        () if level == "all" else tuple(sorted(name for name, found_level in found.items() if found_level == level))
    )
    return Verdict(level, because, unknown)


def _of_operation(key: str, executor: str, present: frozenset[str], known: Table) -> str:
    """What is known of an operation, alone or, where it was not built alone, in the company that it has here."""
    alone = known.operations.get(key, {}).get(executor, NOT_BUILT)
    if alone != NOT_BUILT:
        return alone
    if executor in RUNTIMES and key.startswith(_CHECKS):
        return "no"  # where it is built in other company, the error is lost
    inside = [one for one in known.layers.values() if key in one.operations and present.issuperset(one.operations)]
    levels = [level for one in inside if (level := one.verdicts.get(executor, NOT_BUILT)) != NOT_BUILT]
    return worst(levels) if levels else NOT_BUILT


def _of_operator(name: str, known: Table) -> str:
    """What is known of an operator of TFLite; of one with an activation behind it also what is known of both apart."""
    if name in known.tflite_operators:
        return known.tflite_operators[name]
    parts = [known.tflite_operators.get(part, NOT_BUILT) for part in name.split("+")]
    return NOT_BUILT if len(parts) == 1 or NOT_BUILT in parts else worst(parts)


def worst(levels: Iterable[str]) -> Level:
    """The worst of some levels; what was not built says nothing."""
    given = set(levels)
    return max((level for level in LEVELS if level in given), key=LEVELS.index, default="all")
