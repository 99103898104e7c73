"""What travels, and what stands in Redis, as a release writes and reads it: a file for each, `tests/releases/*.json`.

    make releaseforms      writes the present one, named by the version in pyproject.toml, when a release is made

`written` has an example of each form as its bytes in hex, and what they mean; `read` the JSON schema of what that
release takes: the fields that it knows. `tests/unit/test_releases.py` holds ours against them.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from tasks.outputs.parts import MergeOrder, PartFile
from tasks.protocol.messages import (
    Answer,
    ChunkMessage,
    Differed,
    Failure,
    FailureRecord,
    FileRef,
    HashRef,
    InlineRef,
    MergeReply,
    ModelRef,
    Outputs,
    OutputSpec,
    PartRef,
    PartsReply,
    RedisRef,
    SliceRef,
    pack,
)
from tasks.protocol.plan import LeftOutput, Plan
from tasks.protocol.preparing import Preparing
from tasks.protocol.records import Dependence, JobRecord, ModelInfo, OlderSet, SlotRecord, TensorSpec, WorkerFacts
from tasks.protocol.requests import Request
from tasks.protocol.split_ref import FileSpan, SplitRef
from tasks.recovery.poison_rows import ChildDeath, RunIntent

FOLDER = Path(__file__).parent / "releases"

JOB, DIGEST = "0123456789ab", "ab" * 32
_MODELS = [ModelRef("digits", DIGEST)]
_RECORD = FailureRecord(5, 6, "infer", "ValueError", "why", "digits", "a.jpg")
_DIFFERED = Differed("digits", "tflite", 7, "0.5 in place of 0.25")
_SLICE = SliceRef("/data/a.npy", 100, 7, 128, "float32", (3, 4), "etag")
_SPLIT = SplitRef("csv", [FileSpan("/data/a.csv", 100, 7, 4, 0, 9, (0, 5, 99))], ["a"], {"a": "int64"}, {"x": ["a"]})
_PART = PartRef("3-0123456789abcdef.npy", 100, 7, [OutputSpec(("scores",), "float32", (10,), "")])
_INFO = ModelInfo(
    *("digits", DIGEST, 256, [TensorSpec("x", "float32", (None, 64))], [TensorSpec("y", "float32", (None, 10))]),
    *(1.5, 1024, 0.25),
    executor="tflite",
    dependence=[Dependence("neighbours", 0.5)],
    columns={"x": ["a", "b"]},
    small_batches=[8],
)
_LEFT = LeftOutput(
    "/out/a.parquet", "/out/.a.parquet.part/0123456789abcdef", JOB, {"models": {}}, 1797, "fill", "5%", 8, _SPLIT
)
_PLAN = Plan(1797, 256, _MODELS, _SLICE, "lz4", 3600, ["celery@box:1"], {"traceparent": "00"}, "fail", "scores", _LEFT)


def _chunk(ref: Any, **more: Any) -> ChunkMessage:
    return ChunkMessage(2, JOB, 17, 4352, 4608, 400, _MODELS, ref, **more)


# Each with the form by which it is read.
EXAMPLES: dict[str, tuple[msgspec.Struct, Any]] = {
    "chunk, inline": (_chunk(InlineRef(b"\x00\xff")), ChunkMessage),
    "chunk, Redis": (_chunk(RedisRef("celeriac:job:x:payload:1"), reply="files", compression="zstd"), ChunkMessage),
    "chunk, hash": (_chunk(HashRef("celeriac:job:x:payloads"), reply="answer", on_nonfinite="fail"), ChunkMessage),
    "chunk, spool": (_chunk(FileRef(f"{JOB}/rows-3-ffff"), on_error="fill"), ChunkMessage),
    "chunk, slice": (_chunk(_SLICE, reply=PartsReply("/out/.a.parts")), ChunkMessage),
    "chunk, split": (_chunk(_SPLIT, reply=MergeReply("/out/.a.parts", ".parquet")), ChunkMessage),
    "outputs": (
        Outputs(
            *(JOB, 3, 0, 7, "celery@box/1", 0.25, InlineRef(b"payload"), [_RECORD], [_RECORD], [(2, 3)], 1, 2, _MODELS),
            *(99, 1.5, {"infer": 0.2}, ["digits"], [_DIFFERED]),
        ),
        Answer,
    ),
    "outputs, part": (Outputs(JOB, 3, 0, 7, "celery@box/1", 0.25, _PART), Answer),
    "failure": (Failure(JOB, 3, "celery@box/1", _RECORD, [_RECORD], [_RECORD], 1.5, {"infer": 0.2}), Answer),
    "request": (Request(JOB, _MODELS[0], 3, b"rows", "fill", "allow"), Request),
    "slot": (
        SlotRecord(
            *("celery@box:1", 0, 123, 1.5, "celeriac.q", [_INFO], "mark", ["/data"], ["csv"], ["/out"]),
            *([OlderSet("celeriac.old", _MODELS)], 2, ["00ff"]),
        ),
        SlotRecord,
    ),
    "preparing": (Preparing({"digits": DIGEST}, "trying executors", 1, 1.5, 2.5), Preparing),
    "worker": (WorkerFacts({"celery": "5.7.0"}, 4, 1, 4, ["gpu"], "/spool", 0.5), WorkerFacts),
    "job": (
        JobRecord(
            *(JOB, ["digits@abababab"], "rows.npy", "slices", 1797, 1.5, 2.5, "box:7", {"rows": 1797}, "error", _PLAN),
            *({"digits": _RECORD}, {"infer": 0.2}, {"digits": "a row"}, {"digits": _DIFFERED}, 1, 16.0),
        ),
        JobRecord,
    ),
    "intent": (RunIntent("celery@box:1", 7, 0, 8, 4, 1.5), RunIntent),
    "death": (ChildDeath("celery@box:1", 7, "WorkerLostError", "signal 9", 1.5, 60.0), ChildDeath),
    "merge": (
        MergeOrder(
            "/out/a.parquet",
            [PartFile(_PART.name, 0, 7, 100, 99, 7)],
            7,
            _PART.outputs,
            output_name="scores",
            mask=True,
            spent=["4-0123456789abcdef.npy"],
            kept=_PART.outputs,
        ),
        MergeOrder,
    ),
}


def present() -> dict[str, Any]:
    """What is written and read here."""
    forms = {str(getattr(form, "__name__", "Answer")): form for _, form in EXAMPLES.values()}
    return {
        "written": {
            name: {"hex": pack(value).hex(), "means": json.loads(msgspec.json.encode(value))}
            for name, (value, _) in EXAMPLES.items()
        },
        "read": {name: _plain(msgspec.json.schema(form)) for name, form in forms.items()},
    }


def _plain(schema: Any) -> Any:
    """Without what is for people."""
    if isinstance(schema, list):
        return [_plain(one) for one in schema]
    words = ("description", "title", "default")
    if isinstance(schema, dict):
        return {name: _plain(one) for name, one in schema.items() if name not in words or isinstance(one, dict)}
    return schema


def main() -> None:
    """Write the file of the present release."""
    FOLDER.mkdir(exist_ok=True)
    groups = []
    for name, of in present().items():
        lines = ",\n".join(f"  {json.dumps(one)}: {json.dumps(value)}" for one, value in of.items())
        groups.append(f"{json.dumps(name)}: {{\n{lines}\n}}")
    (FOLDER / f"{version('celeriac')}.json").write_text("{" + ",\n".join(groups) + "}\n")


if __name__ == "__main__":
    main()
