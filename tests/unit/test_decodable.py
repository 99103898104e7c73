"""Types are made known to msgspec by one thread at a time, wherever something is decoded."""

from __future__ import annotations

import ast
import threading
from pathlib import Path
from typing import Any

import pytest

import worker_config
from tests.waiting import wait_until
from worker_config import decodable as guard
from worker_config.decodable import decodable

PACKAGES = Path(worker_config.__file__).parents[1]
FILES = sorted(path for name in ("producer", "tasks", "worker_config") for path in (PACKAGES / name).rglob("*.py"))


def unguarded(tree: ast.AST) -> list[int]:
    """Lines that have msgspec decode or convert into a type that was not made known before."""
    lines = []
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and ast.unparse(node.func).startswith("msgspec.")):
            continue
        called = ast.unparse(node.func).rpartition(".")[2]
        types = [keyword.value for keyword in node.keywords if keyword.arg == "type"]
        types += node.args[1:2] if called == "convert" else node.args[:1] if called == "Decoder" else []
        if called in ("convert", "Decoder", "decode"):
            lines += [one.lineno for one in types if not is_guarded(one, tree)]
    return lines


def is_guarded(form: ast.expr, tree: ast.AST) -> bool:
    if isinstance(form, ast.Name):  # a variable that was given one, or a plain type of Python's
        given = [node.value for node in ast.walk(tree) if isinstance(node, ast.Assign) and names(node) == [form.id]]
        return form.id in ("dict",) or (bool(given) and all(is_guarded(one, tree) for one in given))
    if isinstance(form, ast.Subscript):
        return ast.unparse(form) == "dict[str, object]"
    return isinstance(form, ast.Call) and ast.unparse(form.func) == "decodable"


def names(node: ast.Assign) -> list[str]:
    return [target.id for target in node.targets if isinstance(target, ast.Name)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGES)))
def test_nothing_is_decoded_into_a_type_that_is_not_known(path: Path) -> None:
    if path.name != "decodable.py":
        assert not unguarded(ast.parse(path.read_text()))


def test_the_test_sees_what_is_not_guarded() -> None:
    for text in ("msgspec.json.decode(data, type=X)", "msgspec.convert(data, list[X])", "msgspec.json.Decoder(X)"):
        assert unguarded(ast.parse(text)) == [1]
    assert not unguarded(ast.parse("msgspec.json.decode(data, type=decodable(X))"))


class Form:
    """Tells whether it has been asked for; one that is not known is asked for before the lock is."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def __hash__(self) -> int:
        self.asked.set()
        return id(self)


def test_one_thread_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    forms = [Form(), Form()]
    begun: list[object] = []
    goes_on = threading.Event()

    def slow(form: Any) -> None:
        begun.append(form)
        assert goes_on.wait(60)

    monkeypatch.setattr(guard.msgspec.msgpack, "Decoder", slow)
    threads = [threading.Thread(target=decodable, args=(form,)) for form in forms]
    for thread, form in zip(threads, forms, strict=True):
        thread.start()
        assert form.asked.wait(60)
    wait_until(lambda: begun, "one has the lock")
    assert begun == forms[:1]
    goes_on.set()
    for thread in threads:
        thread.join()
    assert begun == forms
    assert decodable(forms[1]) is forms[1]
    assert begun == forms
