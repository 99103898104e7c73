"""Which writer makes what a name ends with."""

from __future__ import annotations

from tasks.outputs.arrow import FeatherWriter, ParquetWriter
from tasks.outputs.csv import CsvWriter
from tasks.outputs.jsonl import JsonLinesWriter
from tasks.outputs.npy import NpyWriter
from tasks.outputs.npz import NpzWriter
from tasks.outputs.writer import Writer
from tasks.outputs.zarr import ZarrWriter

WRITERS: dict[str, type[Writer]] = {
    ".npy": NpyWriter,
    ".npz": NpzWriter,
    ".parquet": ParquetWriter,
    ".feather": FeatherWriter,
    ".zarr": ZarrWriter,
    ".jsonl": JsonLinesWriter,
    ".csv": CsvWriter,
}
# Those of which a folder of files is an output, too.
IN_PARTS = (".parquet", ".feather", ".npy", ".zarr", ".jsonl", ".csv")
