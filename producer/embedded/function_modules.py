"""Functions of a caller --> names by which a worker imports them; nothing is pickled.

function of a module              --> "steps:clean"                imported there as it was here
function of a notebook or program --> "functions_1f0c27aa:clean"   its source, in a module that is written for it

Such a module holds what the function uses, as it is now: imports, other functions of the notebook, numbers, texts,
lists of these, and arrays. Whatever else it uses would not be the same there, and is refused by its name.
"""

from __future__ import annotations

import ast
import builtins
import dis
import hashlib
import inspect
import json
import subprocess
import sys
from pathlib import Path
from types import BuiltinFunctionType, CellType, FunctionType, ModuleType
from typing import Any

import numpy as np

from producer.embedded.python_source import NoSourceError, as_source, codes_in, current_source
from worker_config.errors import UsageError

_PROGRAMS = ("__main__", "__mp_main__")
_HEADER = "from __future__ import annotations\n"
_ARRAYS = "_celeriac_arrays"
_REMEDY = (
    "what goes to the workers along with it are imports, functions, numbers, texts, lists of these, and arrays; make "
    "others inside of it, or put it into a module (a .py file) with what it uses, and import that"
)


def import_name(function: Any, folder: Path, where: str) -> tuple[str, set[str]]:
    """How a worker imports a function, and the modules that it has to find for that.

    Args:
        function: any function that has a name; no lambda, method or other object that can be called.
        folder: of the manifest, in which a module is written where one is needed.
        where: names the function's place in the caller's words.

    Raises:
        UsageError: it, or something that it uses, does not travel; the text names it, and what to do.
    """
    if names := _importable(function):
        return ":".join(names), {names[0]}
    is_function = isinstance(function, FunctionType) and not inspect.iscoroutinefunction(function)
    if not is_function or function.__name__ == "<lambda>":
        kind = (
            "lambda" if is_function else f"{'coroutine ' * isinstance(function, FunctionType)}{type(function).__name__}"
        )
        raise UsageError(f"{where} is a {kind}; write it as a function, with def")
    if not function.__name__.isascii():
        raise UsageError(f"{where} is {function.__name__}(); name it with letters of ASCII alone, as a manifest has it")
    module = _Module(folder, where)
    module.add(function)
    return f"{module.write()}:{function.__name__}", module.imported


def module_folders(modules: set[str]) -> list[str]:
    """The folders in which these modules were found, without those where every process that starts here looks."""
    folders = {folder for name in modules if (folder := _folder_of(name.partition(".")[0]))}
    if not folders:
        return []
    program = "import json, sys; print(json.dumps(sys.path))"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    known = {Path(path).resolve() for path in json.loads(told.stdout)}
    return sorted(str(folder) for folder in folders - known)


def _folder_of(package: str) -> Path | None:
    spec = getattr(sys.modules.get(package), "__spec__", None)
    places = list(spec.submodule_search_locations or []) if spec else []
    if not places and spec and spec.has_location and spec.origin:
        places = [spec.origin]
    return Path(places[0]).resolve().parent if places else None


def _importable(value: Any) -> tuple[str, str] | None:
    """The module of a function or class, and its name there; None where another process would not find it."""
    name, module = getattr(value, "__qualname__", None), getattr(value, "__module__", None)
    if not isinstance(name, str) or not isinstance(module, str) or module in _PROGRAMS or not name.isidentifier():
        return None
    home = sys.modules.get(module)
    is_found = getattr(home, "__spec__", None) is not None and getattr(home, name, None) is value
    return (module, name) if is_found else None


