"""`celeriac init`: a folder's model files --> a manifest, with what each takes and gives as comments."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import msgspec

from producer.cli.models import loaded
from tasks.protocol.records import Described
from worker_config.errors import CeleriacError, InputError, OutputError
from worker_config.model_paths import is_model, name_of


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False), default=Path())
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The manifest to write.  [default: FOLDER/models.toml]"
)
def init(folder: Path, output: Path | None) -> None:
    """Write a manifest of the model files in FOLDER and in its folders; what is there is never overwritten.

    Where TensorFlow is installed each model is loaded once, and its inputs and outputs are comments.
    """
    output = output or folder / "models.toml"
    if output.exists():
        raise OutputError(f"{output}: is there already, and is left as it is; name another with -o")
    found = found_models(folder)
    if not found:
        raise InputError(
            f"{folder}: no model in it or its folders: .keras, .h5, .tflite, .pb, .meta or the folder of a SavedModel"
        )
    text = manifest_text(found, output.absolute().parent, _described(found))
    try:
        with output.open("x") as file:
            file.write(text)
    except OSError as error:
        raise OutputError(f"{output}: cannot be written: {error.strerror}") from None
    click.echo(f"{len(found)} {'model' if len(found) == 1 else 'models'} in {output}: {', '.join(found)}")


def found_models(folder: Path) -> dict[str, Path]:
    """The models in a folder and in its folders, by names that differ."""
    found: dict[str, Path] = {}
    for path in _models_in(folder):
        name, number = name_of(path), 2
        while name in found:
            name, number = f"{name_of(path)}-{number}", number + 1
        found[name] = path
    return found


def manifest_text(found: Mapping[str, Path], folder: Path, described: Mapping[str, Described]) -> str:
    """A manifest in `folder` of these models; what was found of each stands above its path."""
    tables = []
    for name, path in found.items():
        path = path.absolute()
        shown = path.relative_to(folder) if path.is_relative_to(folder) else path
        key = name if "." not in name else _quoted(name)
        comments = [f"# {line}\n" for line in _lines(described.get(name))]
        tables.append(f"[models.{key}]\n{''.join(comments)}path = {_quoted(str(shown))}\n")
    return "\n".join(tables)


def _models_in(folder: Path) -> Iterator[Path]:
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    others = [path for path in paths if path.is_dir() and not is_model(path)]
    yield from filter(is_model, paths)
    for inner in others:
        yield from (path for path in sorted(inner.iterdir()) if not path.name.startswith(".") and is_model(path))


def _described(found: Mapping[str, Path]) -> dict[str, Described]:
    """What the models say of themselves, where TensorFlow is; nothing where none of them can be loaded."""
    if importlib.util.find_spec("tensorflow") is None:
        return {}
    with TemporaryDirectory() as folder:
        manifest = Path(folder) / "models.toml"
        manifest.write_text(manifest_text(found, Path(folder), {}))
        try:
            return {one.name: one for one in loaded(manifest)}
        except CeleriacError:
            return {}


def _lines(described: Described | None) -> list[str]:
    if described is None:
        return []
    if described.info is None:
        return [" ".join(f"cannot be loaded as it is: {described.error}".split())]
    info = described.info
    return [f"inputs: {', '.join(map(str, info.inputs))}", f"outputs: {', '.join(map(str, info.outputs))}"]


def _quoted(text: str) -> str:
    """As TOML's basic string, whose escapes JSON's are."""
    return msgspec.json.encode(text).decode()
