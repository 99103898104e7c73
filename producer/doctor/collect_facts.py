"""Redis, folders, packages --> the facts that are judged elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any, cast

import redis

from producer.doctor import broker
from producer.doctor.broker import BrokerFacts
from producer.doctor.folders import FolderFacts
from producer.doctor.rights import RightsFacts
from producer.doctor.workers import WorkerState, short_names
from tasks.protocol.records import WorkerFacts
from tasks.protocol.rights import ROLES
from tasks.transport import spool
from tasks.transport.connection import broker_errors, connect
from tasks.transport.rights import missing_rules
from tasks.transport.worker_registry import clock_ahead_of, read_records
from worker_config.broker import address_of, redacted
from worker_config.environment import check_no_shadow
from worker_config.errors import CeleriacError, ConfigError
from worker_config.object_urls import is_url
from worker_config.settings import Settings

_SERVER_SECONDS = 10.0


def read_settings(environ: Mapping[str, str]) -> tuple[Settings, list[CeleriacError]]:
    """The settings, without those that cannot be read, and what is wrong with these."""
    good, errors = dict(environ), list[CeleriacError]()
    for name, value in environ.items():
        if name.startswith("CELERIAC_"):
            try:
                Settings.from_env({name: value})
            except ConfigError as error:
                errors.append(error)
                del good[name]
    return Settings.from_env(good), errors


def ask_broker(url: str) -> tuple[BrokerFacts, list[WorkerState]]:
    """What Redis says of itself, and the workers that it knows; BrokerError where it cannot be reached."""
    with broker_errors(url), connect(url, retries=0) as client:
        client.ping()  # the first one connects
        asked = time.time()
        its_time = cast("tuple[int, int]", client.time())
        answered = time.time()
        info = cast("dict[str, Any]", client.info())
        ahead = clock_ahead_of(its_time, asked, answered)
        facts = broker.read(str(redacted(url)), info, _save(client), answered - asked, ahead)
        records = read_records(client)
    names = short_names(records)
    states = [
        WorkerState(
            names[worker],
            record.slots,
            record.facts if record.facts != WorkerFacts() else None,
            None if record.slots else record.preparing,  # else the other children follow
        )
        for worker, record in records.items()
    ]
    return facts, states


def ask_rights(url: str) -> RightsFacts:
    """What the login of this URL may not do; BrokerError where Redis cannot be reached."""
    address = address_of(url)
    with broker_errors(url), connect(url, retries=0) as client:
        missing = {role.name: missing_rules(client, role, address.database) for role in ROLES}
    return RightsFacts(address.username or "default", address.database, missing)


def _save(client: redis.Redis) -> str | None:
    """When it saves all; hosted ones do not tell."""
    try:
        return cast("dict[str, str]", client.config_get("save")).get("save")
    except redis.ResponseError:
        return None


def look_at(folder: Path) -> FolderFacts:
    """A folder here, or the nearest one above it that exists, where it would be made."""
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    writable = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    return FolderFacts(folder, folder.is_dir(), writable, shutil.disk_usage(nearest).free)


def look_at_spool(place: spool.Place) -> FolderFacts:
    """A folder, or a prefix of URLs, where something is written and deleted again to see whether that can be."""
    if isinstance(place, Path):
        return look_at(place)
    try:
        mark = spool.make_mark(place)
    except CeleriacError as error:
        return FolderFacts(place, writable=False, why=str(error))
    spool.remove_mark(place, mark)
    return FolderFacts(place)


def temporary_folder() -> FolderFacts:
    """Where temporary files go; `tempfile` tries them out itself."""
    try:
        return look_at(Path(tempfile.gettempdir()))
    except FileNotFoundError:
        return FolderFacts(Path(os.environ.get("TMPDIR") or "/tmp"), writable=False)  # noqa: S108 - only told


def marks_seen(folder: spool.Place | None, workers: list[WorkerState]) -> dict[str, bool | None]:
    """For each worker whether its spool mark is in this place; None where it has none."""
    seen: dict[str, bool | None] = {}
    for worker in workers:
        marks = {slot.spool_mark for slot in worker.slots if slot.spool_mark}
        here = folder is not None and all(spool.has_mark(folder, mark) for mark in marks)
        seen[worker.name] = here if marks else None
    return seen


def roots_here(workers: list[WorkerState]) -> set[str]:
    """The workers' data roots that are folders on this machine too, or URLs, which are the same everywhere."""
    roots = {root for worker in workers for slot in worker.slots for root in slot.data_roots}
    return {root for root in roots if is_url(root) or Path(root).is_dir()}


def stray_module(folder: Path) -> CeleriacError | None:
    """What hides our packages there."""
    try:
        check_no_shadow(folder)
    except ConfigError as error:
        return error
    return None


def server_version(path: str) -> str:
    """The version that a Redis server on this machine tells; empty where it tells none."""
    try:
        command = [path, "--version"]
        output = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SERVER_SECONDS).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    # Redis server v=7.2.4 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64
    return next((word.removeprefix("v=") for word in output.split() if word.startswith("v=")), "")


def requirements() -> list[str]:
    """What our own package requires."""
    try:
        return requires("celeriac") or []
    except PackageNotFoundError:
        return []
