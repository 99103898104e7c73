"""What can each of the first three limits do alone: one producer, one Redis, one worker's main process?

Chunks of one small row, which ride in their messages. The producer submits and collects a whole job, and a process that
stands in for 96 slots answers at once, many chunks together. Redis has the commands of a real job replayed by many
connections. The main process gives chunks to slots that do nothing, and all messages are there before it begins.

Each is held against its own processor's time. Where it was busy for more than 0.8 of the time it was the limit, and
what it did a second is what it can do; elsewhere that is what it did for a second of its processor. Interleaved, five
rounds, medians; the control holds the last rounds against the first.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
import psutil
import redis

from benchmarks import limits_replay
from benchmarks.harness import check_equal, is_quiet
from benchmarks.limits_stand_in import stand_in
from benchmarks.meter import Load
from benchmarks.report import Finding, control, report
from benchmarks.stage import ask, folder
from producer import Client
from tasks.protocol import keys
from tasks.protocol.messages import WRITTEN_VERSION, ChunkMessage, InlineRef, ModelRef
from tasks.protocol.records import SlotRecord
from tasks.protocol.seal import Sealer, rows_context
from tasks.transport.connection import connect
from tasks.transport.task_message import task_message
from tasks.transport.worker_registry import read_slots
from tests.systems import RedisServer
from worker_config.environment import for_worker

ROUNDS = 5
STAND_IN_SLOTS, SLOTS = 96, 16
CHUNKS, RECORDED, REPLAY_SECONDS = 4_000, 400, 5.0
# From here on it was the limit.
BUSY = 0.8
# Processor milliseconds a chunk.
AIMS = {"producer": 0.4, "main process": 1.0}

_MODEL = """
import time


def real(rows):
    time.sleep(0.02)
    return rows


def idle(rows):
    return rows
