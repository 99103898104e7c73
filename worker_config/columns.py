"""Names of columns as people write them --> the columns that each input is made of.

"age"                     this column
"p0..p783"                p0, p1 and so on; p000..p783 has as many digits everywhere
"image.bytes"             a field of a column of structs
"pixels=p0..p783,extra"   on the command line: the input `pixels`, made of all these
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from worker_config.errors import UsageError

MOST_COLUMNS = 100_000
_RANGE = re.compile(r"(.*?)(\d+)\.\.(.*?)(\d+)", re.DOTALL)


def expanded(names: Iterable[str]) -> list[str]:
    """The names, with ranges as the names that they stand for.

    Raises:
        UsageError: no name, an empty one, one twice, or a range that is none.
    """
    every = [one for name in names for one in _of_range(name)]
    if not every or not all(every):
        raise UsageError("the list of columns is empty, or has an empty name; name at least one, as NAME,NAME")
    if len(every) > MOST_COLUMNS:
        raise UsageError(f"there are {len(every):,} columns, more than {MOST_COLUMNS:,}; give them as one list column")
    if len(set(every)) < len(every):
        twice = next(name for number, name in enumerate(every) if name in every[:number])
        raise UsageError(f"column {twice!r} is named twice; name it once")
    return every


def parsed(texts: Iterable[str]) -> dict[str, list[str]]:
    """What each input is made of: a column by its own name, or those of "INPUT=NAME,NAME".

    Raises:
        UsageError: as `expanded`, or an input that is named twice.
    """
    inputs: dict[str, list[str]] = {}
    for text in texts:
        name, is_named, names = text.rpartition("=")
        columns = expanded(names.split(","))
        for key, parts in [(name, columns)] if is_named else [(column, [column]) for column in columns]:
            if not key or key in inputs:
                wrong = f"{key!r} twice" if key else "no input"
                raise UsageError(f"the columns {text!r} name {wrong}; write NAME,NAME or INPUT=NAME,NAME")
            inputs[key] = parts
    return inputs


def made_of(columns: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """What each input is made of, with ranges as the names that they stand for; raises UsageError as `expanded`."""
    return {name: list(_expanded(tuple(names))) for name, names in columns.items()}


@lru_cache(maxsize=64)  # workers ask with each chunk
def _expanded(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(expanded(names))


def _of_range(name: str) -> list[str]:
    if not (found := _RANGE.fullmatch(name)):
        return [name]
    prefix, first, other, last = found.groups()
    if prefix != other or int(first) > int(last) or (len(first) != len(last) and first[0] == "0" and first != "0"):
        raise UsageError(f"the range {name!r} is none; write one name before both numbers, as p0..p783")
    if int(last) - int(first) >= MOST_COLUMNS:
        raise UsageError(f"the range {name!r} has more than {MOST_COLUMNS:,} columns; give them as one list column")
    width = len(first) if len(first) == len(last) else 0
    return [f"{prefix}{number:0{width}d}" for number in range(int(first), int(last) + 1)]
