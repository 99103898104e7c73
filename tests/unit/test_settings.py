"""Settings from the environment, and the app that Celery gets from them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from celery.app import defaults
from kombu.transport.redis import Channel

from worker_config.celery_app import celery_settings, make_app
from worker_config.errors import ConfigError
from worker_config.settings import Settings

PASSWORD = "hunter2"  # not one that opens anything


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Settings.from_env({}) == Settings()
    assert Settings.from_env({"CELERIAC_BROKER_URL": "", "CELERIAC_INTRA_OP_THREADS": ""}) == Settings()


def test_every_variable_reaches_its_setting() -> None:
    environ = {
        "CELERIAC_BROKER_URL": "redis://host:6380/1",
        "CELERIAC_MODELS": "/srv/models.toml",
        "CELERIAC_INTRA_OP_THREADS": "3",
        "CELERIAC_CHUNK_TIMEOUT_SECONDS": "61",
        "CELERIAC_LOAD_TIMEOUT_SECONDS": "62",
        "CELERIAC_JOB_TTL_SECONDS": "63",
        "CELERIAC_DETACHED_MIB": "64",
        "CELERIAC_INPUT_MIB": "32",
        "CELERIAC_MODEL_SET": "digits, letters",
        "CELERIAC_SPOOL": "/dev",
        "CELERIAC_DATA_ROOTS": "/dev:/proc",
        "CELERIAC_OUTPUT_ROOTS": "/proc:/dev",
        "CELERIAC_CACHE": "/not/there/yet",
        "CELERIAC_CACHE_MIB": "0",
        "CELERIAC_PIN_CORES": "1",
        "OTEL_TRACES_EXPORTER": "otlp",
        "CELERIAC_LOG_FORMAT": "json",
        "CELERIAC_METRICS_PORT": "9464",
        "CELERIAC_METRICS_HOST": "0.0.0.0",  # noqa: S104 - not listened at
        "CELERIAC_REMOTE_CONTROL": "read",
        "CELERIAC_SIGNING_KEY": f"{'k' * 32},{'l' * 32}",
    }
    expected = Settings(
        broker_url="redis://host:6380/1",
        models_path=Path("/srv/models.toml"),
        model_set=("digits", "letters"),
        intra_op_threads=3,
        chunk_timeout_seconds=61,
        load_timeout_seconds=62,
        job_ttl_seconds=63,
        detached_mib=64,
        input_mib=32,
        spool=Path("/dev"),
        data_roots=(Path("/dev"), Path("/proc")),
        output_roots=(Path("/proc"), Path("/dev")),
        cache=Path("/not/there/yet"),
        cache_mib=0,
        pin_cores=True,
        trace_exporters=("otlp",),
        log_format="json",
        metrics_port=9464,
        metrics_host="0.0.0.0",  # noqa: S104
        signing_key=("k" * 32, "l" * 32),
        remote_control="read",
    )
    settings = Settings.from_env(environ)
    assert settings == expected
    assert all(getattr(settings, field.name) != field.default for field in dataclasses.fields(Settings))
    assert all(f"{field.name}=" in repr(settings) for field in dataclasses.fields(Settings))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CELERIAC_INTRA_OP_THREADS", "many"),
        ("CELERIAC_INTRA_OP_THREADS", "-1"),
        ("CELERIAC_CHUNK_TIMEOUT_SECONDS", "0"),
        ("CELERIAC_JOB_TTL_SECONDS", "1.5"),
        ("CELERIAC_DETACHED_MIB", "0"),
        ("CELERIAC_INPUT_MIB", "0"),
        ("CELERIAC_MODEL_SET", "digits,,letters"),
        ("CELERIAC_SPOOL", "not/from/the/root"),
        ("CELERIAC_DATA_ROOTS", "/dev:/not/there"),
        ("CELERIAC_OUTPUT_ROOTS", "/dev:/not/there"),
        ("CELERIAC_CACHE", "not/from/the/root"),
        ("CELERIAC_CACHE_MIB", "-1"),
        ("CELERIAC_CACHE_MIB", "20 GiB"),
        ("CELERIAC_PIN_CORES", "2"),
        ("CELERIAC_PIN_CORES", "yes"),
        ("CELERIAC_LOG_FORMAT", "yaml"),
        ("CELERIAC_METRICS_PORT", "http"),
        ("CELERIAC_BROKER_URL", "amqp://host"),
        ("CELERIAC_BROKER_URL", "redis://host:notaport"),
    ],
)
def test_a_bad_value_is_refused_by_its_variable_s_name(variable: str, value: str) -> None:
    with pytest.raises(ConfigError, match=variable) as refused:
        Settings.from_env({variable: value})
    assert "\n" not in str(refused.value)


def test_the_password_is_in_no_repr_and_no_error() -> None:
    settings = Settings.from_env({"CELERIAC_BROKER_URL": f"redis://user:{PASSWORD}@host/0"})
    assert PASSWORD not in repr(settings)
    with pytest.raises(ConfigError) as refused:
        Settings.from_env({"CELERIAC_BROKER_URL": f"amqp://user:{PASSWORD}@host/0"})
    assert PASSWORD not in str(refused.value)


def test_celery_knows_every_setting_by_its_name() -> None:
    """Celery ignores unknown names in silence."""
    known = {name for name, _ in defaults.flatten(defaults.NAMESPACES)}
    assert set(celery_settings(Settings())) <= known


def test_kombu_knows_every_transport_option_by_its_name() -> None:
    known = {*Channel.from_transport_options, "visibility_timeout"}
    assert set(celery_settings(Settings())["broker_transport_options"]) <= known


def test_a_message_is_not_given_again_while_its_chunk_may_still_run() -> None:
    settings = Settings(chunk_timeout_seconds=100, load_timeout_seconds=50)
    options = celery_settings(settings)["broker_transport_options"]
    assert options["visibility_timeout"] > settings.chunk_timeout_seconds + settings.load_timeout_seconds


def test_the_app_never_accepts_pickle() -> None:
    app = make_app(Settings(broker_url="redis://host/0"))
    assert set(app.conf.accept_content) == {"msgpack", "json"}
    assert app.conf.broker_url == "redis://host:6379/0"


def test_signing_keys_stand_in_a_file_and_are_never_shown(tmp_path: Path) -> None:
    keys = ("n" * 32, "o" * 40)
    file = tmp_path / "keys"
    file.write_text("\n".join(keys) + "\n")
    settings = Settings.from_env({"CELERIAC_SIGNING_KEY": str(file)})
    assert settings.signing_key == keys
    assert not any(key in repr(settings) for key in keys)


@pytest.mark.parametrize(
    ("text", "why"),
    [("k" * 31, "less than 32 characters"), (",", "less than 32 characters"), ("/not/there", "cannot be read")],
)
def test_a_signing_key_that_does_not_do_is_refused_and_not_shown(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as raised:
        Settings.from_env({"CELERIAC_SIGNING_KEY": text})
    assert "kkk" not in str(raised.value)
