"""The user's own Celery, Keras and TensorFlow settings in the environment do not reach ours."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import billiard
import celery
import kombu
import pytest
from celery import _state
from celery.bin.celery import celery as celery_command
from celery.bin.worker import worker as celery_worker

from tests import foreign
from worker_config.celery_app import make_app
from worker_config.celery_command import heed_command
from worker_config.environment import for_worker, settle_command, settle_models, unheeded_celery
from worker_config.errors import ConfigError
from worker_config.settings import Settings

OURS, OTHER = "redis://ours:6379/3", "redis://theirs:6379/4"

# What Celery, kombu and billiard read from the environment, by what keeps it from ours.
READ = {
    "our app's settings and loader": {
        "CELERY_BROKER_READ_URL",
        "CELERY_BROKER_URL",
        "CELERY_BROKER_WRITE_URL",
        "CELERY_CONFIG_MODULE",
        "CELERY_LOADER",
        "CELERY_RESULT_BACKEND",
        "DJANGO_SETTINGS_MODULE",
    },
    "for_worker": {
        "AUTOSCALE_KEEPALIVE",
        "CELERY_BENCH",
        "CELERY_BENCH_EVERY",
        "CELERY_CUSTOM_WORKER_POOL",
        "CELERY_LOG_FILE",
        "CELERY_LOG_LEVEL",
        "CELERY_LOG_REDIRECT",
        "CELERY_LOG_REDIRECT_LEVEL",
        "CELERY_RDBSIG",
        "CELERY_SKIP_CHECKS",
        "CELERY_TRACE_APP",
        "CELERY_WORKER_REVOKES_MAX",
        "CELERY_WORKER_REVOKE_EXPIRES",
        "CELERY_WORKER_SUCCESSFUL_EXPIRES",
        "CELERY_WORKER_SUCCESSFUL_MAX",
        "C_BENCH",
        "C_BENCH_EVERY",
        "C_FAKEFORK",
        "C_IMPDEBUG",
        "C_REMDEBUG",
        "C_STRICT_APP",
        "C_WARN_APP",
        "DISABLE_TRACEBACKS",
        "FORKED_BY_MULTIPROCESSING",
        "KOMBU_DEBUG_POOL",
        "KOMBU_DISABLE_LIMIT_PROTECTION",
        "KOMBU_LOG_CHANNEL",
        "KOMBU_LOG_CONNECTION",
        "KOMBU_LOG_DEBUG",
        "MP_LOG",
        "MP_MAIN_FILE",
        "PICKLE_PROTOCOL",
        "TIMER_DEBUG",
        "_MP_FORK_LOGFILE_",
        "_MP_FORK_LOGFORMAT_",
        "_MP_FORK_LOGLEVEL_",
    },
    # Options before the subcommand; `-A tasks` is given, the others come to `CELERY_*`, or are about looks.
    "heed_command": {"APP", "BROKER_URL", "CONFIG_MODULE", "LOADER", "NO_COLOR", "RESULT_BACKEND", "SKIP_CHECKS"},
    # Of the machine and the terminal, of what is not used here, or the user's word as to how a worker ends.
    "nothing": {
        "CELERY_RDB_HOST",
        "CELERY_RDB_PORT",
        "C_FORCE_ROOT",
        "C_WNOCONF",
        "DJANGO_PROJECT_DIR",
        "EVENTLET_NOBLOCK",
        "ITERM_PROFILE",
        "MULTIPROCESSING_FORKING_DISABLE",
        "NOSETPS",
        "NO_WORKER",
        "NUMBER_OF_PROCESSORS",
        "PUBSUB_EMULATOR_HOST",
        "REMAP_SIGTERM",
        "SLMQ_ACCOUNT",
        "SLMQ_HOST",
        "SLMQ_PORT",
        "SLMQ_SECURE",
        "SL_API_KEY",
        "SL_USERNAME",
        "TERM",
        "TEST_BROKER",
        "USE_FAST_LOCALS",
        "WORKER_LOGLEVEL",
        "celery_dummy_proxy",
    },
}


def test_what_celery_reads_from_the_environment_is_known() -> None:
    """A version that reads more has somebody think about it."""
    reads = re.compile(
        r"""(?:(?:environ(?:\.get|\.setdefault)?|getenv|_env)[\[(]|\benv(?:var)?(?:: str)? ?=)\s*['"](\w+)['"]"""
    )
    found = set[str]()
    for package in (celery, kombu, billiard):
        for file in Path(str(package.__file__)).parent.rglob("*.py"):
            found |= set(reads.findall(file.read_text()))
    assert found == set().union(*READ.values())


@pytest.mark.parametrize("name", sorted(READ["for_worker"]))
def test_a_worker_that_we_start_does_not_get(name: str) -> None:
    assert for_worker({name: "1", "PATH": "/bin"}) == {"PATH": "/bin"}


@pytest.mark.parametrize("option", [*celery_command.params, *celery_worker.params], ids=lambda option: option.name)
def test_no_option_of_celery_s_command_comes_from_the_environment_of_a_worker_that_we_start(option) -> None:  # type: ignore[no-untyped-def]
    prefix = "CELERY_" if option in celery_command.params else "CELERY_WORKER_"
    variable = prefix + option.name.upper()
    assert variable in READ["our app's settings and loader"] | {"CELERY_BROKER", "CELERY_CONFIG"} or not for_worker(
        {variable: "1"}
    )


def test_functions_of_a_celery_project_still_find_its_settings() -> None:
    theirs = {"CELERY_BROKER_URL": OTHER, "DJANGO_SETTINGS_MODULE": "shop.settings", "APP": "shop"}
    assert for_worker(theirs) == theirs
    assert unheeded_celery({**theirs, "CELERY_WORKER_POOL": "solo"}) == ["CELERY_BROKER_URL", "CELERY_WORKER_POOL"]


@pytest.mark.parametrize("name", sorted(READ["our app's settings and loader"]))
def test_our_app_does_not_follow(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, OTHER if name.endswith(("URL", "BACKEND")) else "shop.nowhere")
    path, default = list(sys.path), _state.default_app
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        app = make_app(Settings(broker_url=OURS))
    assert (app.conf.broker_url, app.conf.broker_read_url, app.conf.broker_write_url) == (OURS, OURS, OURS)
    for connection in (app.connection(), app.connection_for_read(), app.connection_for_write()):
        assert (connection.hostname, connection.virtual_host) == ("ours", "3")
    assert app.conf.result_backend is None
    assert app.backend.as_uri() == "disabled://"
    # The one broker that an option of Celery's may name, later.
    app.conf.broker_url = OTHER
    assert app.conf.broker_read_url == OTHER
    # Django's fix-up would have changed these.
    assert (sys.path, _state.default_app) == (path, default)


@contextmanager
def celery_told(*words: str, **environ: str) -> Iterator[None]:
    """As while Celery's command loads the app."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        context = celery_command.make_context("celery", list(words), auto_envvar_prefix="CELERY")
        with context.scope(cleanup=False):
            yield
        subcommand = celery_worker.make_context("worker", [], parent=context, resilient_parsing=True)
        assert subcommand.params["concurrency"] != 7


def test_celery_s_own_option_names_the_broker_of_its_command() -> None:
    settings = Settings(broker_url=OURS)
    assert heed_command(settings) == settings
    with celery_told("-b", OTHER, "worker", CELERY_WORKER_CONCURRENCY="7"):
        assert heed_command(settings).broker_url == OTHER
    with celery_told("-b", "amqp://theirs", "worker"), pytest.raises(ConfigError, match="-b/--broker: 'amqp://theirs'"):
        heed_command(settings)


def test_the_environment_names_no_broker_and_no_options_of_celery_s_command() -> None:
    settings = Settings(broker_url=OURS)
    for name in ("BROKER_URL", "CELERY_BROKER"):
        with celery_told("worker", CELERY_WORKER_CONCURRENCY="7", **{name: OTHER}):
            assert heed_command(settings) == settings


@pytest.mark.parametrize("option", ["--result-backend", "--loader", "--config"])
def test_an_option_of_celery_s_that_would_replace_our_settings_is_refused(option: str) -> None:
    with celery_told(option, "shop", "worker"), pytest.raises(ConfigError, match=f"^{option} .*leave it out$"):
        heed_command(Settings())


def test_a_folder_that_celery_was_moved_to_by_the_environment_is_refused() -> None:
    here = str(Path.cwd())
    with celery_told("worker", CELERY_WORKDIR=here), pytest.raises(ConfigError, match="unset it"):
        heed_command(Settings())
    with celery_told("--workdir", here, "worker"):
        heed_command(Settings())


@pytest.mark.parametrize("name", sorted(foreign.MODELS))
def test_what_changes_predictions_is_dropped_and_told(name: str) -> None:
    environ = {**foreign.STAYS, name: foreign.MODELS[name]}
    assert settle_models(environ) == [name]
    assert environ == {**foreign.STAYS, "KERAS_BACKEND": "tensorflow", "KERAS_NNX_ENABLED": "false"}
    assert settle_models(environ) == []


def test_flags_of_xla_that_change_no_value_stay() -> None:
    stays = "--xla_gpu_cuda_data_dir=/usr/lib/cuda --xla_dump_to=/tmp/xla"
    environ = {"XLA_FLAGS": stays}
    assert settle_models(environ) == []
    assert environ["XLA_FLAGS"] == stays
    environ["XLA_FLAGS"] += " --xla_cpu_enable_fast_math=true"
    assert settle_models(environ) == ["XLA_FLAGS"]
    assert environ["XLA_FLAGS"] == stays


def fresh(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, **environ}
    )


def test_keras_is_as_it_is_shipped_whatever_environment_and_keras_json_say(tmp_path: Path) -> None:
    code = (
        "import json, os\n"
        "from tasks.models.tensorflow_import import import_tensorflow\n"
        "unheeded = import_tensorflow()\n"
        "import keras, keras.config as config, tensorflow as tf\n"
        "told = [config.backend(), config.floatx(), config.epsilon(), config.image_data_format()]\n"
        "told += [config.is_nnx_enabled(), config.dtype_policy().name, tf.keras.__version__ == keras.__version__]\n"
        "config.set_floatx('float64'); import_tensorflow()\n"  # a function's own wish, later
        "print(json.dumps([unheeded, told, config.floatx(), sorted(os.environ)]))"
    )
    ended = fresh(code, **foreign.MODELS, **foreign.STAYS, **foreign.write_keras_json(tmp_path / "k"))
    assert ended.returncode == 0, ended.stderr
    unheeded, told, later, left = json.loads(ended.stdout)
    assert unheeded == sorted(foreign.MODELS)
    assert told == ["tensorflow", "float32", 1e-7, "channels_last", False, "float32", True]
    assert later == "float64"
    assert {*foreign.STAYS, "KERAS_HOME"} <= set(left)


def test_a_keras_json_that_keras_refuses_and_a_keras_that_is_there_already_are_told(tmp_path: Path) -> None:
    (tmp_path / "keras.json").write_text('{"floatx": "float8"}')
    code = (
        "from tasks.models.tensorflow_import import import_tensorflow\n"
        "from worker_config.errors import ConfigError\n"
        "try: import_tensorflow()\n"
        "except ConfigError as error: print(error)"
    )
    refused = fresh(code, KERAS_HOME=str(tmp_path))
    assert refused.stdout.startswith("TensorFlow cannot be imported ("), refused.stderr
    assert f"; is {tmp_path}/keras.json in order?" in refused.stdout
    early = fresh(f"import keras; keras.config.backend = lambda: 'jax'\n{code}")  # which may not be installed
    assert early.stdout.startswith("Keras was imported with the backend 'jax'"), early.stderr


def test_a_producer_leaves_the_user_s_process_as_it_is() -> None:
    code = (
        "import os, sys; before, path = dict(os.environ), list(sys.path)\n"
        "from producer import *; import producer.cli.predict\n"
        "from worker_config.celery_app import make_app\n"
        "from worker_config.settings import Settings\n"
        "make_app(Settings(broker_url='redis://ours/0')).connection()\n"
        "from celery import _state\n"
        "print(dict(os.environ) == before, sys.path == path, _state.default_app, _state._tls.current_app)"
    )
    ended = fresh(code, **foreign.CELERY, **foreign.MODELS)
    assert ended.stdout == "True True None None\n", ended.stderr
    assert ended.stderr == ""


def test_a_command_debugs_neither_celery_nor_kombu() -> None:
    environ = {"KOMBU_LOG_CHANNEL": "1", "KOMBU_LOG_DEBUG": "1", "CELERY_BROKER_URL": "amqp://", "HOME": "/"}
    settle_command(environ)
    assert environ == {"CELERY_BROKER_URL": "amqp://", "HOME": "/"}
