"""The code of a function --> its source text, and only if that is still what the function was made of.

A file may have been edited since, a cell of a notebook not: each run of one is a source of its own.
"""

from __future__ import annotations
import __future__

import ast
import linecache
from collections.abc import Iterator
from types import CodeType

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
