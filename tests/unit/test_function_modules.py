"""Functions of programs and notebooks as modules: what travels gives the same there, what does not is named."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell

from producer.embedded.function_modules import import_name, module_folders
from producer.embedded.python_source import NoSourceError, as_source
from tests.waiting import wait_until
from worker_config.errors import UsageError

ROWS = np.arange(6, dtype=np.float32).reshape(3, 2)


def of_program(tmp_path: Path, text: str, name: str = "clean") -> Any:
    """A function of a program that is run, as it is in the program."""
    path = tmp_path / "program.py"
    path.write_text(text)
    scope: dict[str, Any] = {"__name__": "__main__", "__file__": str(path)}
    exec(compile(text, str(path), "exec"), scope)  # noqa: S102 - what Python does with a program
    return scope[name]


def there(function: Any, tmp_path: Path) -> Any:
    """The same function, as a worker imports it; what it printed when it was imported is lost."""
    folder = tmp_path / "models"
    folder.mkdir(exist_ok=True)
    name, _ = import_name(function, folder, "models['m']")
    module, _, attribute = name.partition(":")
    spec = importlib.util.spec_from_file_location(module, folder / f"{module}.py")
    assert spec
    assert spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return getattr(found, attribute)


def test_functions_of_modules_go_by_their_names(tmp_path: Path) -> None:
    assert import_name(wait_until, tmp_path, "m") == ("tests.waiting:wait_until", {"tests.waiting"})
    assert import_name(np.exp, tmp_path, "m") == ("numpy:exp", {"numpy"})
    assert not list(tmp_path.iterdir())


TRAVELS = {
    "what it imports": """
import numpy as np
from math import sqrt as root
def clean(rows): return np.sin(rows) * root(2)""",
    "another function": """
def half(x): return x / 2
def clean(rows): return half(rows)""",
    "each other": """
def a(x): return b(x - 4) if x.max() > 3 else x
def b(x): return a(x)
clean = a""",
    "itself": """
def clean(rows): return rows if rows.max() < 2 else clean(rows / 2)""",
    "numbers and texts": """
K, N = {'a': [2.5, (1,)]}, float('inf')
def clean(rows): return (rows < N) * K['a'][0]""",
    "arrays": """
import numpy as np
MEAN, S = np.array([1., 2.]), [np.float32(3)]
def clean(rows): return rows / S[0] - MEAN""",
    "defaults": """
K = 3
def clean(rows, k=K, *, j=[K]): return rows * k + j[0]
K = 4""",
    "what is inside": """
K = 2
def clean(rows):
    import math
    def f(x): return x * K
    class C:
        a = 1
        b = a
    return f(rows) + math.pi * C.b""",
    "what tensorflow loads later": """
from tensorflow import keras
import tensorflow as tf
def clean(rows): return keras.ops.convert_to_numpy(keras.activations.relu(rows - 1)) * tf.float32.size""",
    "other letters": """
GRÖSSE = "ä\u20ac\\ud800"
def clean(rows): return rows * len(GRÖSSE)""",
    "annotations": """
from __future__ import annotations
def clean(rows: Unknown) -> Unknown: return rows""",
    "a decorator": """
import functools
def twice(f):
    @functools.wraps(f)
    def g(*x): return f(f(*x))
    return g
@twice
def clean(rows, k=2): return rows * k""",
    "what is around it": """
def make(k):
    t = "more"
    def clean(rows):
        return rows * k + len('''
  x''') + len(t)
    return clean
clean = make(3)""",
    "its file": """
