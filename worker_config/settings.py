"""The environment as one checked, frozen value.

`CELERIAC_*`, `OTEL_TRACES_EXPORTER` --convert--> Settings --> producer, worker, Celery's settings
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_type_hints

import msgspec

from worker_config.broker import check_broker_url, redacted
from worker_config.decodable import decodable
from worker_config.errors import ConfigError, UsageError
from worker_config.foreign_errors import did_you_mean
from worker_config.model_paths import MANIFEST, manifest_at
from worker_config.object_urls import SCHEMES, WEB, ObjectUrl, is_url, root_url

logger = logging.getLogger(__name__)

_PREFIX = "CELERIAC_"
# Half of what a good one has.
LEAST_KEY_CHARACTERS = 32

# The texts say what is allowed; they end the sentence "VARIABLE='value' is not ...".
_Natural: TypeAlias = Annotated[int, msgspec.Meta(ge=0, description="a whole number of at least 0")]
_Positive: TypeAlias = Annotated[int, msgspec.Meta(ge=1, description="a whole number of at least 1")]
_Minutes: TypeAlias = Annotated[int, msgspec.Meta(ge=60, description="a whole number of at least 60")]
_RemoteControl: TypeAlias = Annotated[Literal["all", "read", "off"], msgspec.Meta(description="all, read or off")]
_LogFormat: TypeAlias = Annotated[Literal["text", "json"], msgspec.Meta(description="text or json")]


@dataclass(frozen=True)
class Settings:
    """Everything that a producer or a worker is told from outside.

    Attributes:
        broker_url: Redis, as `worker_config.broker` reads it; None where none was given.
        models_path: the model-set manifest.
        model_set: the models of the manifest that a worker holds, by name; all if it names none.
        intra_op_threads: threads inside one TensorFlow operation; 0 means cores / children.
        chunk_timeout_seconds: a chunk that runs longer has its child killed, and fails.
        load_timeout_seconds: a child that needs longer to load its models is killed.
        job_ttl_seconds: how long Redis keeps a job's keys after their last use.
        spool: a folder, or a beginning of URLs, that producer and workers share for payloads; None where none.
        data_roots: folders and URL prefixes under which workers may open a producer's files themselves.
        output_roots: folders and URL prefixes under which workers may write a producer's outputs themselves.
        cache: where snapshots of models are kept; None is `celeriac` in the user's own cache folder.
        cache_mib: how large the cache may become, in MiB; what is in use stays.
        pin_cores: whether each child has cores of its own.
        log_format: of a worker: lines of text, or of JSON.
        metrics_port: where a worker serves its metrics; 0 for not at all.
        metrics_host: the address at which metrics are served.
        input_mib: what one record, array, page or block of rows of an input may take in memory, in MiB.
        detached_mib: what a detached job may keep in Redis, rows, messages and outputs together, in MiB.
        signing_key: keys; messages are signed with the first, and believed if one of them has signed them. Without any
            they carry checksums.
        remote_control: what `celery inspect` and `control` may do with a worker: all, read alone, or nothing (off).
        trace_exporters: where traces go, `otlp` or `console` or both; nowhere if it names none.
    """

    broker_url: str | None = None
    models_path: Path = Path(MANIFEST)
    intra_op_threads: _Natural = 0
    chunk_timeout_seconds: _Positive = 600
    load_timeout_seconds: _Positive = 600
    job_ttl_seconds: _Minutes = 86_400
    spool: Path | ObjectUrl | None = None
    data_roots: tuple[Path | ObjectUrl, ...] = ()
    output_roots: tuple[Path | ObjectUrl, ...] = ()
    detached_mib: _Positive = 256
    input_mib: _Positive = 1024
    cache: Path | None = None
    cache_mib: _Natural = 20_480
    pin_cores: bool = False
    model_set: tuple[str, ...] = ()
    trace_exporters: tuple[str, ...] = ()
    log_format: _LogFormat = "text"
    metrics_port: _Natural = 0
    metrics_host: str = "127.0.0.1"
    signing_key: tuple[str, ...] = ()
    remote_control: _RemoteControl = "all"

    def __repr__(self) -> str:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["broker_url"] = redacted(self.broker_url)
        values["signing_key"] = ("***",) * len(self.signing_key)
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in values.items())})"

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the environment; an empty variable counts as unset, and a name that is misspelt is told of in the log.

        Raises:
            ConfigError: a value is not of its form; the text names the variable.
        """
        for line in misspelt() if environ is os.environ else ():
            _tell_once(line)
        if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
            environ = {name: value for name, value in environ.items() if name != "OTEL_TRACES_EXPORTER"}
        values: dict[str, Any] = {}
        for name, form in get_type_hints(cls, include_extras=True).items():
            variable = variable_of(name)
            if text := environ.get(variable):
                try:
                    values[name] = _READERS[name](text) if name in _READERS else _converted(text, form)
                except ValueError as error:
                    raise ConfigError(f"{variable}={error}") from None
        return cls(**values)


