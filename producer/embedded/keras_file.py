"""A Keras model in memory --> its `.keras` file: the same bytes for the same model, so that it is the same version.

Only of what is all Keras's own. A worker has no class or function of the caller's; one that is called like one of
Keras's, such as another `relu`, would even be taken for that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FunctionType, MethodType
from typing import Any
from zipfile import ZipFile, ZipInfo

_WEIGHTS, _CONFIG, _METADATA = "model.weights.h5", "config.json", "metadata.json"
_OPTIMIZER = "optimizer"
# Layers that hold Python code, or read a file of their own, at a path that may be relative.
_WITH_CODE = ("Lambda", "TFSMLayer")
# Where the types of all that a layer of Keras's own consists of are at home.
_HOMES = frozenset("keras tensorflow numpy ml_dtypes builtins collections functools inspect types weakref".split())


def has_own_code(model: Any) -> bool:
    """Whether there is more in a model than Keras's classes and functions; where that cannot be told, there is.

    What it was compiled with does not count.
    """
    waiting, seen = [model], {id(model): model}
    while waiting:
        one = waiting.pop()
        kind = type(one)
        is_function = isinstance(one, FunctionType | MethodType)
        home = str((one if is_function else kind).__module__).partition(".")[0]
        if home not in ("keras", "tensorflow") if is_function else home not in _HOMES or kind.__name__ in _WITH_CODE:
            return True
        for part in () if is_function else _parts(one):
            if id(part) not in seen:
                seen[id(part)] = part  # kept, as another could get its id
                waiting.append(part)
    return False


def _parts(one: Any) -> list[Any]:
    if isinstance(one, dict):
        return list(one.values())
    if isinstance(one, list | tuple | set | frozenset):
        return list(one)
    if not type(one).__module__.startswith("keras."):
        return []
    if hasattr(one, "train_step"):  # a model, which also has what trains it
        return [*one.layers, *getattr(one, "operations", ()), vars(one).get("call")]
    return list(vars(one).values()) if hasattr(one, "__dict__") else []


def save_keras_file(model: Any, file: Path) -> bool:
    """Write it; False, and no file, where Keras cannot, or could not read it without objects of somebody's own.

    Raises:
        OSError: it cannot be written.
    """
    with TemporaryDirectory(dir=file.parent) as folder, suppress(NotImplementedError, TypeError, ValueError):
        saved = Path(folder, file.name)
        model.save(saved)  # unless a layer does not tell what it was made with
        with ZipFile(saved) as whole:
            config = json.loads(whole.read(_CONFIG))
            config.pop("compile_config", None)
            if not getattr(model, "inputs", None) or any(map(_is_own, _objects(config))):
                return False
            with ZipFile(file, "w") as target:
                _copy(whole, config, target, Path(folder))
            return True
    return False


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """All that Keras would make of a description."""
    if isinstance(config, dict):
        yield config
    for one in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        yield from _objects(one)


def _is_own(one: dict[str, Any]) -> bool:
    return bool(one.get("registered_name")) and str(one.get("module")).partition(".")[0] != "keras"


def _copy(whole: ZipFile, config: dict[str, Any], target: ZipFile, folder: Path) -> None:
    """Without what differs from one time to the next, and without the optimizer."""
    numbers: dict[int, int] = {}
    for one in _objects(config):
        if "shared_object_id" in one:
            one["shared_object_id"] = numbers.setdefault(one["shared_object_id"], len(numbers) + 1)
    metadata = {**json.loads(whole.read(_METADATA)), "date_saved": "1980-01-01@00:00:00"}
    told = {_CONFIG: config, _METADATA: metadata}
    for name in sorted(whole.namelist()):
        if name in told:
            target.writestr(ZipInfo(name), json.dumps(told[name]))
            continue
        part = Path(whole.extract(name, folder))
        part = _without_optimizer(part) if name == _WEIGHTS else part
        with part.open("rb") as source, target.open(ZipInfo(name), "w", force_zip64=True) as copy:
            while block := source.read(2**20):
                copy.write(block)


def _without_optimizer(file: Path) -> Path:
    import h5py  # which comes with Keras

    bare = file.with_name("bare.h5")
    with h5py.File(file) as whole, h5py.File(bare, "w") as target:
        target.attrs.update(whole.attrs)
        for name in whole:
            if name != _OPTIMIZER:
                whole.copy(name, target)
    return bare