"""


@dataclass(frozen=True)
class Measured:
    """What one of them did: so many chunks, in so many seconds, with so many of a processor."""

    chunks: int
    seconds: float
    cpu_seconds: float

    @property
    def milliseconds(self) -> float:
        """Of its processor for a chunk."""
        return self.cpu_seconds / self.chunks * 1e3

    @property
    def busy(self) -> float:
        """The share of the time in which it ran."""
        return self.cpu_seconds / self.seconds


def question(quick: bool) -> bool:
    """Measure all three, in turns."""
    chunks, rounds = (CHUNKS // 10, 2) if quick else (CHUNKS, ROUNDS)
    found: dict[str, list[Measured]] = {"producer": [], "Redis": [], "main process": []}
    with folder() as place:
        server = RedisServer(place)
        server.start()
        load = Load()
        try:
            with _worker(server.url, place, "real", "tasks", SLOTS) as (_, slots):
                recorded = _record(server, _recorded(quick))
            (place / "commands").write_bytes(msgspec.msgpack.encode(recorded.commands))
            with (
                stand_in(server.url, slots[0], STAND_IN_SLOTS),
                _worker(server.url, place, "idle", "benchmarks.limits_idle", SLOTS) as (main, idle),
                Client(server.url) as client,
                connect(server.url) as admin,
            ):
                _submit(client, chunks // 10)
                for number in range(rounds):
                    found["producer"].append(_submit(client, chunks))
                    found["Redis"].append(_replay(server, place, number, quick))
                    found["main process"].append(_feed(admin, main, idle[0], chunks))
        finally:
            server.stop()
        others = load.since()[1]
    controls = {name: _control(all_of) for name, all_of in found.items()}
    worst = max(controls.values(), key=lambda ratio: abs(ratio - 1))
    report(
        "limits",
        {"chunks": chunks, "slots": SLOTS, "rounds": rounds, "others' share of processors": f"{others:.2f}"},
        [
            *(finding for name, all_of in found.items() for finding in _findings(name, all_of)),
            control("control", worst),
        ],
        void=not is_quiet(worst),
        quick=quick,
        measured={"others": others, "controls": controls}
        | {name: [vars(one) for one in all_of] for name, all_of in found.items()},
    )
    return is_quiet(worst)


def _findings(name: str, all_of: list[Measured]) -> list[Finding]:
    milliseconds, busy = median(one.milliseconds for one in all_of), median(one.busy for one in all_of)
    a_second = median(one.chunks / one.seconds for one in all_of) if busy > BUSY else 1e3 / milliseconds
    how = "measured" if busy > BUSY else "by its processor seconds"
    aim = AIMS.get(name)
    return [
        Finding(
            f"{name}: processor time of a chunk",
            f"{milliseconds:.2f} ms",
            f"<= {aim:.1f} ms" if aim else "",
            milliseconds <= aim if aim else None,
        ),
        Finding(f"{name}: chunks a second", f"{a_second:,.0f}", note=f"{how}; its processor was busy {busy:.2f}"),
    ]


def _control(all_of: list[Measured]) -> float:
    half = len(all_of) // 2
    first, last = all_of[:half], all_of[-half:]
    return median(one.milliseconds for one in last) / median(one.milliseconds for one in first)


def _record(server: RedisServer, chunks: int) -> limits_replay.Recording:
    """What Redis has to do for a job."""
    recording = limits_replay.Recording()
    with Client(server.url) as client:
        _submit(client, SLOTS, "real")
        with recording.taken(str(server.socket)):
            _submit(client, chunks, "real")
    return recording


def _submit(client: Client, chunks: int, model: str = "real") -> Measured:
    """One job, from submit to the last row; of this process."""
    data = np.arange(chunks, dtype=np.float32).reshape(-1, 1)
    this, started = psutil.Process(), time.monotonic()
    before = _cpu_seconds(this)
    outputs = client.predict(model, data, chunk_rows=1)
    measured = Measured(chunks, time.monotonic() - started, _cpu_seconds(this) - before)
    check_equal(outputs, data)
    return measured


def _replay(server: RedisServer, place: Path, number: int, quick: bool) -> Measured:
    """The recorded job, by two processes; of Redis."""
    this = psutil.Process(server.pid)
    with connect(server.url) as admin:
        admin.config_resetstat()
        firsts = [limits_replay.CONNECTIONS * (2 * number + one) for one in range(2)]
        seconds = str(REPLAY_SECONDS / 10 if quick else REPLAY_SECONDS)
        before = _cpu_seconds(this)
        command = [sys.executable, "-m", limits_replay.__name__, str(server.socket), str(place / "commands")]
        replaying = [
            subprocess.Popen([*command, str(first), seconds], stdout=subprocess.PIPE, text=True) for first in firsts
        ]
        outputs = [one.communicate()[0].split() for one in replaying]
        cpu = _cpu_seconds(this) - before
        if any(one.returncode for one in replaying):
            raise RuntimeError("Redis did not do what it had done for the job")
        # Each answer that a script took.
        chunks = int(admin.info("commandstats")["cmdstat_rpush"]["calls"])
    passes, taken = sum(int(one[0]) for one in outputs), max(float(one[1]) for one in outputs)
    # More, where the recorded job had a chunk that was late, and was sent again.
    if chunks % passes or chunks < passes * _recorded(quick):
        raise RuntimeError(f"of {passes} jobs of {_recorded(quick)} chunks {chunks} answers were taken")
    return Measured(chunks, taken, cpu)


def _recorded(quick: bool) -> int:
    return RECORDED // 10 if quick else RECORDED


def _feed(admin: redis.Redis, main: psutil.Process, slot: SlotRecord, chunks: int) -> Measured:
    """Messages for slots that do nothing, until none is left; of their main process."""
    queue, sealer, job = keys.queue(slot.queue), Sealer(), "0" * 12
    models = [ModelRef(info.name, info.digest) for info in slot.models]
    messages = []
    for index in range(chunks):
        payload = sealer.seal_bytes(rows_context(job, index), bytes(40))
        message = ChunkMessage(
            WRITTEN_VERSION, job, index, index, index + 1, chunks, models=models, ref=InlineRef(payload)
        )
        messages.append(task_message(message, slot.queue, sealer, {}))
    before, started = _cpu_seconds(main), time.monotonic()
    admin.lpush(queue, *messages)
    while admin.llen(queue) or admin.hlen(keys.UNACKED):
        time.sleep(0.01)
    return Measured(chunks, time.monotonic() - started, _cpu_seconds(main) - before)


def _cpu_seconds(process: psutil.Process) -> float:
    return float(sum(process.cpu_times()[:2]))


@contextmanager
def _worker(
    url: str, place: Path, model: str, app: str, slots: int
) -> Iterator[tuple[psutil.Process, Sequence[SlotRecord]]]:
    """A worker with this model; its main process, and its slots."""
    (place / "models_of_limits.py").write_text(_MODEL)
    models = place / f"{model}.toml"
    models.write_text(f'[models.{model}]\npath = "models_of_limits:{model}"\nbatch_rows = 1\n')
    environ = {**for_worker(os.environ), "CELERIAC_BROKER_URL": url, "CELERIAC_MODELS": str(models)}
    environ["TMPDIR"] = str(place)  # of what is killed, too, nothing is left elsewhere
    command = [sys.executable, "-m", "celery", "-A", app, "worker", "-c", str(slots), "-n", f"{model}@%h"]
    log_path = place / f"{model}.log"
    with log_path.open("wb") as log:
        worker = subprocess.Popen(
            [*command, "--without-mingle", "--without-gossip"],
            env=environ,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        with connect(url) as admin:
            while len(found := [slot for slot in read_slots(admin) if slot.worker.startswith(f"{model}@")]) < slots:
                if worker.poll() is not None:
                    raise RuntimeError(log_path.read_text())
                time.sleep(0.1)
        yield psutil.Process(worker.pid), found
    finally:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


if __name__ == "__main__":
    ask(question, __doc__)
