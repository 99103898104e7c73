"""`models.toml`, the list of the models that a worker holds, becomes checked values: `ModelEntry` has its keys.

memory_limit = "4 GiB"          # of each child; models that are not preloaded leave when it is reached

[models.digits]
path = "models/digits.keras"    # relative to the manifest's folder, or a URL; without it preprocess is all
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, TypeVar

import msgspec

from worker_config.columns import made_of
from worker_config.decodable import decodable
from worker_config.errors import ConfigError, UnknownModelError, UsageError
from worker_config.foreign_errors import did_you_mean, one_line, with_key_meant
from worker_config.model_paths import is_model, name_of
from worker_config.object_urls import is_url

T = TypeVar("T")
DEFAULT_BATCH_ROWS = 64
DEFAULT_BATCH_MIB = 256
MOST_BATCH_MIB = 2**20
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"
_NAME = re.compile(NAME)
_AMOUNT = re.compile(r"([1-9][0-9]{0,6}) ?([MG])iB")
_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
# Of values beyond their key's limits: what is allowed.
_ALLOWED = {
    "batch_rows": "the least is 1",
    "batch_mib": f"it goes from 1 to {MOST_BATCH_MIB}",
    "version": "the least is 1, and 0 is the highest that there is",
    **dict.fromkeys(("preprocess", "postprocess"), "name a function as 'package.module:function'"),
}
# What JSON can hold, in which it counts for the model's version.
Constant: TypeAlias = (
    bool
    | Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
    | Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
    | str
)
_Function: TypeAlias = Annotated[str, msgspec.Meta(pattern=rf"(?a)\A({_FUNCTION.pattern})?\Z")]


class ModelEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One `[models.NAME]` table.

    Attributes:
        path: the model's file, folder, or tree of versions PATH/1, PATH/2, absolute after `read_manifest`, or its URL.
            Or a function `package.module:function`, which then is the model. Without a path, what `preprocess` makes
            of the rows is the output.
        version: which version of a tree; 0 is the highest.
        batch_rows: rows in one call of the model; the tail of a chunk is padded up to it.
        batch_mib: what they may have together, in MiB: of larger rows there are fewer in a call, at least one.
        signature: which signature of a SavedModel to call.
        inputs, outputs: tensors of a graph without signatures, by name, such as "x:0". Of other formats `inputs` are
            all that there are, in the order that a tuple of arrays goes by, and `outputs` those that are wanted.
        constants: values of a graph's placeholders, by tensor name, or of a SavedModel's inputs that are no rows.
        columns: of inputs, or of what `preprocess` takes, the columns of the data set that each is made of; all others
            are columns of their own names.
        lambdas: whether a Keras file may bring Python code of its own (Lambda layers).
        allow_file_operations: whether its graph may touch files other than the model's own, the network or Python.
        preprocess, postprocess: functions that run before and after the model, as `package.module:function`.
        files: files and folders that these functions read; absolute after `read_manifest`.
        imports: modules that are imported before the model is loaded, for the classes or operations that they bring.
        folder: of the manifest, where modules of the user's own may stand; `read_manifest` fills it in.
        chain: in place of a path, the names of entries that run one after the other, each on what the one before it
            gave; between `preprocess` and `postprocess`, if there are any.
        members: what these names stand for; `read_manifest` fills it in.
        drops_rows: whether `preprocess` may leave out rows on purpose.
        preload: load when the worker starts; else on first use.
        prefer: "speed", or "memory": an executor that shares its weights, even where another is faster.
        precision: lower precisions that may be used where they are faster and pass the gate.
        calibration: rows for the gate, `.npy` or `.npz`; absolute after `read_manifest`.
        tolerance: of a lower precision, else of float32: the largest deviation in units of the outputs' spread.
        agreement: of a lower precision: the least share of rows whose largest output stays the same.
        independent_rows: False: a prediction is meant to depend on more than its row; chunks are always the same.
    """

    path: str = ""
    version: Annotated[int, msgspec.Meta(ge=0)] = 0
    batch_rows: Annotated[int, msgspec.Meta(ge=1)] = DEFAULT_BATCH_ROWS
    batch_mib: Annotated[int, msgspec.Meta(ge=1, le=MOST_BATCH_MIB)] = DEFAULT_BATCH_MIB
    signature: str = "serving_default"
    inputs: list[str] = []
    outputs: list[str] = []
    constants: dict[str, Constant] = {}
    columns: dict[str, list[str]] = {}
    lambdas: bool = False
    allow_file_operations: bool = False
    preprocess: _Function = ""
    postprocess: _Function = ""
    drops_rows: bool = False
    files: list[str] = []
    imports: list[str] = []
    folder: str = ""
    chain: list[str] = []
    members: dict[str, ModelEntry] = {}
    preload: bool = True
    prefer: Literal["speed", "memory"] = "speed"
    precision: list[Literal["bfloat16", "int8"]] = []
    calibration: str = ""
    tolerance: float = 0.0
    agreement: float = 0.0
    independent_rows: bool = True

    @property
    def float32_tolerance(self) -> float:
        """What decides executors in float32; 0 leaves that to the gate. A lower precision has `tolerance` itself."""
        return 0.0 if self.precision else self.tolerance

    @property
    def has_file(self) -> bool:
        """Whether there is a model's file, and not functions alone."""
        return bool(self.path) and not is_function(self.path)

    @property
    def batch_bytes(self) -> int:
        """What the rows of one call may have together."""
        return self.batch_mib * 2**20


