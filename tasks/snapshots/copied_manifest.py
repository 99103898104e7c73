"""Copies a manifest into a folder of its own, with all that it names: models, files, modules of functions.

manifest, entries --> DIR/models.toml          as the entries are, with paths in DIR
                      DIR/models/NAME/...      the served version of each model, and its calibration file
                      DIR/steps.py, vocab.json modules and files that stand beside the manifest, in the same places

What is installed is not copied: it has to be there where the models are served.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

import msgspec

from tasks.models.model_version import python_sources
from worker_config.errors import ConfigError
from worker_config.manifest import ModelEntry, read_memory_limit
from worker_config.model_paths import MANIFEST, ending
from worker_config.version_folders import checkpoint_files, served_path

_DEFAULTS = msgspec.to_builtins(ModelEntry())
# What `read_manifest` fills in, and what says where else the rest of a table is to be found.
_NOT_WRITTEN = frozenset(("members", "folder", "version"))
_OURS = ("producer", "tasks", "worker_config")


def copy_model(entry: ModelEntry, folder: Path) -> str:
    """Copy the served file or folder of a model into a folder; return its name there."""
    served = served_path(entry)
    folder.mkdir(parents=True, exist_ok=True)
    for path in checkpoint_files(served) if ending(served) == ".meta" else [served]:
        if path.is_dir():
            shutil.copytree(path, folder / path.name)
        else:
            shutil.copyfile(path, folder / path.name)
    return served.name


def copy_manifest(manifest: Path, entries: Mapping[str, ModelEntry], folder: Path) -> list[str]:
    """Write the manifest `folder/models.toml`, and copy what it names.

    Returns:
        The functions and modules that are not copied, as they are installed.

    Raises:
        ConfigError: something that functions read, by a path of its own, stands where it would not be found.
        OSError: something cannot be read or written.
    """
    import tomli_w  # which a machine that only serves models is without

    of_chains = {link: member for entry in entries.values() for link, member in entry.members.items()}
    links = {link: of_chains[link] for entry in entries.values() for link in entry.chain}
    tables: dict[str, dict[str, Any]] = {}
    installed: set[str] = set()
    for name, entry in {**links, **entries}.items():
        table = {key: value for key, value in msgspec.to_builtins(entry).items() if value != _DEFAULTS[key]}
        table = {key: value for key, value in table.items() if key not in _NOT_WRITTEN}
        if not entry.path:
            table.pop("batch_rows", None)  # of a step, which has none, or of the chain's members
        place = Path("models") / name
        if entry.has_file:
            table["path"] = str(place / copy_model(entry, folder / place))
        if entry.calibration:
            table["calibration"] = str(place / f"calibration{Path(entry.calibration).suffix}")
            shutil.copyfile(entry.calibration, folder / table["calibration"])
        if entry.files:
            table["files"] = [_copy_file(Path(path), Path(entry.folder), folder, name) for path in entry.files]
        installed |= _copy_modules(entry, folder)
        tables[name] = table
    limit = read_memory_limit(manifest)
    head = {"memory_limit": f"{limit // 2**20} MiB"} if limit else {}
    (folder / MANIFEST).write_text(tomli_w.dumps({**head, "models": tables}))
    return sorted(installed)


def _copy_file(path: Path, beside: Path, folder: Path, model: str) -> str:
    if not path.is_relative_to(beside):
        raise ConfigError(
            f"models.{model}.files names {path}, which functions would look for at that very place on another machine; "
            f"put it beside the manifest, in {beside}, and have them find it by their module's own place"
        )
    relative = path.relative_to(beside)
    if path.is_dir():
        shutil.copytree(path, folder / relative, dirs_exist_ok=True)
    else:
        (folder / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / relative)
    return str(relative)


def _copy_modules(entry: ModelEntry, folder: Path) -> set[str]:
    """Copy the modules of an entry that stand beside the manifest, or where this process began, and what they import
    from there; return the names of the others.
    """
    installed = set()
    for name, path in python_sources([entry]).items():
        module = name.partition(":")[0]
        root = path.parents[module.count(".") + (path.name == "__init__.py")]
        if root not in (Path(entry.folder), Path.cwd()):
            installed.add(name)
            continue
        for source in _with_imported(module, root):
            target = folder / source.relative_to(root)
            if target.exists() and target.read_bytes() != source.read_bytes():
                raise ConfigError(f"{source} is another module than that of its name in {entry.folder}; rename one")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    return installed


def _with_imported(module: str, root: Path) -> Iterable[Path]:
    """The files of a module and of all that it imports of this folder, found without running them."""
    finder = ModuleFinder(path=[str(root)], excludes=list(_OURS))
    try:
        finder.import_hook(module)
    except (ImportError, SyntaxError) as error:
        raise ConfigError(f"the module {module} of {root} cannot be read: {error}") from None
    files = (getattr(one, "__file__", None) for one in finder.modules.values())
    return sorted(Path(file) for file in files if file)
