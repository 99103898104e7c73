"""What checksums and signatures cost: processor time of all four looks at a chunk, as a share of a chunk of 0.25 s.

Rows are sealed and opened, and so are outputs, the message and the answer. The rows are those that MobileNetV2 takes in
0.25 s on one core (12 images of 224 x 224 x 3 float32, 6.9 MiB), the outputs 1,000 probabilities for each.

`python -m benchmarks.seals`
"""

from __future__ import annotations

import sys
import time
from statistics import median

import numpy as np

from tasks.protocol import codec
from tasks.protocol.messages import MESSAGE_VERSION, Answer, ChunkMessage, InlineRef, ModelRef, Outputs, RedisRef, pack
from tasks.protocol.seal import Sealer, answer_context, outputs_context, rows_context

TIMES = 200
CHUNK_SECONDS = 0.25
JOB = "0123456789ab"
IMAGES = 12
AIMS = {"checksums": 0.005, "signatures": 0.01}


def main() -> int:
    """Print both shares; 1 if one is above its aim."""
    sealers = {"checksums": Sealer(), "signatures": Sealer(["a key of more than thirty-two characters"])}
    rows = codec.encode_parts(np.random.default_rng(0).random((IMAGES, 224, 224, 3), np.float32))
    outputs = codec.encode_parts(np.random.default_rng(1).random((IMAGES, 1000), np.float32))
    message = ChunkMessage(
        MESSAGE_VERSION, JOB, 7, 0, IMAGES, 9, [ModelRef("mobilenet", "0" * 64)], RedisRef("celeriac:job:x")
    )
    answer: Answer = Outputs(JOB, 7, 0, IMAGES, "w/0", CHUNK_SECONDS, InlineRef(b""))
    pieces = [
        (rows_context(JOB, 7), rows),
        (outputs_context(JOB, 7), outputs),
        (f"chunk/{JOB}/7/q", [pack(message)]),
        (answer_context(JOB), [pack(answer)]),
    ]
    # What travels is joined anyhow, and outside the time.
    travelled = {
        name: [(context, b"".join(sealer.seal(context, parts))) for context, parts in pieces]
        for name, sealer in sealers.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in sealers}
    for _ in range(TIMES):
        for name, sealer in sealers.items():
            began = time.process_time()
            for context, parts in pieces:
                sealer.seal(context, parts)
            for context, sealed in travelled[name]:
                sealer.open(context, sealed)
            seconds[name].append(time.process_time() - began)
    shares = {name: median(times) / CHUNK_SECONDS for name, times in seconds.items()}
    for name, share in shares.items():
        print(f"{name:<12} {share:.2%} of a chunk of {CHUNK_SECONDS} s (at most {AIMS[name]:.1%})")
    return int(any(share > AIMS[name] for name, share in shares.items()))


if __name__ == "__main__":
    sys.exit(main())