class _Module:
    """The text of a module as it grows."""

    def __init__(self, folder: Path, where: str) -> None:
        self._folder, self._where = folder, where
        self._imports: set[str] = set()
        self._pieces: list[str] = []
        self._placed: dict[str, Any] = {}
        self.imported: set[str] = set()

    def write(self) -> str:
        """Write its file; return its name, which its content decides."""
        arrays = f"{_ARRAYS} = __import__('pathlib').Path(__file__).parent\n"
        text = "\n".join([_HEADER, *sorted(self._imports), "", arrays, *self._pieces])
        name = f"functions_{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        (self._folder / f"{name}.py").write_text(text, encoding="utf-8")
        return name

    def add(self, function: FunctionType) -> None:
        """The source of a function, behind all that it uses."""
        self._placed[function.__name__] = function
        original = inspect.unwrap(function)
        if not isinstance(original, FunctionType):
            raise self._refused(function, f"is made from a {type(original).__name__}")
        try:
            source = current_source(original.__code__)
        except NoSourceError as error:
            raise UsageError(f"{self._where}: {error}; put it into a module (a .py file), and import that") from None
        if (
            source.removeprefix("if True:\n").lstrip().startswith("@")
            and function.__globals__.get(function.__name__) is not function
        ):
            raise self._refused(function, "is not what its decorators have made of it")
        cells = dict(zip(original.__code__.co_freevars, original.__closure__ or (), strict=True))
        for name in self._names_used(source, function):
            value = self._value_of(name, original, cells)
            if value is not self:
                self._place(name, value, function, is_cell=name in cells)
        self._note_imports(source, function)
        self._pieces.append(source)
        self._keep_defaults(function, original)

    def _note_imports(self, source: str, user: FunctionType) -> None:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                self.imported |= {one.name for one in node.names}
            elif isinstance(node, ast.ImportFrom):
                if node.level:
                    raise self._refused(user, "imports from its own package, by a name that begins with a dot")
                self.imported.add(str(node.module))

    def _names_used(self, source: str, user: FunctionType) -> list[str]:
        """What a function's source takes from outside, decorators and defaults included."""
        used: dict[str, None] = {}
        for code in codes_in(compile(_HEADER + source, "<function>", "exec", dont_inherit=True)):
            steps = list(dis.get_instructions(code))
            own = {step.argval for step in steps if step.opname == "STORE_NAME"}
            for step in steps:
                if step.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
                    raise self._refused(user, f"changes {step.argval!r}, which would stay in a worker")
                in_class = step.opname in ("LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS") and step.argval not in own
                if step.opname == "LOAD_GLOBAL" or in_class:
                    used[step.argval] = None
        return list(used)

    def _value_of(self, name: str, user: FunctionType, cells: dict[str, CellType]) -> Any:
        """What a name stands for; this object where it is one of Python's own."""
        try:
            return cells[name].cell_contents if name in cells else user.__globals__[name]
        except (KeyError, ValueError):
            own = getattr(builtins, name, None)
            # IPython has put some of its own there.
            if hasattr(builtins, name) and not str(getattr(own, "__module__", "")).startswith("IPython"):
                return self
        raise self._refused(user, f"uses {name!r}, which is not defined")

    def _place(self, name: str, value: Any, user: FunctionType, *, is_cell: bool) -> None:
        if name in self._placed:
            if self._placed[name] is not value:
                raise self._refused(user, f"uses {name!r}, which is something else in another function")
            return
        self._placed[name] = value
        if isinstance(value, ModuleType) and value.__name__ in sys.modules and value.__name__ not in _PROGRAMS:
            self._imports.add(f"import {value.__name__} as {name}")
            self.imported.add(value.__name__)
        elif isinstance(value, type | FunctionType | BuiltinFunctionType | np.ufunc) and (named := _importable(value)):
            self._imports.add(f"from {named[0]} import {named[1]} as {name}")
            self.imported.add(named[0])
        elif isinstance(value, FunctionType) and not is_cell and value.__name__ == name:
            self.add(value)
        else:
            self._pieces.append(f"{name} = {self._source_of(value, user, f'uses {name!r}')}\n")

    def _keep_defaults(self, function: FunctionType, original: FunctionType) -> None:
        """They have the values of when the function was defined."""
        name = function.__name__ if function is original else f"__import__('inspect').unwrap({function.__name__})"
        for key in ("__defaults__", "__kwdefaults__"):
            if values := getattr(original, key):
                self._pieces.append(f"{name}.{key} = {self._source_of(values, function, 'has defaults')}\n")

    def _source_of(self, value: object, user: FunctionType, how: str) -> str:
        try:
            return as_source(value, self._of_array)
        except NoSourceError as error:
            raise self._refused(user, f"{how}, {error}") from None

    def _of_array(self, data: bytes) -> str:
        file = f"{hashlib.sha256(data).hexdigest()[:16]}.npy"  # so that the text tells one array from another
        (self._folder / file).write_bytes(data)
        return f"__import__('numpy').load({_ARRAYS} / {file!r})"

    def _refused(self, user: FunctionType, what: str) -> UsageError:
        return UsageError(f"{self._where}: {user.__name__}() {what}; {_REMEDY}")