def clean(rows): return rows * len(__file__.rpartition('/')[2])""",
}


@pytest.mark.parametrize("text", TRAVELS.values(), ids=list(TRAVELS))
def test_what_a_function_uses_goes_with_it(tmp_path: Path, text: str) -> None:
    function = of_program(tmp_path, text)
    np.testing.assert_array_equal(there(function, tmp_path)(ROWS), function(ROWS))


def test_values_are_those_of_now(tmp_path: Path) -> None:
    function = of_program(tmp_path, "K = [1]\ndef clean(rows): return rows * K[0]")
    function.__globals__["K"][0] = 5
    taken = there(function, tmp_path)
    function.__globals__["K"][0] = 6
    np.testing.assert_array_equal(taken(ROWS), ROWS * 5)


def test_the_same_function_is_the_same_version_and_another_value_another(tmp_path: Path) -> None:
    function = of_program(
        tmp_path, "import numpy as np\nK = np.ones(2)\nS = {'b', 'a'}\ndef clean(rows): return rows * K, S"
    )
    names = [import_name(function, tmp_path, "m")[0] for _ in range(2)]
    function.__globals__["K"][1] = 2
    names.append(import_name(function, tmp_path, "m")[0])
    assert names[0] == names[1] != names[2]


REFUSED = {
    "clean() uses 'lock', a lock": "import threading\nlock = threading.Lock()\ndef clean(rows): return lock",
    "clean() uses 'Own', a type": "class Own: pass\ndef clean(rows): return Own()",
    "clean() uses 'k', a list that holds itself": "k = []\nk.append(k)\ndef clean(rows): return k",
    "half() uses 'k', a range": "k = range(3)\ndef half(x): return k\ndef clean(rows): return half(rows)",
    "clean() uses 'k', an array of Python objects": "import numpy\nk = numpy.array([None])\ndef clean(rows): return k",
    "clean() uses 'k', a list of 3 MiB as text": "k = list(range(400_000))\ndef clean(rows): return k",
    "clean() uses 'f', a function": "f = lambda x: x\ndef clean(rows): return f(rows)",
    "clean() uses 'nothing', which is not defined": "def clean(rows): return nothing",
    "clean() changes 'k', which would stay in a worker": "k = 1\ndef clean(rows):\n    global k\n    k = 2",
    "clean() has defaults, a object": "def clean(rows, k=object()): return k",
    "models['m'] is größe(); name it": "def größe(rows): return rows\nclean = größe",
    "models['m'] is a coroutine function; write": "async def clean(rows): return rows",
    "clean() imports from its own package": "def clean(rows):\n    from .steps import k\n    return k",
    "clean() is made from a partial": "import functools\nk = functools.partial(print)\n@functools.wraps(k)\n"
    "def clean(rows): return k(rows)",
    "models['m'] is a lambda; write it as a function": "clean = lambda rows: rows",
    "models['m'] is a partial; write it": "import functools\nclean = functools.partial(print)",
    "models['m'] is a method; write it": "class A:\n    def f(self, rows): pass\nclean = A().f",
}


@pytest.mark.parametrize(("message", "text"), REFUSED.items(), ids=list(REFUSED))
def test_what_does_not_travel_is_named(tmp_path: Path, message: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        there(of_program(tmp_path, text), tmp_path)
    assert message in str(caught.value)
    assert str(caught.value).startswith("models['m']")
    assert "\n" not in str(caught.value)


def test_a_decorator_that_hides_a_function_is_not_run_twice(tmp_path: Path) -> None:
    text = "def twice(f):\n    def g(x): return f(f(x))\n    return g\n@twice\ndef clean(rows): return rows * 2"
    with pytest.raises(UsageError, match=r"g\(\) uses 'f', a function"):
        there(of_program(tmp_path, text), tmp_path)
    wrapped = of_program(tmp_path, TRAVELS["a decorator"])
    with pytest.raises(UsageError, match="is not what its decorators"):
        there(wrapped.__wrapped__, tmp_path)


def test_a_source_that_was_edited_since_is_refused(tmp_path: Path) -> None:
    function = of_program(tmp_path, "def clean(rows):\n    return rows * 2\n")
    (tmp_path / "program.py").write_text("def clean(rows):\n    return rows * 3\n")
    with pytest.raises(UsageError, match=r"the source of clean\(\), .*program.py, has changed"):
        there(function, tmp_path)
    (tmp_path / "program.py").write_text("def clean(rows:\n")
    with pytest.raises(UsageError, match=r"the source of clean\(\), .*program.py, has changed"):
        there(function, tmp_path)
    (tmp_path / "program.py").unlink()
    with pytest.raises(UsageError, match=r"the source of clean\(\) is not at hand; put it into a module"):
        there(function, tmp_path)


def test_cells_of_a_notebook_are_sources(tmp_path: Path) -> None:
    shell = InteractiveShell()
    cells = [
        "import numpy as np\nK = 3",
        "def half(x): return np.divide(x, 2)",
        "1\ndef clean(rows):\n    return half(rows) * K",
    ]
    cells += [
        "from __future__ import annotations",
        "def later(rows: Unknown): return [display(x) for x in clean(rows)]",
    ]
    for cell in cells:
        assert shell.run_cell(cell).success
    np.testing.assert_array_equal(there(shell.user_ns["clean"], tmp_path)(ROWS), ROWS * 1.5)
    shell.run_cell("def clean(rows):\n    return half(rows) * K * 2")
    np.testing.assert_array_equal(there(shell.user_ns["clean"], tmp_path)(ROWS), ROWS * 3)
    with shell.builtin_trap, pytest.raises(UsageError, match="uses 'display', which is not defined"):
        there(shell.user_ns["later"], tmp_path)


def test_where_modules_are_that_a_worker_would_not_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_steps").mkdir()
    (tmp_path / "own_steps" / "__init__.py").write_text("def clean(rows): return rows")
    (tmp_path / "own_single.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("own_steps", "own_single"):
        importlib.import_module(name)
        monkeypatch.setitem(sys.modules, name, sys.modules[name])
    assert module_folders({"own_steps.part", "own_single", "numpy", "math", "sys"}) == [str(tmp_path)]
    monkeypatch.chdir(tmp_path)
    assert module_folders({"own_steps", "numpy"}) == []


@pytest.mark.parametrize(
    "value", [math.nan, -math.inf, b"\0", "\udc80'", {1: (None, True)}, (), frozenset([1]), -1e-300]
)
def test_values_as_source(value: object) -> None:
    again = eval(as_source(value, lambda _: ""))  # noqa: S307 - our own source
    assert type(again) is type(value)
    assert repr(again) == repr(value)


def test_arrays_that_no_file_keeps_are_refused() -> None:
    import ml_dtypes

    with pytest.raises(NoSourceError, match="an array of bfloat16"):
        as_source(np.ones(2, ml_dtypes.bfloat16), lambda _: "")