_DEFAULTS = ModelEntry()
_FILLED_IN = ("members", "folder")
_OF_ALL = {"path", "columns", "preprocess", "postprocess", "drops_rows", "files", "chain", "preload", *_FILLED_IN}
_OF_MODELS = frozenset(ModelEntry.__struct_fields__) - _OF_ALL


class _Manifest(msgspec.Struct, forbid_unknown_fields=True):
    models: dict[str, dict[str, object]]
    memory_limit: str = ""


def read_manifest(path: Path, names: Sequence[str] = ()) -> dict[str, ModelEntry]:
    """The models by name, their paths made absolute; given names, these alone, whatever is wrong with others.

    A model's own file or folder is a manifest of that model.

    Raises:
        ConfigError: no such file, not TOML, a wrong key, type or value; the text names file and key.
        UnknownModelError: as `select`.
    """
    tables = _tables(path)
    folder = path.resolve().parent

    @cache
    def entry_of(name: str) -> ModelEntry:
        return _checked(name, _entry(name, tables[name], path), folder, path)

    return {name: _chained(name, entry_of, tables, path) for name in select(tables, names)}


def model_names(path: Path) -> list[str]:
    """The names of a manifest's models, whatever is wrong with their tables.

    Raises:
        ConfigError: as `read_manifest`, of the manifest as a whole.
    """
    return list(_tables(path))


def read_memory_limit(path: Path) -> int:
    """`memory_limit`, which stands before the tables: bytes that a child may have of its own; 0 is without limit.

    Raises:
        ConfigError: as `read_manifest`, or it is no amount of memory.
    """
    text = _read(path).memory_limit
    amount = _AMOUNT.fullmatch(text)
    if text and not amount:
        raise ConfigError(f"the manifest {path}: memory_limit is {text!r}; write it as '800 MiB' or '4 GiB'")
    return int(amount[1]) * (2**20 if amount[2] == "M" else 2**30) if amount else 0


def _tables(path: Path) -> dict[str, dict[str, object]]:
    read_memory_limit(path)  # what is wrong is told by all commands, not by the worker alone
    tables = _read(path).models
    if not tables:
        raise ConfigError(f"the manifest {path} names no model; add a [models.NAME] table with a path")
    return tables


