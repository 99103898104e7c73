#!/usr/bin/env bash
# polars: a folder of Parquet files is read with what is in subfolders that begin with "_" or ".".
#
# Versions: polars 2.1.0, pyarrow 26.0.1, duckdb 2.0.1.
#
# Names that begin with "_" or "." are by old habit (Hive, Spark, pyarrow) no data: writers keep files there that are not
# finished, as `_temporary/`. pyarrow leaves them out. polars takes them, without a word: while such a writer is at work,
# and after one that died, rows come twice or from attempts that do not count. A pattern, `out/*.parquet`, is right with
# all three.
#
# Seen, of two finished files of two rows each, one file in `_temporary/` and one in `.work/`:
#   pyarrow dataset(folder)        4 rows
#   polars scan_parquet(folder)    8 rows
#   polars read_parquet(folder)    8 rows
#   polars scan_parquet(pattern)   4 rows
#   duckdb read_parquet(pattern)   4 rows
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --no-compile polars==2.1.0 pyarrow==26.0.1 duckdb==2.0.1

venv/bin/python - <<'PYTHON'
import sys
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

out = Path("out")
for number, folder in enumerate((out, out, out / "_temporary", out / ".work")):
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table({"row": [2 * number, 2 * number + 1]}), folder / f"part-{number}.parquet")

seen = {
    "pyarrow dataset(folder)": ds.dataset(out).count_rows(),
    "polars scan_parquet(folder)": pl.scan_parquet(out).collect().height,
    "polars read_parquet(folder)": pl.read_parquet(out).height,
    "polars scan_parquet(pattern)": pl.scan_parquet(out / "*.parquet").collect().height,
    "duckdb read_parquet(pattern)": len(duckdb.sql("SELECT * FROM read_parquet('out/*.parquet')").fetchall()),
}
for how, rows in seen.items():
    print(f"{how:30} {rows} rows")
if list(seen.values()) != [4, 8, 8, 4, 4]:
    sys.exit("changed: it is not as this script says any more")
print("still so: polars reads what others leave out")
PYTHON
