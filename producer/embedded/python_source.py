"""Functions and plain values --> Python source of them, as they are now.

function --current_source--> its source text, and only if that is still what the function was made of
value    --as_source-------> an expression: of numbers, texts, lists and dicts of these, and of arrays by a file

A file may have been edited since, a cell of a notebook not: each run of one is a source of its own.
"""

from __future__ import annotations
import __future__

import ast
import io
import linecache
import math
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

import numpy as np

MOST_CHARACTERS = 2**20
_FUTURES = sum(getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)


class NoSourceError(Exception):
    """What cannot be written as source; the text says what it is."""


def current_source(code: CodeType) -> str:
    """The whole `def` statement with its decorators; that of an inner function is indented below `if True:`.

    Raises:
        NoSourceError: there is no source, as of what was typed into an interpreter, or it has changed.
    """
    linecache.checkcache(code.co_filename)
    lines = linecache.getlines(code.co_filename)
    if not lines:
        raise NoSourceError(f"the source of {code.co_name}() is not at hand")
    try:
        tree = ast.parse("".join(lines))
    except SyntaxError:
        tree = ast.Module([], [])
    node = next((one for one in ast.walk(tree) if _is_def_of(one, code)), None)
    if not isinstance(node, ast.FunctionDef) or not any(code == one for one in _compiled(tree, code)):
        raise NoSourceError(f"the source of {code.co_name}(), {code.co_filename}, has changed since it was run")
    text = "".join(lines[code.co_firstlineno - 1 : node.end_lineno])
    return f"if True:\n{text}" if node.col_offset else text


def codes_in(code: CodeType) -> Iterator[CodeType]:
    """The code itself, and of all functions and classes in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes_in(constant)


def _is_def_of(node: ast.AST, code: CodeType) -> bool:
    if not isinstance(node, ast.FunctionDef) or node.name != code.co_name:
        return False
    first: int = min([node.lineno, *(one.lineno for one in node.decorator_list)])
    return first == code.co_firstlineno


def _compiled(tree: ast.Module, code: CodeType) -> Iterator[CodeType]:
    """All codes of a source: as a file is compiled, and as a cell is, whose statements are compiled one by one."""
    for unit in (tree, *(ast.Module([statement], []) for statement in tree.body)):
        flags = code.co_flags & _FUTURES
        yield from codes_in(compile(unit, code.co_filename, "exec", flags, dont_inherit=True))


def as_source(value: object, of_array: Callable[[bytes], str]) -> str:
    """An expression; `of_array` gives that of an array, from the bytes of its `.npy` file.

    Raises:
        NoSourceError: it is, or holds, something else, or is too long for a source; the text says what.
    """
    try:
        text = _text(value, of_array)
    except (RecursionError, ValueError):
        raise NoSourceError(f"a {type(value).__name__} that holds itself, or numbers too long to be written") from None
    if len(text) > MOST_CHARACTERS:
        raise NoSourceError(f"a {type(value).__name__} of {len(text) / 2**20:,.0f} MiB as text; make it an array")
    return text


def _text(value: Any, of_array: Callable[[bytes], str]) -> str:
    kind = type(value)  # one that is derived has more than its value
    if value is None or kind in (bool, int, str, bytes):
        return repr(value)
    if kind is float:
        return repr(value) if math.isfinite(value) else f"float('{value}')"
    if kind in (list, tuple):
        items = "".join(f"{_text(one, of_array)}, " for one in value)
        return f"[{items}]" if kind is list else f"({items})"
    if kind is dict:
        return "{" + "".join(f"{_text(key, of_array)}: {_text(one, of_array)}, " for key, one in value.items()) + "}"
    if kind in (set, frozenset):
        return f"{kind.__name__}([{', '.join(sorted(_text(one, of_array) for one in value))}])"
    if kind is np.ndarray:
        return of_array(_npy(value))
    if isinstance(value, np.generic):
        return f"{of_array(_npy(np.asarray(value)))}[()]"
    raise NoSourceError(f"a {kind.__name__}")


def _npy(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    try:
        np.save(file, array, allow_pickle=False)
    except ValueError:
        raise NoSourceError("an array of Python objects") from None
    file.seek(0)
    if np.load(file, allow_pickle=False).dtype != array.dtype:
        raise NoSourceError(f"an array of {array.dtype}, which no .npy file keeps")
    return file.getvalue()
