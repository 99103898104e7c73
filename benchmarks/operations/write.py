"""Writes the table: operations.json for the program, docs/executors.md for people."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from benchmarks.operations import judging
from benchmarks.operations.case import COLUMNS, ROWS
from benchmarks.operations.derive import merged
from benchmarks.operations.layers import LEFT_OUT
from benchmarks.operations.seen import NAMES, Seen
from benchmarks.operations.sweep_rows import sweep_rows
from tasks.executors.operation_table import LEVELS, NOT_BUILT, TABLE, Table, table
from tasks.protocol.records import TensorSpec

PAGE = Path(__file__).parents[2] / "docs" / "executors.md"
_PROCESSOR = re.compile(r"^TensorFlow [^;]*; (.*)$", re.MULTILINE)
_NAME = f"(?:{'|'.join(NAMES)})"
_DIFFERENCE = re.compile(rf"({_NAME}(?:, {_NAME})*): (.*?)(?=; {_NAME}(?:, {_NAME})*: |$)")
_MARKS = {"all": "all", "finite": "finite", "no": "**no**", NOT_BUILT: "-"}


def write(known: Table, seen: Sequence[Seen], processor: str, names: Sequence[str]) -> None:
    """Both files; of executors that are not among these names, as they have them."""
    if set(names) < set(NAMES):
        known = merged(_with_differences(table(), PAGE.read_text()), known, names)
        said, apart = _PROCESSOR.findall(PAGE.read_text())[0].strip("."), f"{', '.join(names)}: {processor}"
        processor = said if apart in said else f"{said}; {apart}"
    layers = {name: replace(one, why={}) for name, one in known.layers.items()}
    TABLE.write_text(_a_line_each(msgspec.to_builtins(replace(known, layers=layers))))
    PAGE.write_text(page(known, seen, processor))


def _a_line_each(table: dict[str, Any]) -> str:
    """JSON with a line for each operation and case, so that a change of one is a change of a line."""
    parts = []
    for name, value in table.items():
        if isinstance(value, dict):
            lines = [f"  {json.dumps(key)}: {json.dumps(one)}" for key, one in value.items()]
        else:
            lines = [f"  {json.dumps(one)}" for one in value] if isinstance(value, list) else []
        ends = "{}" if isinstance(value, dict) else "[]"
        text = f"{ends[0]}\n" + ",\n".join(lines) + f"\n {ends[1]}" if lines else json.dumps(value)
        parts.append(f" {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def page(known: Table, seen: Sequence[Seen], processor: str) -> str:
    """The text of docs/executors.md."""
    makers = set(known.makers)
    operations = [
        _row(f"`{key}`{' (makes infinities)' if key in makers else ''}", entry)
        for key, entry in known.operations.items()
    ]
    swept = [_row(_text(name), one.verdicts, _why(one.why)) for name, one in known.layers.items()]
    operators = [_row(f"`{name}`", {"tflite": level, "int8": level}) for name, level in known.tflite_operators.items()]
    patterns = [
        _row(
            f"{_text(one.name)}: {', '.join(f'`{key}`' for key in one.operations)}", {n: getattr(one, n) for n in NAMES}
        )
        for one in known.patterns
    ]
    head = f"| {{}} | {' | '.join(NAMES)} |{{}}\n|---|{'---|' * len(NAMES)}{{}}\n"
    plain = ("", "")
    failed = "".join(f"- {one.name}: {_text(one.failed)}\n" for one in seen if one.failed)
    left_out = "".join(f"- {why}: {', '.join(names.split())}\n" for names, why in LEFT_OUT.items())
    return f"""# What executors make of TensorFlow's operations

Written by `make operations` (`python -m benchmarks.operations`); the workers read the same table
(`tasks/executors/operations.json`), which holds for this version of TensorFlow alone. What is compared is an executor's
outputs with those of the model's own graph, on the same rows:

- **all**: equal on all rows, finite or not;
- **finite**: equal on finite rows of moderate size; different on some with NaN, infinities, the largest numbers or
  those below the normal ones;
- **no**: different on some finite row, or an error of the graph (a check, an index out of range, a division of integers
  by 0) is none of the executor;
- **-**: it cannot be built there.

TensorFlow {known.tensorflow}, Keras {version("keras")}, NumPy {version("numpy")}; {processor}.

