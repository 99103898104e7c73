"""An environment as somebody else's Celery project, Keras and TensorFlow experiments leave it."""

from __future__ import annotations

import json
from pathlib import Path

# Where nobody listens.
NOWHERE = "redis://127.0.0.1:1/0"

# Celery's settings, which would divert an app or keep it from loading.
CELERY = {
    "CELERY_BROKER_URL": NOWHERE,
    "CELERY_BROKER_READ_URL": NOWHERE,
    "CELERY_BROKER_WRITE_URL": NOWHERE,
    "CELERY_RESULT_BACKEND": NOWHERE,
    "CELERY_CONFIG_MODULE": "shop.celeryconfig",
    "CELERY_LOADER": "shop.loaders:Loader",
    # The same by the names that its command reads, and whatever its worker has an option for.
    "BROKER_URL": NOWHERE,
    "RESULT_BACKEND": NOWHERE,
    "LOADER": "shop.loaders:Loader",
    "CONFIG_MODULE": "shop.celeryconfig",
    "CELERY_WORKER_AUTOSCALE": "9,7",
    "CELERY_WORKER_CONCURRENCY": "7",
    "CELERY_WORKER_DETACH": "1",
    "CELERY_WORKER_EXCLUDE_QUEUES": "celeriac",
    "CELERY_WORKER_HOSTNAME": "shop@elsewhere",
    "CELERY_WORKER_INCLUDE": "shop.tasks",
    "CELERY_WORKER_MAX_TASKS_PER_CHILD": "1",
    "CELERY_WORKER_POOL": "solo",
    "CELERY_WORKER_POOL_START_METHOD": "spawn",
    "CELERY_WORKER_PURGE": "1",
    "CELERY_WORKER_QUEUES": "shop",
    "CELERY_WORKER_TIME_LIMIT": "0.001",
    # What a worker leaves to what its tasks start, and what only debugging needs.
    "FORKED_BY_MULTIPROCESSING": "1",
    "KOMBU_LOG_CHANNEL": "1",
    "CELERY_LOG_FILE": "/nowhere/shop.log",
    "CELERY_LOG_LEVEL": "50",
    "CELERY_LOG_REDIRECT": "1",
    "C_STRICT_APP": "1",
    "C_FAKEFORK": "1",
    "CELERY_RDBSIG": "1",
    "DJANGO_SETTINGS_MODULE": "shop.settings",
}
# Before any app is asked, Celery's command ends, or goes elsewhere, for these; or its import fails.
COMMAND = {
    "CELERY_VERSION": "5.7.0",
    "CELERY_HELP": "1",
    "CELERY_WORKDIR": "/",
    "CELERY_WORKER_REVOKES_MAX": "many",
    "AUTOSCALE_KEEPALIVE": "long",
    "CELERY_TRACE_APP": "1",
}
# Each of which changes predictions, or has no model load.
MODELS = {
    "KERAS_BACKEND": "jax",
    "KERAS_NNX_ENABLED": "1",
    "KERAS_MAX_EPOCHS": "many",
    "TF_USE_LEGACY_KERAS": "1",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "TF_SET_ONEDNN_FPMATH_MODE": "BF16",
    "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
    "TF_XLA_FLAGS": "--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit",
    "XLA_FLAGS": "--xla_cpu_enable_fast_math=true --a_flag_of_jax=1",
    "TF_FUNCTION_JIT_COMPILE_DEFAULT": "1",
    "TF_ENABLE_AUTO_MIXED_PRECISION": "1",
    "TF_ENABLE_AUTO_MIXED_PRECISION_GRAPH_REWRITE": "1",
    "TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_LEVEL": "UNSAFE_FORCE_ALL",
    "NVIDIA_TF32_OVERRIDE": "1",
    "TF_DETERMINISTIC_OPS": "1",
    "TF_ENABLE_CONTROL_FLOW_V2": "0",
    "TF_FORCE_GPU_ALLOW_GROWTH": "false",
}
# About speed, memory and logs, the user's own choice.
STAYS = {
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_GPU_ALLOCATOR": "cuda_malloc_async",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
}


def write_keras_json(home: Path) -> dict[str, str]:
    """A folder with a `keras.json` in which nothing is as it is shipped; the variable that names it."""
    home.mkdir()
    settings = {"floatx": "float16", "epsilon": 0.1, "image_data_format": "channels_first"}
    (home / "keras.json").write_text(json.dumps({**settings, "backend": "jax", "nnx_enabled": True}))
    return {"KERAS_HOME": str(home)}
