"""This module reads `CELERIAC_*` environment variables, and one of OpenTelemetry, into one checked, frozen value."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from worker_config.broker_url import check_broker_url, redacted
from worker_config.errors import ConfigError


@dataclass(frozen=True)
class Settings:
    """Everything that a producer or a worker is told from outside.

    Attributes:
        broker_url: Redis, as `redis://`, `rediss://` or `unix://`; None where none was given.
        models_path: the model-set manifest.
        model_set: the models of the manifest that a worker holds, by name; all if it names none.
        intra_op_threads: threads inside one TensorFlow operation; 0 means cores / children.
        chunk_timeout_seconds: a chunk that runs longer has its child killed, and fails.
        load_timeout_seconds: a child that needs longer to load its models is killed.
        job_ttl_seconds: how long Redis keeps a job's keys after their last use.
        spool: a folder that producer and workers share for payloads; None where they share none.
        data_roots: folders under which workers may open a producer's files themselves.
        cache: where snapshots of models are kept; None is `celeriac` in the user's own cache folder.
        cache_mib: how large the cache may become, in MiB; what is in use stays.
        pin_cores: whether each child has cores of its own.
        log_format: of a worker: lines of text, or of JSON.
        metrics_port: where a worker serves its metrics; 0 for not at all.
        metrics_host: the address at which metrics are served.
        detached_mib: what a detached job may keep in Redis, rows, messages and outputs together, in MiB.
        trace_exporters: where traces go, `otlp` or `console` or both; nowhere if it names none.
    """

    broker_url: str | None = None
    models_path: Path = Path("models.toml")
    intra_op_threads: int = 0
    chunk_timeout_seconds: int = 600
    load_timeout_seconds: int = 600
    job_ttl_seconds: int = 86_400
    spool: Path | None = None
    data_roots: tuple[Path, ...] = ()
    detached_mib: int = 256
    cache: Path | None = None
    cache_mib: int = 20_480
    pin_cores: bool = False
    model_set: tuple[str, ...] = ()
    trace_exporters: tuple[str, ...] = ()
    log_format: Literal["text", "json"] = "text"
    metrics_port: int = 0
    metrics_host: str = "127.0.0.1"

    def __repr__(self) -> str:
        shown = [f"broker_url={redacted(self.broker_url)!r}", f"models_path={str(self.models_path)!r}"]
        shown += [f"model_set={list(self.model_set)}"]
        shown += [f"{name}={getattr(self, name)}" for name in _INTEGERS]
        shown += [
            f"cache={str(self.cache)!r}",
            f"pin_cores={self.pin_cores}",
            f"log_format={self.log_format}",
            f"metrics_host={self.metrics_host!r}",
            f"spool={str(self.spool)!r}",
            f"data_roots={[str(root) for root in self.data_roots]}",
            f"trace_exporters={list(self.trace_exporters)}",
        ]
        return f"Settings({', '.join(shown)})"

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the environment; an empty variable counts as unset.

        Raises:
            ConfigError: a value is not of its form; the text names the variable.
        """
        settings = cls()
        if url := environ.get("CELERIAC_BROKER_URL"):
            settings = replace(settings, broker_url=check_broker_url(url, "CELERIAC_BROKER_URL"))
        if path := environ.get("CELERIAC_MODELS"):
            settings = replace(settings, models_path=Path(path))
        if names := environ.get("CELERIAC_MODEL_SET"):
            settings = replace(settings, model_set=_names("CELERIAC_MODEL_SET", names))
        if spool := environ.get("CELERIAC_SPOOL"):
            settings = replace(settings, spool=_folder("CELERIAC_SPOOL", spool))
        if roots := environ.get("CELERIAC_DATA_ROOTS"):
            folders = tuple(_folder("CELERIAC_DATA_ROOTS", root) for root in roots.split(os.pathsep) if root)
            settings = replace(settings, data_roots=folders)
        if cache := environ.get("CELERIAC_CACHE"):
            settings = replace(settings, cache=_absolute("CELERIAC_CACHE", cache))
        if pin_cores := environ.get("CELERIAC_PIN_CORES"):
            settings = replace(settings, pin_cores=_flag("CELERIAC_PIN_CORES", pin_cores))
        if environ.get("OTEL_SDK_DISABLED", "").lower() != "true":
            settings = replace(settings, trace_exporters=_exporters(environ.get("OTEL_TRACES_EXPORTER", "")))
        if log_format := environ.get("CELERIAC_LOG_FORMAT"):
            if log_format not in ("text", "json"):
                raise ConfigError(f"CELERIAC_LOG_FORMAT={log_format!r} is neither text nor json")
            settings = replace(settings, log_format="json" if log_format == "json" else "text")
        if host := environ.get("CELERIAC_METRICS_HOST"):
            settings = replace(settings, metrics_host=host)
        integers: dict[str, Any] = {
            name: _integer(variable, environ[variable], least)
            for name, (variable, least) in _INTEGERS.items()
            if environ.get(variable)
        }
        return replace(settings, **integers)


_INTEGERS = {
    "intra_op_threads": ("CELERIAC_INTRA_OP_THREADS", 0),
    "chunk_timeout_seconds": ("CELERIAC_CHUNK_TIMEOUT_SECONDS", 1),
    "load_timeout_seconds": ("CELERIAC_LOAD_TIMEOUT_SECONDS", 1),
    "job_ttl_seconds": ("CELERIAC_JOB_TTL_SECONDS", 60),
    "detached_mib": ("CELERIAC_DETACHED_MIB", 1),
    "cache_mib": ("CELERIAC_CACHE_MIB", 0),
    "metrics_port": ("CELERIAC_METRICS_PORT", 0),
}


def _names(variable: str, text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise ConfigError(f"{variable}={text!r} has an empty name; name models as NAME,NAME")
    return names


def _exporters(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if unknown := [name for name in names if name not in ("", "none", "otlp", "console")]:
        raise ConfigError(f"OTEL_TRACES_EXPORTER has {unknown[0]!r}; traces go by otlp, to the console, or to none")
    return tuple(name for name in names if name not in ("", "none"))


def _folder(variable: str, text: str) -> Path:
    path = Path(text)
    if not path.is_absolute() or not path.is_dir():
        raise ConfigError(f"{variable}={text!r} is not the absolute path of a folder that exists here")
    return path


def _absolute(variable: str, text: str) -> Path:
    if not Path(text).is_absolute():
        raise ConfigError(f"{variable}={text!r} is not an absolute path")
    return Path(text)


def _flag(variable: str, text: str) -> bool:
    if text not in ("0", "1"):
        raise ConfigError(f"{variable}={text!r} is neither 0 nor 1")
    return text == "1"


def _integer(variable: str, text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise ConfigError(f"{variable}={text!r} is not a whole number") from None
    if value < least:
        raise ConfigError(f"{variable}={value} is too small; the least is {least}")
    return value
