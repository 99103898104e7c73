"""Payloads as objects beneath a URL that producer and workers share: JOB/NAME, and marks of workers.

What is deleted is not waited for: what stays is found by who removes all that a job has left, or old jobs.
"""

from __future__ import annotations

import logging
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence

from tasks.storage.objects import delete, list_objects, put, read_range, stat
from worker_config.errors import InputError, ObjectError, PayloadError
from worker_config.object_urls import ObjectUrl

logger = logging.getLogger(__name__)

# Names that we give; whatever else lies beneath the URL is not ours to delete.
_OURS = re.compile(r"([0-9a-f]{12})/[a-z0-9-]{1,60}")
# What nobody may have us take memory for: no payload of ours is larger.
_MOST_BYTES = 2 * 2**30


def write(place: ObjectUrl, name: str, parts: Iterable[bytes | bytearray | memoryview]) -> None:
    """Store a payload, whole or not at all.

    Raises:
        ObjectError: see `put`.
    """
    put(_beneath(place, name), b"".join(parts))


def read(place: ObjectUrl, name: str) -> memoryview:
    """A payload.

    Raises:
        PayloadError: it is not there, or cannot be read.
    """
    url = _beneath(place, name)
    try:
        stamp = stat(url)
        if stamp.size > _MOST_BYTES:
            raise PayloadError(f"the payload {url} has {stamp.size:,} bytes, which none of ours has")
        return read_range(url, stamp, 0, stamp.size)
    except InputError as error:
        raise PayloadError(f"the payload cannot be read: {error}") from None


def forget(place: ObjectUrl, names: Iterable[str]) -> None:
    """Delete payloads."""
    _delete(place, [_beneath(place, name) for name in names])


def forget_job(place: ObjectUrl, job: str) -> None:
    """Delete whatever a job has left."""
    try:
        found = [url for url, _ in list_objects(_beneath(place, job))]
    except InputError as error:
        logger.warning("what job %s has left beneath %s is not deleted: %s", job, place, error)
        return
    _delete(place, found)


def forget_old_jobs(place: ObjectUrl, ttl_seconds: float) -> None:
    """Delete what producers that were killed have left: of jobs that have written nothing for so long."""
    jobs: dict[str, list[ObjectUrl]] = defaultdict(list)
    newest: dict[str, float] = defaultdict(float)
    try:
        for url, stamp in list_objects(place):
            if ours := _OURS.fullmatch(url.key.removeprefix(f"{place.key}/")):
                jobs[ours[1]].append(url)
                newest[ours[1]] = max(newest[ours[1]], stamp.mtime_ns / 1e9)
    except InputError as error:
        logger.warning("old payloads beneath %s are not looked for: %s", place, error)
        return
    for job, urls in jobs.items():
        if time.time() - newest[job] > ttl_seconds:
            _delete(place, urls)


def is_there(place: ObjectUrl, name: str) -> bool:
    """Whether there is such an object, as far as this process may see it."""
    try:
        stat(_beneath(place, name))
    except ObjectError:
        return False
    return True


def _delete(place: ObjectUrl, urls: Sequence[ObjectUrl]) -> None:
    try:
        delete(urls, waits=False)
    except ObjectError as error:
        logger.warning("%d payloads beneath %s are not deleted: %s", len(urls), place, error)


def _beneath(place: ObjectUrl, name: str) -> ObjectUrl:
    return ObjectUrl(place.scheme, place.bucket, f"{place.key}/{name}" if place.key else name)
