"""Outputs on disk: complete under their final name or not at all, or half done with a journal.

    open_sink --> Sink.write(part)... --> Sink.commit
                    |             |
                  Writer        Journal          rows in temporary files, and a note of those that are safe

A `Sink` is the same for every format; what differs is its `Writer`, one module each:

    .npy      one array
    .npz      arrays by name, "model/output"
    .feather  the same columns as .parquet
    .parquet  a column `row` and one column per output
    .zarr     a folder: an array, or a group of arrays by name
    .jsonl    a JSON object per row
    .csv      a line per row: `row`, and a column per output, or per value of one

Where rows that failed are filled there is one output more, the mask `failed` (`tasks/outputs/failed_mask.py`).
Each one takes a known or an unknown number of rows, and each one can be continued.
"""

from producer.sinks.journal import JournalHead
from producer.sinks.opening import (
    FORMATS,
    begin_again,
    can_drop,
    check_output,
    is_there,
    is_unfinished,
    open_sink,
    output_path,
)
from producer.sinks.sink import Sink

__all__ = [
    "FORMATS",
    "JournalHead",
    "Sink",
    "begin_again",
    "can_drop",
    "check_output",
    "is_there",
    "is_unfinished",
    "open_sink",
    "output_path",
]
