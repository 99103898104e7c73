"""Options that several commands share, and what their values mean."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click
from click.core import ParameterSource

from producer.scheduling.priority import weight_of
from worker_config.broker import check_broker_url
from worker_config.errors import ConfigError
from worker_config.manifest import NAME
from worker_config.model_paths import MANIFEST, manifest_at
from worker_config.object_urls import is_url
from worker_config.retry_policy import WORKER_TIMEOUT_SECONDS
from worker_config.settings import Settings

_Command = TypeVar("_Command", bound=Callable[..., Any] | click.Command)


class Option(Protocol):
    """What adds an option to a command."""

    def __call__(self, command: _Command, /) -> _Command:
        """The command, or the function that becomes one."""


# What a usual Prometheus takes from one time to the next.
LINGER_SECONDS = 15.0


class PathOrUrl(click.Path):
    """A path, or the URL of an object as it was given."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A `Path`, or a str where it is a URL."""
        return value if is_url(value) else super().convert(value, param, ctx)


def is_on_command_line(context: click.Context, name: str) -> bool:
    """Whether a parameter was given there, which goes before variables."""
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _check_broker(context: click.Context, option: click.Parameter, url: str | None) -> str | None:
    """An error names where the URL came from: the option or the variable."""
    from_variable = context.get_parameter_source(str(option.name)) is ParameterSource.ENVIRONMENT
    return check_broker_url(url, "CELERIAC_BROKER_URL" if from_variable else "--broker") if url else None


def _require_broker(context: click.Context, option: click.Parameter, url: str | None) -> str:
    if checked := _check_broker(context, option, url):
        return checked
    raise ConfigError("no broker; give --broker or set CELERIAC_BROKER_URL, for example to redis://HOST:6379/0")


def _read_max_failed(_: click.Context, __: click.Parameter, text: str | None) -> int | str | None:
    if text is None or text.isdecimal():
        return text if text is None else int(text)
    share = re.fullmatch(r"(\d+(?:\.\d+)?)%", text)
    if share is None or float(share[1]) > 100:
        raise click.BadParameter(f"{text!r} is neither a number of rows nor a share of them, such as 5%")
    return text


def _read_priority(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
    return None if text is None else weight_of(text)


def _serve_metrics(context: click.Context, _: click.Parameter, port: int | None) -> None:
    """Until the command ends; so few commands are long enough to be asked for their last numbers otherwise."""
    if port:
        from producer.job.prometheus import serve_metrics

        host = Settings.from_env().metrics_host
        context.with_resource(serve_metrics(port, host, linger_seconds=LINGER_SECONDS))


on_error_option: Option = click.option(
    "--on-error",
    type=click.Choice(["raise", "skip", "fill"]),
    help="A row that fails ends the job, is left out of OUTPUT, or is marked there as `failed`, with a filler in its "
    "place: NaN, -1 (signed integers), the largest value (unsigned ones), False, empty.  [default: raise]",
)
on_nonfinite_option: Option = click.option(
    "--on-nonfinite",
    type=click.Choice(["warn", "fail", "allow"]),
    default="warn",
    show_default=True,
    help="A row with a NaN or an infinity, in what a model takes or gives, is counted and told at the end, has failed, "
    "or is counted alone.",
)
max_failed_option: Option = click.option(
    "--max-failed",
    metavar="N|P%",
    callback=_read_max_failed,
    help="With skip or fill: the job ends when more rows fail than so many, or than this share of all.",
)
priority_option: Option = click.option(
    "--priority",
    metavar="CLASS",
    callback=_read_priority,
    help="The job's share of workers, beside other jobs: interactive (16), normal (4), bulk (1), or a number.  "
    "[default: normal, or bulk with --detach]",
)
models_option: Option = click.option(
    "--models",
    "manifest",
    type=click.Path(path_type=Path),
    envvar="CELERIAC_MODELS",
    show_envvar=True,
    default=Path(MANIFEST),
    show_default=True,
    callback=lambda _, __, path: manifest_at(path),
    help="The manifest that lists the models, or a folder that has it as models.toml.",
)
model_set_option: Option = click.option(
    "--models",
    "manifest_or_names",
    metavar="PATH|NAME[,NAME...]",
    help="The manifest that lists the models; or names, to hold these of its models alone.  "
    "[env var: CELERIAC_MODELS, CELERIAC_MODEL_SET; default: models.toml, all]",
)
_broker_option = partial(
    click.option,
    "--broker",
    "broker_url",
    metavar="URL",
    envvar="CELERIAC_BROKER_URL",
    show_envvar=True,
    help="Redis, as redis://HOST:PORT/DB, rediss://..., unix:///PATH or sentinel://HOST:PORT,HOST:PORT/NAME/DB.",
)
broker_option: Option = _broker_option(callback=_check_broker)
# Of commands that cannot do without.
required_broker_option: Option = _broker_option(callback=_require_broker)
timeout_option: Option = click.option(
    "--worker-timeout-seconds",
    type=click.FloatRange(0),
    default=WORKER_TIMEOUT_SECONDS,
    show_default=True,
    help="How long to wait for a worker that holds the model; for one that prepares it, as long as it does, unless 0.",
)
metrics_port_option: Option = click.option(
    "--metrics-port",
    type=click.IntRange(1, 65535),
    expose_value=False,
    callback=_serve_metrics,
    help="Serve metrics for Prometheus at this port meanwhile; at the end, wait up to 15 s for who has asked before.",
)
json_option: Option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object as the last line of stdout."
)


def model_set_environ(manifest_or_names: str | None) -> dict[str, str]:
    """What `--models` of a worker means, as environment variables: a manifest, or names in one."""
    if not manifest_or_names:
        return {}
    path = manifest_at(Path(manifest_or_names))
    is_path = path.is_file() or os.sep in manifest_or_names or manifest_or_names.endswith(".toml")
    names = not is_path and re.fullmatch(f"{NAME}(,{NAME})*", manifest_or_names)
    return {"CELERIAC_MODEL_SET" if names else "CELERIAC_MODELS": manifest_or_names}
