"""Takes trees of arrays apart and puts them together: dicts and tuples within each other, one leaf or many.

({"image": a, "mask": b}, c)  <-->  {("0", "image"): a, ("0", "mask"): b, ("1",): c}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

# The names that lead from the root to a leaf: () for a bare one, ("digits", "scores") for a nested one.
Key: TypeAlias = tuple[str, ...]
Columns: TypeAlias = dict[Any, Any]


class Position(str):
    """A place in a tuple, which for people is a name as any other, and tells a tuple from a dict."""

    __slots__ = ()


def leaves_of(tree: Any, key: Key = ()) -> Iterator[tuple[Key, Any]]:
    """What is neither dict nor tuple, by the names that lead to it; empty dicts and tuples are leaves too.

    Names are strings only where those of all dicts are.
    """
    if isinstance(tree, Mapping) and tree:
        for name, branch in tree.items():
            yield from leaves_of(branch, (*key, name))
    elif isinstance(tree, tuple) and tree:
        for position, branch in enumerate(tree):
            yield from leaves_of(branch, (*key, Position(position)))
    else:
        yield key, tree


def tree_of(leaves: Mapping[Key, Any]) -> Any:
    """Undo `leaves_of`; without leaves, an empty dict."""
    if () in leaves:
        return leaves[()]
    branches: dict[str, dict[Key, Any]] = {}
    for (name, *rest), leaf in leaves.items():
        branches.setdefault(name, {})[tuple(rest)] = leaf
    tree = {name: tree_of(branch) for name, branch in branches.items()}
    return tuple(tree.values()) if any(isinstance(name, Position) for name in tree) else tree


def columns_of(rows: Any) -> Columns:
    """The columns by name, by number, or by "" where there is but one."""
    if isinstance(rows, Mapping):
        return dict(rows)
    return dict(enumerate(rows)) if isinstance(rows, tuple) else {"": rows}


def tree_like(rows: Any, columns: Columns) -> Any:
    """Columns of these names in the form of `rows`."""
    if isinstance(rows, Mapping):
        return columns
    return tuple(columns.values()) if isinstance(rows, tuple) else columns[""]


def is_ragged(rows: object) -> bool:
    """Whether some column is a list of rows."""
    return any(isinstance(column, list) for column in columns_of(rows).values())
