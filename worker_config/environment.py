"""The user's own Celery, Keras and TensorFlow settings in the environment, and what becomes of them in our processes.

    where models run      --settle_models--> Keras on TensorFlow, and nothing that changes predictions or devices
    where a worker starts --for_worker-->    nothing that turns Celery's command before it asks our app
                          --check_no_shadow--> no stray `tasks.py` there, which Celery would take for ours

What is only about speed, memory or logs stays. So do Celery's settings (`CELERY_BROKER_URL` ...), as functions of the
manifest may be parts of a Celery project of their own: our app does not read them (`worker_config/celery_app.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, MutableMapping
from pathlib import Path

import worker_config
from worker_config.errors import ConfigError

# `celery -A tasks` puts the current folder first on the path.
_PACKAGES = ("producer", "tasks", "worker_config")


def _names(by_reason: Mapping[str, str]) -> frozenset[str]:
    return frozenset(" ".join(by_reason.values()).split())


# Set rather than dropped: these overrule `keras.json`.
_KERAS = {"KERAS_BACKEND": "tensorflow", "KERAS_NNX_ENABLED": "false"}

# What they would do: their names, or what these begin with where they end with *.
_MODELS = _names(
    {
        "functions would get another Keras as tf.keras": "TF_USE_LEGACY_KERAS",
        "limits of training; a word instead of a number stops the import": "KERAS_MAX_*",
        # Other arithmetic.
        "other kernels, which round otherwise": "TF_ENABLE_ONEDNN_OPTS TF_ENABLE_ZENDNN_OPTS ONEDNN_MAX_CPU_ISA"
        " DNNL_MAX_CPU_ISA",
        "float32 computed as bfloat16": "TF_SET_ONEDNN_FPMATH_MODE ONEDNN_DEFAULT_FPMATH_MODE DNNL_DEFAULT_FPMATH_MODE",
        "weights taken from a cache": "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS",
        "float16 or bfloat16 in the place of float32": "TF_ENABLE_AUTO_MIXED_PRECISION* TF_AUTO_MIXED_PRECISION_*"
        " TF_ENABLE_CUBLAS_TENSOR_OP_MATH_FP32 TF_ENABLE_CUDNN_TENSOR_OP_MATH_FP32"
        " TF_ENABLE_CUDNN_RNN_TENSOR_OP_MATH_FP32",
        "float32 computed as TF32, or not": "NVIDIA_TF32_OVERRIDE",
        "sums of float16 in float16, or in float32": "TF_CONV2D_USE_FP16_ACCUMULATE TF_FP16_*",
        # Another compiler: other rounding, other values where there is no finite one, and no check of what models
        # assert.
        "compiles by itself, or every function": "TF_XLA_FLAGS TF_FUNCTION_JIT_COMPILE_DEFAULT TF_JIT_COMPILE_REWRITE"
        " TF_JITRT_FLAGS",
        # Another choice of kernels.
        "refuses operations that cannot be deterministic": "TF_DETERMINISTIC_OPS TF_CUDNN_DETERMINISTIC"
        " TF_USE_DETERMINISTIC_SEGMENT_REDUCTIONS TF_DISABLE_SEGMENT_REDUCTION_OP_DETERMINISM_EXCEPTIONS"
        " TF_DISABLE_SCATTER_OP_DETERMINISM",
        "kernels of cuDNN by another choice": "TF_CUDNN_USE_* TF_CUDNN_RNN_USE_AUTOTUNE"
        " TF_CUDNN_DISABLE_CONV_1X1_OPTIMIZATION TF_DEBUG_CUDNN_RNN*",
        "whether a NaN goes through max-pooling": "TF_ENABLE_MAXPOOL_NANPROP",
        "another algorithm of convolutions": "TF_USE_DEEP_CONV2D TF_ENABLE_WINOGRAD_NONFUSED TF_USE_DEFAULT_CONV_ALGO",
        "other kernels of products and batch norms": "TF_USE_CUBLASLT TF_MATMUL_AUTOTUNE_ENABLE"
        " TF_USE_CUDNN_BATCHNORM_SPATIAL_PERSISTENT",
        # Graphs of another kind than snapshots are made of.
        "loops and branches of TensorFlow 1": "TF_ENABLE_CONTROL_FLOW_V2 TF_ENABLE_COND_V2 TF_ENABLE_WHILE_V2"
        " TF_ENABLE_TENSOR_ARRAY_V2",
        # It wins over what a child asks for, and the first child would take all of the GPU's memory.
        "memory growth of GPUs": "TF_FORCE_GPU_ALLOW_GROWTH",
    }
)
# XLA ends the process for a flag that it does not know, and JAX has some; these may be needed, and change no value.
_XLA = "XLA_FLAGS"
_XLA_STAYS = ("--xla_gpu_cuda_data_dir", "--xla_dump_")

# Celery's settings, which its `Settings` and loaders take from the environment before all others.
_CELERY_SETTINGS = (
    "CELERY_BROKER_URL",
    "CELERY_BROKER_READ_URL",
    "CELERY_BROKER_WRITE_URL",
    "CELERY_RESULT_BACKEND",
    "CELERY_CONFIG_MODULE",
    "CELERY_LOADER",
)
# Each option of `celery worker` has one: CELERY_WORKER_CONCURRENCY, _QUEUES, _PURGE ...
_CELERY_OPTIONS = "CELERY_WORKER_*"
_CELERY_COMMAND = _names(
    {
        "options of the command; some are numbers that stop the import": _CELERY_OPTIONS,
        "options before the subcommand; CELERY_VERSION ends it": "CELERY_APP CELERY_VERSION CELERY_HELP CELERY_WORKDIR"
        " CELERY_QUIET CELERY_NO_COLOR CELERY_SKIP_CHECKS",
        "another pool": "CELERY_CUSTOM_WORKER_POOL",
        "debugging of Celery: words on stderr, errors, no current app, a debugger at SIGUSR2": "CELERY_TRACE_APP"
        " CELERY_BENCH* CELERY_RDBSIG C_STRICT_APP C_WARN_APP C_IMPDEBUG C_BENCH* C_REMDEBUG C_FAKEFORK TIMER_DEBUG",
        "debugging of billiard, of kombu, and pools without limit": "MP_LOG KOMBU_* DISABLE_TRACEBACKS",
        "a number that stops the import, where it is none": "PICKLE_PROTOCOL AUTOSCALE_KEEPALIVE",
        # Left by a worker to what its tasks start, and a task may well start us.
        "Celery would take the worker for a child, and bind its task to another app": "FORKED_BY_MULTIPROCESSING",
        "another worker's log, another program's file": "CELERY_LOG_* _MP_FORK_* MP_MAIN_FILE",
    }
)


def settle_models(environ: MutableMapping[str, str]) -> list[str]:
    """Take out of `environ` what would change predictions or devices; return the names of what it had, sorted.

    Keras's own are set, so that `keras.json` does not count either.
    """
    names = [name for name in environ if _is_one(name, _MODELS)]
    names += [name for name, value in _KERAS.items() if environ.get(name, value) != value]
    for name in names:
        environ.pop(name)
    environ.update(_KERAS)
    if flags := environ.pop(_XLA, ""):
        kept = [flag for flag in flags.split() if flag.startswith(_XLA_STAYS)]
        names += [_XLA] if len(kept) < len(flags.split()) else []
        environ.update({_XLA: " ".join(kept)} if kept else {})
    return sorted(names)


def for_worker(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process of `celery -A tasks worker` that starts from here."""
    return {name: value for name, value in environ.items() if not _is_one(name, _CELERY_COMMAND)}


def settle_command(environ: MutableMapping[str, str]) -> None:
    """Take out of a command's own `environ` what debugs Celery and kombu: logged channels publish no batches."""
    for name in [name for name in environ if _is_one(name, _CELERY_COMMAND)]:
        environ.pop(name)


def unheeded_celery(environ: Mapping[str, str]) -> list[str]:
    """The settings of Celery and options of its worker that our app does not take from `environ`, sorted."""
    return sorted(name for name in environ if name in _CELERY_SETTINGS or _is_one(name, (_CELERY_OPTIONS,)))


def _is_one(name: str, table: Collection[str]) -> bool:
    return name in table or any(one.endswith("*") and name.startswith(one[:-1]) for one in table)


def check_no_shadow(folder: Path) -> None:
    """Raise ConfigError if modules in `folder` hide Celeriac's packages."""
    ours = Path(worker_config.__file__).parent.parent
    if folder.resolve() == ours.resolve():
        return
    for name in _PACKAGES:
        for stray in (folder / f"{name}.py", folder / name / "__init__.py"):
            if stray.exists():
                raise ConfigError(
                    f"{stray} hides Celeriac's package `{name}` from workers started here; "
                    "rename it, or run from another folder"
                )