Each was run in a real snapshot alone, behind a product with weights and bias, and before one, as runtimes fuse an
operation with its neighbours; its verdict is the worst of the three, unless the product alone is as bad. {ROWS} rows of
{COLUMNS} numbers (or small pictures, sequences, volumes), in these groups: {_groups("float32")}.
Integers: {_groups("int32")}.
Several inputs get the same group, then groups apart from each other. A batch without rows is not among them: workers
fill every batch. Weights are small integers and powers of two, so that sums are exact in any order; where they are not,
groups of numbers with all their bits are left out.

Equal means: NaN, infinity and -infinity at the same places, integers and booleans the same, other numbers within
{judging.RELATIVE:g} of their row's largest ({judging.ROUNDED:g} where sums are rounded on the way; float16: 2e-3,
bfloat16: 1.6e-2), below {judging.LEAST:g} as 0, and an error where the graph has one. What bfloat16 and int8 round is
held to the places of NaN and infinities alone; products themselves also to {judging.GROSS:g} of the row's largest
number on the gentlest groups ({", ".join(sorted(judging.GENTLE))}): how far a model may be off is its user's to say, by
`tolerance` and `agreement`.

{_counts(known)}

## Operations

The key is TensorFlow's name and the class of its type: float is float32, half float16 and bfloat16, double float64, int
int32 and int64, small the shorter integers. "constant": the operand that matters (indices, a divisor) is the same for
all rows. "positive": what it takes the root, the logarithm or the inverse of is positive whatever the rows are. "gelu":
all that comes of it is multiplied by the number that it is taken of. An operation that makes infinities or NaN of
finite rows turns "finite" into "no" for the others of its model.

{head.format("operation", "", "")}{"".join(operations)}
## Together

Operations that become something else together.

{head.format("pattern", "", "") if patterns else ""}{"".join(patterns)}
## TFLite's operators

What its converter makes of several operations.

{head.format("operator", *plain)}{"".join(operators)}
## Cases

What was run: layers of Keras, functions, operations. The last column has the first difference.

{head.format("case", " difference |", "---|")}{"".join(swept)}
## Left out

{left_out}{failed}"""


def _row(name: str, verdicts: Mapping[str, str], last: str | None = None) -> str:
    cells = " | ".join(_MARKS[verdicts.get(executor, NOT_BUILT)] for executor in NAMES)
    return f"| {name} | {cells} |{'' if last is None else f' {last} |'}\n"


def _with_differences(known: Table, text: str) -> Table:
    """The table with the differences that stand on the page alone."""
    layers = dict(known.layers)
    for line in text.partition("\n## Cases\n")[2].splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)]
        name = _plain(cells[1]) if len(cells) > 3 else ""
        if name in layers:
            why = {of: _plain(said) for names, said in _DIFFERENCE.findall(cells[-2]) for of in names.split(", ")}
            layers[name] = replace(layers[name], why=why)
    return replace(known, layers=layers)


def _why(why: Mapping[str, str]) -> str:
    """The first difference, with those who have it."""
    return "; ".join(
        f"{', '.join(n for n in why if why[n] == one)}: {_text(one)}" for one in dict.fromkeys(why.values())
    )


def _text(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")[:160]


def _plain(text: str) -> str:
    return text.replace("\\|", "|").replace("&lt;", "<").replace("\\*", "*").replace("\\_", "_")


def _groups(dtype: str) -> str:
    groups = sweep_rows([TensorSpec("x", dtype, (None, 4))], 2)
    return "; ".join(f"{group.label}{'' if group.kind == 'finite' else f' ({group.kind})'}" for group in groups)


def _counts(known: Table) -> str:
    levels = (*LEVELS, NOT_BUILT)
    lines = [f"| | {' | '.join(NAMES)} |\n|---|{'---|' * len(NAMES)}\n"]
    for label, entries in (
        ("operations", known.operations),
        ("cases", {n: s.verdicts for n, s in known.layers.items()}),
    ):
        counts = {name: Counter(entry.get(name, NOT_BUILT) for entry in entries.values()) for name in NAMES}
        for level in levels:
            lines.append(f"| {label}: {level} | {' | '.join(str(counts[name][level]) for name in NAMES)} |\n")
    return "".join(lines)
