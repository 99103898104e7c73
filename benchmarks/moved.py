"""Shows that modules were moved and not changed: the syntax trees of their definitions, but for imports and names.

    python -m benchmarks.moved BEFORE AFTER

    git's renames between two commits --parse--> definitions of both --without imports, docstrings and names--> equal?

A name counts by the place of its first appearance in a definition, so that a renamed module or class is no difference,
and two names that were exchanged are one. Lists the definitions that differ, and exits with 1 if there are any.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator

PACKAGES = ("producer", "tasks", "worker_config")
_DEFINITIONS = (ast.FunctionDef, ast.ClassDef)
_NAMED = {"id", "attr", "arg", "name", "asname", "module"}


def main() -> int:
    """Compare, print, and return the exit code."""
    before, after = sys.argv[1:]
    compared, differing = 0, []
    for old, new in _renamed(before, after):
        olds, news = (dict(_definitions(_git("show", f"{ref}:{path}"))) for ref, path in ((before, old), (after, new)))
        compared += len(olds)
        differing += [
            f"{old} -> {new}: {name}" for name in olds.keys() | news.keys() if olds.get(name) != news.get(name)
        ]
    print(f"{compared} definitions of moved modules compared, {len(differing)} differ")
    print(*sorted(differing), sep="\n")
    return bool(differing)


def _git(*args: str) -> str:
    return subprocess.run(["git", *args], check=True, capture_output=True, text=True).stdout  # noqa: S607


def _renamed(before: str, after: str) -> Iterator[tuple[str, str]]:
    for line in _git("diff", "--name-status", "--find-renames=50%", "-l0", before, after, "--", *PACKAGES).splitlines():
        status, *paths = line.split("\t")
        if status[0] == "R" and paths[0].endswith(".py"):
            yield paths[0], paths[1]


def _definitions(source: str) -> Iterator[tuple[str, str]]:
    """Each top-level definition by its number, and each group of other statements, in a form that can be compared."""
    for number, node in enumerate(node for node in ast.parse(source).body if not _is_import(node)):
        for inner in ast.walk(node):
            if isinstance(inner, _DEFINITIONS) and ast.get_docstring(inner) is not None:
                inner.body[0] = ast.Pass()
        seen: dict[str, str] = {}
        title = node.name if isinstance(node, _DEFINITIONS) else "statement"
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # the module's docstring
        yield f"{number} ({title})", _plain(node, seen)


def _is_import(node: ast.AST) -> bool:
    return isinstance(node, (ast.Import, ast.ImportFrom))


def _plain(value: object, seen: dict[str, str], field: str = "") -> str:
    if isinstance(value, ast.AST):
        fields = ", ".join(_plain(inner, seen, name) for name, inner in ast.iter_fields(value) if not _is_import(value))
        return f"{type(value).__name__}({fields})"
    if isinstance(value, list):
        return f"[{', '.join(_plain(one, seen, field) for one in value)}]"
    if isinstance(value, str) and field in _NAMED:
        return seen.setdefault(f".{value}" if field == "attr" else value, f"name {len(seen)}")
    return repr(value)


if __name__ == "__main__":
    sys.exit(main())
