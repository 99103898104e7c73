"""How much of the speed of plain reads and writes, and of plain Redis, is left when rows travel through Celeriac?

The model gives its rows back as they are (4 KiB each, two children), so that moving them is all there is to do.

- Slices of a file: rows stand in an `.npy` file that workers open themselves. The rival: two plain processes that read
  the same file in chunks of the same size and write the same bytes to an output file; no model, no order, no messages.
- Redis: rows in memory go through Redis and back. The rival is the least that moves the same bytes on the same way,
  with redis-py and hiredis: this process SETs each chunk and RPUSHes its number; two plain processes BLPOP a number,
  GET the chunk, and RPUSH the same bytes; this process BLPOPs them and puts them at their place. As many chunks are in
  flight as with ours.
- Beside it, without an aim: the same rows in memory by the store that is chosen where none is named.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.harness import Arm, check_equal, compare
from benchmarks.report import at_least, report_comparison
from benchmarks.stage import CHILDREN, Rivals, ask, folder, random_rows, system
from producer import Client
from producer.scheduling.window import CHUNKS_PER_SLOT, MAX_BYTES
from tasks.protocol.messages import StoreName
from tasks.transport.connection import connect

Rows = npt.NDArray[np.float32]

SLICES_AIM = 0.6
REDIS_AIM = 0.7
_QUEUE, _ANSWERS, _CHUNK = "bench:queue", "bench:answers", "bench:chunk:%d"
_INDEX_BYTES = 8


def question(quick: bool) -> bool:
    """Measure both ways; return whether the machine was quiet."""
    data = random_rows("identity", 4_096 if quick else 131_072)
    readers, relays = Rivals(copy_slices), Rivals(relay_chunks)
    with folder() as place, system(place) as client:
        path = place / "rows.npy"
        np.save(path, data)
        check = partial(check_equal, expected=data)
        in_slices = Arm("celeriac, slices", lambda: client.submit("identity", path, store="slices").result(), check)
        chunk_rows = chunk_rows_of(client, path, "slices")
        plain = Arm("read and write", lambda: _read_and_write(readers, path, data, chunk_rows), check)
        slices = compare(in_slices, [plain])
        sizes = {"row_bytes": data[0].nbytes, "chunk_rows": chunk_rows, "children": CHILDREN}
        quiet = report_comparison(
            "transport: slices of a file",
            slices,
            len(data),
            sizes,
            [at_least("celeriac / read and write", slices.speed_against(plain.name), SLICES_AIM)],
            quick=quick,
        )
        chunk_rows = chunk_rows_of(client, data, "redis")
        through = Arm("celeriac, Redis", lambda: client.submit("identity", data, store="redis").result(), check)
        chosen = Arm("celeriac, its own choice", lambda: client.submit("identity", data).result(), check)
        bare = Arm("SET, GET, RPUSH", lambda: _feed(relays, client.broker_url, data, chunk_rows), check)
        redis = compare(through, [bare, chosen])
        quiet &= report_comparison(
            "transport: through Redis",
            redis,
            len(data),
            {**sizes, "chunk_rows": chunk_rows},
            [at_least("celeriac / SET, GET, RPUSH", redis.speed_against(bare.name), REDIS_AIM)],
            quick=quick,
        )
    return quiet


def chunk_rows_of(client: Client, data: Rows | Path | str, store: StoreName, model: str = "identity") -> int:
    """How many rows our chunks have: the rivals' pieces are as large."""
    return int(np.median([part.stop - part.start for part in client.submit(model, data, store=store).parts()]))


def pieces(rows: int, chunk_rows: int) -> list[tuple[int, int]]:
    """The rows of each chunk."""
    return [(start, min(start + chunk_rows, rows)) for start in range(0, rows, chunk_rows)]


def _read_and_write(readers: Rivals, path: Path, data: Rows, chunk_rows: int) -> Rows:
    output = path.with_name("output")
    # Only now: the pages of its last run are then at hand, which is the best that plain processes can have.
    output.unlink(missing_ok=True)
    output.touch()
    offset, row_bytes = path.stat().st_size - data.nbytes, data[0].nbytes
    chunks = pieces(len(data), chunk_rows)
    readers.begin(*((path, output, offset, row_bytes, chunks[number::CHILDREN]) for number in range(CHILDREN)))
    readers.finish()
    return np.memmap(output, data.dtype, "r", shape=data.shape)


def copy_slices(given: Path, output: Path, offset: int, row_bytes: int, chunks: list[tuple[int, int]]) -> None:
    """One plain process: read each chunk, write it to its place."""
    source, target = os.open(given, os.O_RDONLY), os.open(output, os.O_WRONLY)
    for start, stop in chunks:
        os.pwrite(target, os.pread(source, (stop - start) * row_bytes, offset + start * row_bytes), start * row_bytes)
    os.close(source)
    os.close(target)


def _feed(relays: Rivals, url: str, data: Rows, chunk_rows: int) -> Rows:
    output: Rows = np.empty_like(data)
    chunks = pieces(len(data), chunk_rows)
    at_once = min(CHUNKS_PER_SLOT * CHILDREN, max(1, MAX_BYTES // (chunk_rows * data[0].nbytes)))
    relays.begin(*([(url,)] * CHILDREN))
    with connect(url) as client:
        sent = 0
        for answered in range(len(chunks)):
            while sent < min(answered + at_once, len(chunks)):
                start, stop = chunks[sent]
                client.set(_CHUNK % sent, data[start:stop].tobytes())
                client.rpush(_QUEUE, sent)
                sent += 1
            answer: bytes = client.blpop([_ANSWERS])[1]
            number = int.from_bytes(answer[:_INDEX_BYTES], "big")
            start, stop = chunks[number]
            output[start:stop] = np.frombuffer(answer, data.dtype, offset=_INDEX_BYTES).reshape(-1, *data.shape[1:])
            client.unlink(_CHUNK % number)
        client.rpush(_QUEUE, *([b"end"] * CHILDREN))
        relays.finish()
    return output


def relay_chunks(url: str) -> None:
    """One plain process: take a number, get the chunk, push its bytes, until told to end."""
    with connect(url) as client:
        while (number := client.blpop([_QUEUE])[1]) != b"end":
            payload = client.get(_CHUNK % int(number))
            client.rpush(_ANSWERS, int(number).to_bytes(_INDEX_BYTES, "big") + payload)


if __name__ == "__main__":
    ask(question, __doc__)
