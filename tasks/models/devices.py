"""Gives each child its share of the machine: threads, a GPU, and, if wished, cores of its own.

Child k gets GPU k modulo their number. Nothing here touches CUDA in the main process: a process that has done so cannot
be forked.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.models.stderr_filter import hushed, settle_chatter

_THREADS = "TF_NUM_INTRAOP_THREADS"
_NVIDIA = Path("/proc/driver/nvidia/gpus")


def gpus(environ: Mapping[str, str] = os.environ, listed: Path = _NVIDIA) -> list[str]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them, found without asking CUDA."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",") if name.strip()]
        # CUDA stops at the first one that it does not know; -1 is none.
        return names[: names.index("-1")] if "-1" in names else names
    try:
        return [str(number) for number, _ in enumerate(sorted(listed.iterdir()))]
    except OSError:
        return []


def gpu_of(slot: int, found: Sequence[str]) -> str | None:
    """The GPU of a child."""
    return found[slot % len(found)] if found else None


def cores_of(slot: int, cores: Sequence[int], threads: int) -> set[int]:
    """The cores of a child that has some of its own: `threads` neighbours, counted round where there are too few."""
    return {cores[(slot * threads + number) % len(cores)] for number in range(min(threads, len(cores)))}


def settle(slot: int, *, threads: int, pin_cores: bool) -> None:
    """Take this process's share, before TensorFlow runs here for the first time."""
    if gpu := gpu_of(slot, gpus()):
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # read when CUDA is first used, which is below
    if pin_cores:
        os.sched_setaffinity(0, cores_of(slot, sorted(os.sched_getaffinity(0)), threads))
    if "tensorflow" not in sys.modules:
        # Functions may import it yet, and then find there what is told to it below.
        settle_chatter()
        os.environ.update({_THREADS: str(threads)}, TF_NUM_INTEROP_THREADS="1")
        os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
        return
    limit_threads(threads)
    import tensorflow as tf

    with hushed(gpu_is_missing=not gpu):
        tf.config.list_physical_devices()  # which looks for GPUs, and complains
    if gpu:
        for device in tf.config.list_physical_devices("GPU"):
            # Else the first process takes all of the GPU's memory.
            tf.config.experimental.set_memory_growth(device, enable=True)


def processor() -> str:
    """What tells this kind of processor from others, for which kernels and their speed may be others."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def threads() -> int:
    """Those inside an operation of this process, as was settled."""
    if "tensorflow" not in sys.modules:
        return int(os.environ.get(_THREADS, 1))
    import tensorflow as tf

    return tf.config.threading.get_intra_op_parallelism_threads() or 1


def limit_threads(threads: int) -> None:
    """The cores are shared by processes, not by the operations of one."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
