"""Makes the table of what the sweep has seen.

An operation's verdict is the worst of its own cases: those in which it stands alone, and those that say that they show
it. Beside products it is blamed only for what is worse than the product by itself. A function or layer that is worse
than its operations together has become something else on the way: by an operator that TFLite's converter makes of
several (then that operator is blamed), or else by a pattern, which must stand in `patterns.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from benchmarks.operations.case import Case
from benchmarks.operations.patterns import PATTERNS
from benchmarks.operations.seen import NAMES, Seen
from tasks.executors.graph_operations import INFINITE
from tasks.executors.operation_table import (
    LEVELS,
    NOT_BUILT,
    RUNTIMES,
    Pattern,
    SweptLayer,
    Table,
    installed,
    judge,
    worst,
)

PRODUCTS = ("MatMul", "BiasAdd")
_BY_TFLITE = ("tflite", "int8")


def table_of(
    cases: Sequence[Case], seen: Sequence[Seen], tensorflow: str, names: Sequence[str] = NAMES
) -> tuple[Table, list[Pattern]]:
    """The table of these executors, and the patterns that it needs and `patterns.py` lacks; they are in the table."""
    swept = [(case, one) for case, one in zip(cases, seen, strict=True) if not one.failed and one.keys]
    products = {name: worst(one.levels(name)[0] for _, one in swept if one.name in PRODUCTS) for name in names}
    verdicts = {one.name: {name: _verdict(one, name, products[name]) for name in names} for _, one in swept}
    operations: dict[str, dict[str, str]] = {INFINITE: dict.fromkeys(names, "all")}
    makers, by_infinity = {INFINITE}, {name: set[str]() for name in names}
    for case, one in swept:
        for key in case.shows or (one.keys if len(one.keys) == 1 else ()):
            if key not in one.keys:
                raise ValueError(f"{case.name} does not show {key}: it consists of {', '.join(one.keys)}")
            entry = operations.setdefault(key, dict.fromkeys(names, NOT_BUILT))
            makers |= {key} if one.makes else set()
            for name in names:
                if _is_hurt(one, name):
                    by_infinity[name].add(key)
                entry[name] = _worse(entry[name], verdicts[one.name][name])
    layers = {
        one.name: SweptLayer(
            one.keys, verdicts[one.name], one.tflite_operators, {n: why for n in names if (why := one.first(n))}
        )
        for _, one in sorted(swept, key=lambda pair: (pair[0].is_layer, pair[0].name))
    }
    by_size = {
        name: sorted(
            key for key, entry in operations.items() if entry[name] == "finite" and key not in by_infinity[name]
        )
        for name in names
    }
    for pattern in PATTERNS:
        inside = [one for _, one in swept if set(one.keys) >= set(pattern.operations)]
        for name in names:
            if getattr(pattern, name) == "finite" and not any(_is_hurt(one, name) for one in inside):
                by_size[name].append(f"pattern {pattern.name}")
    runtimes = {RUNTIMES[name]: installed(RUNTIMES[name]) for name in names if name in RUNTIMES}
    ordered = dict(sorted(operations.items()))
    known = _blame_operators(Table(tensorflow, ordered, sorted(makers), by_size, {}, list(PATTERNS), layers, runtimes))
    missing: list[Pattern] = []
    found = {one.name: one for one in seen}
    for label, one in layers.items():
        needed = {name: level for name, level in one.verdicts.items() if is_better(known, one, name)}
        if needed:
            missing.append(Pattern(label, one.operations, **needed))
            sizes = {name: list(keys) for name, keys in known.by_size.items()}
            for name, level in needed.items():
                if level == "finite" and not _is_hurt(found[label], name):
                    sizes[name].append(f"pattern {label}")
            known = replace(known, patterns=[*PATTERNS, *missing], by_size=sizes)
    return known, missing


def merged(known: Table, new: Table, names: Sequence[str]) -> Table:
    """A table with what another one says of these executors, which were swept apart, perhaps with some cases alone."""
    operations = known.operations | {key: known.operations.get(key, {}) | one for key, one in new.operations.items()}
    kept = {name: [key for key in known.by_size.get(name, ()) if key not in new.operations] for name in names}
    return replace(
        known,
        operations=dict(sorted(operations.items())),
        makers=sorted({*known.makers, *new.makers}),
        by_size=known.by_size | {name: sorted({*kept[name], *new.by_size[name]}) for name in names},
        tflite_operators=known.tflite_operators | new.tflite_operators,
        patterns=new.patterns,
        layers=known.layers | {name: _merged(known.layers.get(name, one), one) for name, one in new.layers.items()},
        runtimes=known.runtimes | new.runtimes,
    )


def _merged(known: SweptLayer, new: SweptLayer) -> SweptLayer:
    return replace(
        new,
        verdicts=known.verdicts | new.verdicts,
        tflite_operators=new.tflite_operators or known.tflite_operators,
        why={name: why for name, why in known.why.items() if name not in new.verdicts} | new.why,
    )


def is_better(known: Table, swept: SweptLayer, executor: str) -> bool:
    """Whether the table promises more of this executor than the sweep has seen of a case."""
    seen = swept.verdicts.get(executor, NOT_BUILT)
    if seen == NOT_BUILT:
        return False
    operators = swept.tflite_operators if executor in _BY_TFLITE else ()
    found = judge(executor, swept.operations, operators, tensorflow=known.tensorflow, known=known)
    return LEVELS.index(found.level) < LEVELS.index(seen)  # type: ignore[arg-type]


def _blame_operators(known: Table) -> Table:
    """TFLite's operators: "all" unless only cases that are worse than their operations have them."""
    operators = {name: "all" for one in known.layers.values() for name in one.tflite_operators}
    plain = replace(known, tflite_operators=operators)
    worse = [one for one in known.layers.values() if one.tflite_operators and is_better(plain, one, "tflite")]
    innocent = {name for one in known.layers.values() if one not in worse for name in one.tflite_operators}
    for one in worse:
        for name in set(one.tflite_operators) - innocent:
            operators[name] = worst([operators[name], one.verdicts["tflite"]])
    return replace(known, tflite_operators=dict(sorted(operators.items())))


def _is_hurt(one: Seen, executor: str) -> bool:
    """Whether it differs on others than the largest and smallest numbers."""
    return any(found.executor == executor and found.kind != "extreme" for found in one.found)


def _verdict(one: Seen, executor: str, product: str) -> str:
    """Alone, and beside products where that is worse than these."""
    alone, *beside = one.levels(executor)
    if alone == NOT_BUILT:
        return NOT_BUILT
    blamed = [level for level in beside if level != NOT_BUILT and worst([level, product]) != product]
    return worst([alone, *blamed])


def _worse(known: str, found: str) -> str:
    if NOT_BUILT in (known, found):
        return found if known == NOT_BUILT else known
    return worst([known, found])
