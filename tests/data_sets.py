"""Every kind of data set, small, with rows that all differ; what one process gives for each comes from the models."""

from __future__ import annotations

import struct
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import zarr

from producer.sources import BatchSource, from_batches, open_files, open_parquet, open_source
from tests.manifests import by_stem, write_manifest
from tests.models import in_one_process
from tests.systems import System, serving, shared_folders

ROWS = 60

_RANDOM = np.random.default_rng(21)
PIXELS = _RANDOM.random((ROWS, 64), np.float32)
SIDES = {"left": _RANDOM.random((ROWS, 4), np.float32), "right": _RANDOM.integers(0, 10, (ROWS, 3), np.int32)}
SEQUENCES = [_RANDOM.random((length, 4), np.float32) for length in _RANDOM.integers(1, 6, ROWS)]
# Of different lengths, with zero bytes, and none that is text.
RECORDS = [bytes([row, 0, 255]) * (row % 4 + 1) for row in range(ROWS)]


@dataclass(frozen=True)
class Kind:
    """A kind of data set: which model takes it, and how to make one in a folder."""

    model: str
    make: Callable[[Path], object]


def text_models(folder: Path) -> list[Path]:
    """SavedModels that take strings: `texts` gives their length and a hash of them, `shouts` strings again."""
    import tensorflow as tf

    class Texts(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def __call__(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
            hashes = tf.strings.to_hash_bucket_fast(texts, 2**62)
            return {"codes": tf.stack([tf.cast(tf.strings.length(texts), tf.int64), hashes], axis=1)}

    class Shouts(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def __call__(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"shouts": tf.strings.upper(texts)}

    for name, module in {"texts": Texts(), "shouts": Shouts()}.items():
        tf.saved_model.save(module, folder / name, signatures={"serving_default": module.__call__})
    return [folder / "texts", folder / "shouts"]


@contextmanager
def system_for_all_kinds(folder: Path, models: Path, special_models: Path) -> Iterator[System]:
    """A worker with a model for each kind of rows, which shares `spool` and may open files under `data`."""
    paths = [models / "digits.keras", models / "pair.keras", special_models / "mean.keras", *text_models(folder)]
    with serving(folder, write_manifest(folder, by_stem(*paths)), environ=shared_folders(folder)) as system:
        yield system


def expected_of(kind: Kind, data: object, folder: Path) -> Any:
    """What the model gives in this process for all rows at once; row by row where their shapes differ."""
    import keras
    import tensorflow as tf

    path = Path(tomllib.loads((folder / "models.toml").read_text())["models"][kind.model]["path"])
    if kind.model == "digits":
        return in_one_process(path, PIXELS)
    if kind.model == "pair":
        return in_one_process(path, SIDES)
    if kind.model == "mean":
        model = keras.models.load_model(path, compile=False)
        return np.concatenate([model(row[None]) for row in SEQUENCES])
    rows = [str(file) for file in sorted(data.iterdir())] if isinstance(data, Path) and data.is_dir() else RECORDS
    return tf.saved_model.load(path)(tf.constant(rows))["codes"].numpy()


def rows_of(data: object) -> Iterator[Any]:
    """The rows of a data set one by one, for a stream."""
    source = open_source(data)
    batches = source.batches() if isinstance(source, BatchSource) else [source.take(0, source.rows)]
    for batch in batches:
        if isinstance(batch, dict):
            yield from (dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True))
        elif isinstance(batch, tuple):
            yield from zip(*batch, strict=True)
        else:
            yield from batch


def write_records(path: Path, records: list[bytes]) -> None:
    """A TFRecord file: length, its checksum, the record, its checksum."""

    def masked(data: bytes) -> bytes:
        checksum = google_crc32c.value(data)
        return struct.pack("<I", ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    lengths = [struct.pack("<Q", len(record)) for record in records]
    pieces = [
        length + masked(length) + record + masked(record) for length, record in zip(lengths, records, strict=True)
    ]
    path.write_bytes(b"".join(pieces))


def write_parquet(path: Path, rows: slice = slice(None), **more: Any) -> None:
    """Both sides as columns of lists."""
    kinds = {name: pa.list_(pa.from_numpy_dtype(array.dtype)) for name, array in SIDES.items()}
    columns = {name: pa.array(list(array[rows]), kinds[name]) for name, array in SIDES.items()}
    pa.parquet.write_table(pa.table(columns | more), path, row_group_size=7)


def _npy(folder: Path) -> Path:
    np.save(folder / "rows.npy", PIXELS)
    return folder / "rows.npy"


def _npz(folder: Path) -> Path:
    np.savez(folder / "rows.npz", **SIDES)
    return folder / "rows.npz"


def _parquet(folder: Path) -> Path:
    write_parquet(folder / "rows.parquet")
    return folder / "rows.parquet"


def _parquet_columns(folder: Path) -> object:
    write_parquet(folder / "more.parquet", id=pa.array(range(ROWS)))
    return open_parquet(folder / "more.parquet", columns=["right", "left"])


def _parquet_set(folder: Path) -> str:
    for number, part in enumerate((slice(0, 25), slice(25, 25), slice(25, None))):
        write_parquet(folder / f"part-{number}.parquet", part)
    return f"{folder}/*.parquet"


def _parquet_uneven(folder: Path) -> Path:
    kind = pa.list_(pa.list_(pa.float32(), 4))
    pa.parquet.write_table(
        pa.table({"sequence": pa.array([s.tolist() for s in SEQUENCES], kind)}), folder / "u.parquet"
    )
    return folder / "u.parquet"


def _tfrecord(folder: Path) -> Path:
    write_records(folder / "rows.tfrecord", RECORDS)
    return folder / "rows.tfrecord"


def _zarr_array(folder: Path) -> Path:
    zarr.create_array(str(folder / "rows.zarr"), data=PIXELS, chunks=(7, 64))
    return folder / "rows.zarr"


def _zarr_group(folder: Path) -> Path:
    group = zarr.open_group(folder / "sides.zarr", mode="w")
    for name, array in SIDES.items():
        group.create_array(name, data=array, chunks=(11, array.shape[1]))
    return folder / "sides.zarr"


def write_files(folder: Path) -> Path:
    """A folder of files, whose names sort as the records do."""
    (folder / "files").mkdir()
    for row, record in enumerate(RECORDS):
        (folder / "files" / f"{row:02}.bin").write_bytes(record)
    return folder / "files"


def _contents(folder: Path) -> object:
    return open_files(f"{write_files(folder)}/*.bin", contents=True)


def _tensors(_: Path) -> object:
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(SIDES)


def _tensor_batches(_: Path) -> object:
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(PIXELS).batch(7)


def _uneven_batches(_: Path) -> object:
    cuts = [0, 1, 1, 30, 37, ROWS]
    return from_batches(PIXELS[start:stop] for start, stop in pairwise(cuts))


def _dict_rows(_: Path) -> object:
    return (dict(zip(SIDES, row, strict=True)) for row in zip(*SIDES.values(), strict=True))


KINDS = {
    "array": Kind("digits", lambda _: PIXELS),
    "array of float64 in Fortran order": Kind("digits", lambda _: np.asfortranarray(PIXELS.astype(np.float64))),
    "dict": Kind("pair", lambda _: dict(reversed(SIDES.items()))),
    "tuple": Kind("pair", lambda _: tuple(SIDES.values())),
    "list of bytes": Kind("texts", lambda _: list(RECORDS)),
    "npy": Kind("digits", _npy),
    "npz": Kind("pair", _npz),
    "parquet": Kind("pair", _parquet),
    "parquet columns": Kind("pair", _parquet_columns),
    "parquet set": Kind("pair", _parquet_set),
    "parquet of uneven rows": Kind("mean", _parquet_uneven),
    "tfrecord": Kind("texts", _tfrecord),
    "zarr array": Kind("digits", _zarr_array),
    "zarr group": Kind("pair", _zarr_group),
    "paths of files": Kind("texts", write_files),
    "contents of files": Kind("texts", _contents),
    "tf.data rows": Kind("pair", _tensors),
    "tf.data batches": Kind("digits", _tensor_batches),
    "generator": Kind("digits", lambda _: (row for row in PIXELS)),
    "generator of dicts": Kind("pair", _dict_rows),
    "generator of uneven rows": Kind("mean", lambda _: iter(SEQUENCES)),
    "uneven batches": Kind("digits", _uneven_batches),
}
