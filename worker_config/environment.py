"""The user's own Celery, Keras and TensorFlow settings in the environment, and what becomes of them in our processes.

    where models run      --settle_models--> Keras on TensorFlow, and nothing that changes predictions or devices
    where a worker starts --for_worker-->    nothing that turns Celery's command before it asks our app

What is only about speed, memory or logs stays. So do Celery's settings (`CELERY_BROKER_URL` ...), as functions of the
manifest may be parts of a Celery project of their own: our app does not read them (`worker_config/celery_app.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

# Set rather than dropped: these overrule `keras.json`.
_KERAS = {"KERAS_BACKEND": "tensorflow", "KERAS_NNX_ENABLED": "false"}

# Names, or what they begin with where they end with *, and what they would do.
_MODELS: dict[str, str] = {
    "TF_USE_LEGACY_KERAS": "functions would get another Keras as tf.keras",
    "KERAS_MAX_*": "limits of training; a word instead of a number stops the import",
    # Other arithmetic.
    "TF_ENABLE_ONEDNN_OPTS": "other kernels, which round otherwise",
    "TF_ENABLE_ZENDNN_OPTS": "the same",
    "ONEDNN_MAX_CPU_ISA": "the same",
    "DNNL_MAX_CPU_ISA": "its older name",
    "TF_SET_ONEDNN_FPMATH_MODE": "float32 computed as bfloat16",
    "ONEDNN_DEFAULT_FPMATH_MODE": "the same",
    "DNNL_DEFAULT_FPMATH_MODE": "its older name",
    "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS": "weights taken from a cache",
    "TF_USE_DEEP_CONV2D": "another algorithm of convolutions",
    "TF_ENABLE_AUTO_MIXED_PRECISION*": "float32 computed as float16 or bfloat16",
    "TF_AUTO_MIXED_PRECISION_*": "which operations that takes in",
    "TF_ENABLE_CUBLAS_TENSOR_OP_MATH_FP32": "the same on GPUs",
    "TF_ENABLE_CUDNN_TENSOR_OP_MATH_FP32": "the same on GPUs",
    "TF_ENABLE_CUDNN_RNN_TENSOR_OP_MATH_FP32": "the same on GPUs",
    "NVIDIA_TF32_OVERRIDE": "float32 computed as TF32, or not",
    "TF_CONV2D_USE_FP16_ACCUMULATE": "sums of float16 in float16",
    "TF_FP16_*": "or in float32",
    # Another compiler: other rounding, other values where there is no finite one, and no check of what models assert.
    "TF_XLA_FLAGS": "compiles by itself",
    "TF_FUNCTION_JIT_COMPILE_DEFAULT": "compiles every function",
    "TF_JIT_COMPILE_REWRITE": "the same",
    "TF_JITRT_FLAGS": "the same",
    # Another choice of kernels.
    "TF_DETERMINISTIC_OPS": "refuses operations that cannot be deterministic",
    "TF_CUDNN_DETERMINISTIC": "the same on GPUs",
    "TF_USE_DETERMINISTIC_SEGMENT_REDUCTIONS": "the same",
    "TF_DISABLE_SEGMENT_REDUCTION_OP_DETERMINISM_EXCEPTIONS": "the same",
    "TF_DISABLE_SCATTER_OP_DETERMINISM": "the same",
    "TF_CUDNN_USE_*": "kernels of cuDNN by another choice",
    "TF_CUDNN_RNN_USE_AUTOTUNE": "the same",
    "TF_CUDNN_DISABLE_CONV_1X1_OPTIMIZATION": "the same",
    "TF_DEBUG_CUDNN_RNN*": "the same",
    "TF_ENABLE_MAXPOOL_NANPROP": "whether a NaN goes through max-pooling",
    "TF_ENABLE_WINOGRAD_NONFUSED": "another algorithm of convolutions",
    "TF_USE_CUBLASLT": "other kernels of products",
    "TF_MATMUL_AUTOTUNE_ENABLE": "the same",
    "TF_USE_CUDNN_BATCHNORM_SPATIAL_PERSISTENT": "another kernel of batch norms",
    "TF_USE_DEFAULT_CONV_ALGO": "another algorithm of convolutions",
    # Graphs of another kind than snapshots are made of.
    "TF_ENABLE_CONTROL_FLOW_V2": "loops and branches of TensorFlow 1",
    "TF_ENABLE_COND_V2": "the same",
    "TF_ENABLE_WHILE_V2": "the same",
    "TF_ENABLE_TENSOR_ARRAY_V2": "the same",
    # It wins over what a child asks for, and the first child would take all of the GPU's memory.
    "TF_FORCE_GPU_ALLOW_GROWTH": "memory growth of GPUs",
}
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
_CELERY_COMMAND: dict[str, str] = {
    _CELERY_OPTIONS: "options of the command; some are numbers that stop the import",
    "CELERY_APP": "an option before the subcommand",
    "CELERY_VERSION": "the same: shows the version and ends, or ends as 5.7.0 is no truth value",
    "CELERY_HELP": "the same",
    "CELERY_WORKDIR": "the same: paths would begin elsewhere",
    "CELERY_QUIET": "the same",
    "CELERY_NO_COLOR": "the same",
    "CELERY_SKIP_CHECKS": "the same",
    "CELERY_CUSTOM_WORKER_POOL": "another pool",
    "CELERY_TRACE_APP": "debugging of Celery: words on stderr, errors",
    "CELERY_BENCH*": "the same",
    "CELERY_RDBSIG": "a debugger at SIGUSR2",
    "C_STRICT_APP": "debugging: no current app",
    "C_WARN_APP": "debugging of Celery",
    "C_IMPDEBUG": "the same",
    "C_BENCH*": "the same",
    "C_REMDEBUG": "the same",
    "C_FAKEFORK": "the same",
    "TIMER_DEBUG": "the same",
    "MP_LOG": "the same, of billiard",
    "KOMBU_*": "debugging of kombu, and pools without limit",
    "DISABLE_TRACEBACKS": "the same",
    "PICKLE_PROTOCOL": "a number that stops the import, where it is none",
    "AUTOSCALE_KEEPALIVE": "the same",
    # Left by a worker to what its tasks start, and a task may well start us.
    "FORKED_BY_MULTIPROCESSING": "Celery would take the worker for a child, and bind its task to another app",
    "CELERY_LOG_*": "another worker's log",
    "_MP_FORK_*": "the same",
    "MP_MAIN_FILE": "another program's file",
}


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


def _is_one(name: str, table: Mapping[str, str] | tuple[str, ...]) -> bool:
    return name in table or any(one.endswith("*") and name.startswith(one[:-1]) for one in table)