def _read(path: Path) -> _Manifest:
    if is_model(path):
        return _Manifest({name_of(path): {"path": str(path.absolute())}})
    try:
        manifest = msgspec.toml.decode(path.read_bytes(), type=decodable(dict[str, object]))
    except OSError as error:
        raise ConfigError(
            f"the manifest {path} cannot be read ({error.strerror}); name one with --models, "
            "CELERIAC_MODELS or, in Python, local(models=...)"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the manifest {path} is not TOML: {one_line(error)}") from None
    try:
        return msgspec.convert(manifest, decodable(_Manifest))
    except msgspec.ValidationError as error:
        raise ConfigError(f"the manifest {path}: {with_key_meant(error, _Manifest.__struct_fields__)}") from None


def select(entries: Mapping[str, T], names: Sequence[str]) -> dict[str, T]:
    """The entries of these names alone, in the manifest's order; all if there are no names.

    Raises:
        UnknownModelError: the manifest has no such model; the text names those that it has.
    """
    for name in set(names).difference(entries):
        known = f"{did_you_mean(name, entries)}; there are: {', '.join(sorted(entries))}"
        raise UnknownModelError(f"no model {name!r} in the manifest to hold{known}")
    return {name: entry for name, entry in entries.items() if not names or name in names}


def _entry(name: str, table: dict[str, object], manifest: Path) -> ModelEntry:
    """One at a time, because msgspec does not say which of them is wrong."""
    try:
        if filled_in := [key for key in _FILLED_IN if key in table]:
            raise msgspec.ValidationError(f"Object contains unknown field `{filled_in[0]}`")
        return msgspec.convert(table, decodable(ModelEntry))
    except msgspec.ValidationError as error:
        key = str(error).rpartition("`$.")[2].rstrip("`")
        what = f": {with_key_meant(error, set(ModelEntry.__struct_fields__).difference(_FILLED_IN))}"
        if key in _ALLOWED and "got" not in str(error):  # else it is of another type
            what = f".{key} is {table[key]!r}; {_ALLOWED[key]}"
        raise ConfigError(f"the manifest {manifest}: models.{name}{what}") from None


def _checked(name: str, entry: ModelEntry, folder: Path, manifest: Path) -> ModelEntry:
    where = f"the manifest {manifest}: models.{name}"
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: a name has letters, digits, '_', '-' and '.', and starts with one of the first")
    if entry.drops_rows and not entry.preprocess:
        raise ConfigError(f"{where}.drops_rows is for a preprocess function, which alone may leave out rows")
    if entry.files and not (entry.preprocess or entry.postprocess or entry.imports or is_function(entry.path)):
        raise ConfigError(f"{where}.files is for functions, which read them, and there is none")
    if wrong := [module for module in entry.imports if not _MODULE.fullmatch(module)]:
        raise ConfigError(f"{where}.imports names {wrong[0]!r}; name a module as 'package.module'")
    files = [str(_inside(path, folder, f"{where}.files")) for path in entry.files]
    entry = msgspec.structs.replace(entry, files=files, folder=str(folder))
    try:
        made_of(entry.columns)
    except UsageError as error:
        raise ConfigError(f"{where}.columns: {error}") from None
    if not entry.path:
        return _step(entry, where)
    if entry.chain:
        raise ConfigError(f"{where} has a path and a chain; name the model of the path in an entry of its own")
    if entry.batch_rows > entry.batch_bytes:
        raise ConfigError(
            f"{where}.batch_rows is {entry.batch_rows}: with one byte in each row a batch has "
            f"{entry.batch_rows / 2**20:,.0f} MiB, and batch_mib allows {entry.batch_mib}; lower batch_rows"
        )
    if entry.precision and not entry.calibration:
        raise ConfigError(f'{where}.precision needs calibration = "rows.npy": rows that a lower precision is held to')
    if entry.precision and not (entry.tolerance > 0 or 0 < entry.agreement <= 1):
        raise ConfigError(f"{where}.precision needs a tolerance above 0, or an agreement of at most 1")
    if entry.tolerance < 0:
        raise ConfigError(f"{where}.tolerance is {entry.tolerance:g}; it is at least 0")
    if entry.calibration:
        entry = msgspec.structs.replace(
            entry, calibration=str(_inside(entry.calibration, folder, f"{where}.calibration"))
        )
    if is_url(entry.path) or (is_function(entry.path) and not (folder / entry.path).exists()):
        return entry
    return msgspec.structs.replace(entry, path=str(_inside(entry.path, folder, f"{where}.path")))


def _step(entry: ModelEntry, where: str) -> ModelEntry:
    """An entry without a model; what a model alone has use for is refused."""
    if not (entry.preprocess or entry.chain):
        raise ConfigError(
            f'{where} has neither a path nor a chain nor preprocess = "package.module:function"; give it one of them'
        )
    misplaced = {key for key in _OF_MODELS if getattr(entry, key) != getattr(_DEFAULTS, key)}
    if misplaced:
        raise ConfigError(f"{where}.{min(misplaced)} is for a model, and there is no path of one")
    # Rows are not run in batches: the smallest chunk is one row.
    return msgspec.structs.replace(entry, batch_rows=1)


def _chained(name: str, entry_of: Callable[[str], ModelEntry], known: Collection[str], manifest: Path) -> ModelEntry:
    """The entry of that name with those that its chain names."""
    entry, where = entry_of(name), f"the manifest {manifest}: models.{name}.chain"
    if unknown := [link for link in entry.chain if link not in known]:
        names = f"{did_you_mean(unknown[0], known)}; there are: {', '.join(sorted(known))}"
        raise ConfigError(f"{where} names {unknown[0]!r}, which is no entry{names}")
    if nested := [link for link in entry.chain if entry_of(link).chain]:
        raise ConfigError(f"{where} names {nested[0]!r}, which is a chain itself; name what that one names")
    if entry.chain and entry.columns and not entry.preprocess:
        raise ConfigError(f"the manifest {manifest}: models.{name}.columns is for {entry.chain[0]!r}; write it there")
    if len(set(entry.chain)) < len(entry.chain):
        raise ConfigError(f"{where} names an entry twice")
    if not entry.chain:
        return entry
    members = {link: entry_of(link) for link in entry.chain}
    if entry.preprocess:
        first = ModelEntry(
            columns=entry.columns,
            preprocess=entry.preprocess,
            drops_rows=entry.drops_rows,
            batch_rows=1,
            folder=entry.folder,
        )
        members = {f"{name}.preprocess": first, **members}
    if entry.postprocess:
        members[f"{name}.postprocess"] = ModelEntry(preprocess=entry.postprocess, batch_rows=1, folder=entry.folder)
    batch_rows = max(member.batch_rows for member in members.values())
    return msgspec.structs.replace(entry, members=members, batch_rows=batch_rows)


def is_function(path: str) -> bool:
    """Whether the model at this path, of an entry as `read_manifest` returns it, is a function and no file."""
    return bool(_FUNCTION.fullmatch(path))


def _inside(path: str, folder: Path, where: str) -> Path:
    """An absolute path says what it means; a relative one stays in the manifest's folder."""
    resolved = Path(os.path.normpath(folder / path))
    if not Path(path).is_absolute() and not resolved.is_relative_to(folder):
        raise ConfigError(
            f"{where} is {path!r}, which leads out of the manifest's folder {folder}; name it from the root"
        )
    return resolved
