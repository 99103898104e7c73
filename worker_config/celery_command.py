"""Celery's own command, `celery [-b URL] -A tasks worker`, and what our app takes from it while it is being loaded.

`-b` is the user's word for this one command, and wins over `CELERIAC_BROKER_URL` as `--broker` of `celeriac` does. Its
other options in that place would replace settings of ours, and are refused. What Celery takes from the environment in
their stead, and for each option of `celery worker` (`CELERY_WORKER_POOL` ...), does not count.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import click
from click.core import ParameterSource

from worker_config.broker import check_broker_url
from worker_config.errors import ConfigError
from worker_config.settings import Settings

_REFUSED = {"result_backend": "--result-backend", "loader": "--loader", "config": "--config"}

# Those that talk to Redis, but for the worker, which waits for it.
_ASK_REDIS = ("amqp", "call", "control", "events", "flower", "inspect", "list", "purge", "status")


def asks_redis() -> bool:
    """Whether Celery's command, which loads us, is about to."""
    context = _celery_context()
    return context is not None and context.invoked_subcommand in _ASK_REDIS


def runs_worker() -> bool:
    """Whether Celery's command, which loads us, is a worker."""
    context = _celery_context()
    return context is not None and context.invoked_subcommand == "worker"


def heed_command(settings: Settings) -> Settings:
    """The settings with what the command that loads us was told; as they are in any other process.

    Raises:
        ConfigError: an option that our app cannot follow.
    """
    context = _celery_context()
    if context is None:
        return settings
    # Subcommands, whose options are read after this, take theirs from their parent's.
    context.auto_envvar_prefix = None
    for name, option in _REFUSED.items():
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise ConfigError(f"{option} would replace settings that Celeriac relies on; leave it out")
    if context.get_parameter_source("workdir") is ParameterSource.ENVIRONMENT:
        raise ConfigError("CELERY_WORKDIR has moved Celery to another folder; unset it, or give --workdir")
    if context.get_parameter_source("broker") is ParameterSource.COMMANDLINE:
        return replace(settings, broker_url=check_broker_url(context.params["broker"], "-b/--broker"))
    return settings


def _celery_context() -> click.Context | None:
    context = click.get_current_context(silent=True)
    celery = sys.modules.get("celery.bin.celery")
    return None if context is None or celery is None or context.command is not celery.celery else context