def misspelt(environ: Mapping[str, str] = os.environ) -> list[str]:
    """A line for each variable that is like that of a setting, and is none; what else begins so is somebody's own."""
    known = {variable_of(field.name).removeprefix(_PREFIX): None for field in fields(Settings)}
    names = [name.removeprefix(_PREFIX) for name in sorted(environ) if name.startswith(_PREFIX)]
    meant = {name: did_you_mean(name, known, _PREFIX) for name in names if name not in known}
    return [f"{_PREFIX}{name} is no setting{text}" for name, text in meant.items() if text]


@cache
def _tell_once(line: str) -> None:
    logger.warning("%s", line)


def variable_of(setting: str) -> str:
    """The environment variable that a setting is read from."""
    return _VARIABLES.get(setting, f"{_PREFIX}{setting.upper()}")


def _converted(text: str, form: Any) -> Any:
    try:
        return msgspec.convert(text.strip(), decodable(form), strict=False)
    except msgspec.ValidationError:
        raise ValueError(f"{text!r} is not {form.__metadata__[-1].description}") from None


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise ValueError(f"{text!r} has an empty name; name models as NAME,NAME")
    return names


def _signing_keys(text: str) -> tuple[str, ...]:
    """Keys, or the path of a file that has one in each line; none of them is ever shown."""
    if text.startswith("/"):
        try:
            text = Path(text).read_text()
        except OSError as error:
            raise ConfigError(f"CELERIAC_SIGNING_KEY names a file that cannot be read: {error}") from None
    keys = tuple(text.replace(",", " ").split())
    if not keys or min(map(len, keys)) < LEAST_KEY_CHARACTERS:
        raise ConfigError(
            f"CELERIAC_SIGNING_KEY has a key of less than {LEAST_KEY_CHARACTERS} characters; make one with: "
            "openssl rand -hex 32"
        )
    if importlib.util.find_spec("cryptography") is None:
        raise ConfigError("CELERIAC_SIGNING_KEY needs the library cryptography: pip install 'celeriac[signing]'")
    return keys


def _exporters(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if unknown := [name for name in names if name not in ("", "none", "otlp", "console")]:
        raise ConfigError(f"OTEL_TRACES_EXPORTER has {unknown[0]!r}; traces go by otlp, to the console, or to none")
    return tuple(name for name in names if name not in ("", "none"))


def _absolute(text: str) -> Path:
    if not Path(text).is_absolute():
        raise ValueError(f"{text!r} is not an absolute path")
    return Path(text)


def _folder(text: str) -> Path:
    if not Path(text).is_absolute() or not Path(text).is_dir():
        raise ValueError(f"{text!r} is not the absolute path of a folder that exists here")
    return Path(text)


def _root(text: str) -> Path | ObjectUrl:
    try:
        return root_url(text) if is_url(text) else _folder(text)
    except UsageError as error:
        raise ValueError(str(error)) from None


def _spool(text: str) -> Path | ObjectUrl:
    place = _root(text)
    if isinstance(place, ObjectUrl) and (place.scheme in WEB or not place.bucket):
        raise ValueError(f"{text!r} is no place for payloads; name a folder, or a prefix as s3://bucket/spool")
    return place


def _flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError(f"{text!r} is neither 0 nor 1")
    return text == "1"


# Where the name is another one than the setting's own.
_VARIABLES = {"models_path": "CELERIAC_MODELS", "trace_exporters": "OTEL_TRACES_EXPORTER"}

# Between roots, each of which begins with a slash or a scheme; URLs have colons of their own.
_SEPARATOR = re.compile(rf"{os.pathsep}(?=/(?!/)|(?:{'|'.join(SCHEMES)})://|{os.pathsep}|$)")

# What a type alone does not say.
_READERS: dict[str, Callable[[str], Any]] = {
    "broker_url": lambda text: check_broker_url(text, "CELERIAC_BROKER_URL"),
    "models_path": lambda text: manifest_at(Path(text)),
    "model_set": _names,
    "signing_key": _signing_keys,
    "spool": _spool,
    "data_roots": lambda text: tuple(_root(root) for root in _SEPARATOR.split(text) if root),
    "output_roots": lambda text: tuple(_root(root) for root in _SEPARATOR.split(text) if root),
    "cache": _absolute,
    "pin_cores": _flag,
    "trace_exporters": _exporters,
    "metrics_host": str,
}
