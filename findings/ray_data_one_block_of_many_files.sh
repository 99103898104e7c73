#!/usr/bin/env bash
# Ray Data: `read_parquet(override_num_blocks=16)` of 16 files gives one block; a row that raises then costs all 16 files.
#
# Versions: ray 2.60.0, pyarrow 26.0.1, pandas 3.1.1, numpy 2.4.6, aiohttp 3.13.2.
#
# One would expect as many blocks as are asked for, as the parameter says, or at least one for each file, so that all
# processors have some and `max_errored_blocks` drops little. The reader of Parquet that this version takes by default
# (`DataContext.use_datasource_v2`) packs small files together, by their sizes alone: one block, one task, one processor,
# however slow the function is that follows, and all rows of all files are dropped with the bad one. `write_parquet` then
# returns without an error, and has written nothing. The older reader does what it is told.
#
# Seen, of 16 files of 100 rows, one row of which makes the function raise; blocks, and rows that were written:
#   newer reader, the default      1       0
#   older reader                  16    1500
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --no-compile 'ray[data]==2.60.0' pyarrow==26.0.1 pandas==3.1.1 numpy==2.4.6 aiohttp==3.13.2

venv/bin/python - <<'PYTHON'
import os
import sys

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import ray

FILES, ROWS, BAD = 16, 100, 650
os.mkdir("rows")
for number in range(FILES):
    pq.write_table(pa.table({"id": range(number * ROWS, (number + 1) * ROWS)}), f"rows/part-{number:02}.parquet")

ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
context = ray.data.DataContext.get_current()
context.enable_progress_bars = False
context.max_errored_blocks = -1


def check(batch):
    if BAD in batch["id"]:
        raise ValueError(f"row {BAD}")
    return batch


seen = {}
for newer in (True, False):
    context.use_datasource_v2 = newer
    rows = ray.data.read_parquet("rows", override_num_blocks=FILES)
    blocks = rows.materialize().num_blocks()
    output = f"output-{newer}"
    os.mkdir(output)
    rows.map_batches(check).write_parquet(output)
    seen[newer] = blocks, ds.dataset(output).count_rows()
    print(f"{'newer reader, the default' if newer else 'older reader':28} {seen[newer][0]:3} {seen[newer][1]:7}")
ray.shutdown()
if seen != {True: (1, 0), False: (FILES, (FILES - 1) * ROWS)}:
    sys.exit("changed: it is not as this script says any more")
print("still so: many small files are one block, and are lost together")
PYTHON
