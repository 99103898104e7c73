"""The form of a worker's log: one line for each event, with the chunk and job that it is about.

    record of Celery, of ours, of a user's function --place--> text, or an object of JSON
    what is told before Celery has a log            --say----> the same, on stderr

Only what Celery has set up is changed: who connects `celery.signals.setup_logging` has all of the log.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Literal

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import current_task, signals
from celery.app import trace
from celery.utils.log import ColorFormatter, get_multiprocessing_logger

from worker_config.errors import ExitCode

# How a `ChunkMessage` is told, in Celery's own lines too.
_IN_WORDS = re.compile(r"\bchunk (\d+)/\S+ rows \S+ of job (\w+)")
_TEXT = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"
_FIELDS = {"levelname": "level", "name": "logger", "processName": "process", "message": "message"}

_about: ContextVar[str] = ContextVar("about", default="")


class _SaidFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"celeriac: {record.msg}" if record.levelno >= logging.ERROR else str(record.msg)


# Of the process itself: Celery redirects sys.stderr to its log.
_stderr = logging.StreamHandler(sys.__stderr__)
_stderr.setFormatter(_SaidFormatter())


def set_up(log_format: Literal["text", "json"]) -> None:
    """Give the log of a worker, if this process becomes one, this form."""

    def on_celeryd_init(instance: Any, **_: object) -> None:
        # Celery's own says the task's id alone.
        trace.LOG_RECEIVED = "Task %(name)s[%(id)s] received: %(args)s"
        form = partial(_form, _set_up_json(instance) if log_format == "json" else None)
        signals.after_setup_logger.connect(form, weak=False)
        signals.after_setup_task_logger.connect(form, weak=False)

    signals.celeryd_init.connect(on_celeryd_init, weak=False)


def _set_up_json(instance: Any) -> logging.Formatter:
    if importlib.util.find_spec("pythonjsonlogger") is None:
        say("logs in JSON need python-json-logger: pip install 'celeriac[worker]'", logging.CRITICAL)
        raise SystemExit(int(ExitCode.USAGE))
    formatter = _json_formatter()
    _stderr.setFormatter(formatter)
    instance.quiet = True  # no banner
    if not signals.setup_logging.receivers:
        # Celery warns, of root for example, before it sets up its log, which then takes this one's place.
        logging.getLogger().addHandler(_stderr)
        logging.captureWarnings(True)
    return formatter


def say(text: str, level: int = logging.INFO) -> None:
    """Tell the person who started the worker, whatever the log's level is."""
    attributes = {"name": "celeriac", "levelno": level, "levelname": logging.getLevelName(level), "msg": text}
    _stderr.handle(logging.makeLogRecord(attributes))


@contextmanager
def about(chunk: str) -> Iterator[None]:
    """What the main process logs in this block is about this chunk, which runs in none of its processes any more."""
    before = _about.set(chunk)
    try:
        yield
    finally:
        _about.reset(before)


def place_of(record: logging.LogRecord) -> tuple[str, int] | None:
    """The job and chunk that a record is about: those it names, of this block, or that run here."""
    texts = [record.getMessage()]
    if isinstance(record.args, dict):  # Celery's
        texts.append(str(record.args.get("args")))
    texts.append(_about.get())
    if current_task:
        texts.append(str(current_task.request.argsrepr))
    found = next(filter(None, map(_IN_WORDS.search, texts)), None)
    return (found[2], int(found[1])) if found else None


def _form(json: logging.Formatter | None, logger: logging.Logger, colorize: bool, **_: object) -> None:
    # Celery's pool has a log of its own.
    for handler in [*logger.handlers, *get_multiprocessing_logger().handlers]:
        if isinstance(handler.formatter, ColorFormatter):  # that of Celery's own handlers
            handler.setFormatter(json or _TextFormatter(_TEXT, use_color=colorize))


class _TextFormatter(ColorFormatter):  # type: ignore[misc]
    """One line; only an exception has those of its traceback besides."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        record.message = " ".join(line.strip() for line in record.message.strip().splitlines())
        place = place_of(record)
        if place and not _IN_WORDS.search(record.message):
            record.message += f" (chunk {place[1]} of job {place[0]})"
        return str(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        # That a child was killed is told by the line; the traceback is that of Celery's own looking.
        return "" if ei and isinstance(ei[1], WorkerLostError | TimeLimitExceeded) else str(super().formatException(ei))


def _json_formatter() -> logging.Formatter:
    # An extra of workers.
    from pythonjsonlogger.core import RESERVED_ATTRS
    from pythonjsonlogger.json import JsonFormatter

    class WithPlace(JsonFormatter):
        def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: Any) -> None:
            super().add_fields(log_data, record, message_dict)
            if place := place_of(record):
                log_data["job"], log_data["chunk"] = place

    # `data` is Celery's, and all of it in the message.
    reserved = [*RESERVED_ATTRS, "data"]
    return WithPlace(
        list(_FIELDS), rename_fields={**_FIELDS, "exc_info": "exception"}, timestamp="time", reserved_attrs=reserved
    )
