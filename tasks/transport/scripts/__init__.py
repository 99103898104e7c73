"""The scripts that Redis runs in one step, a Lua file each, and the one way to run them.

NAME.lua, what it includes --SHA-1--> Redis --unknown there, as after a restart--> whole text --> Redis
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis
from redis.client import Pipeline
from redis.exceptions import NoPermissionError, NoScriptError, OutOfMemoryError, ReadOnlyError

from tasks.protocol import keys

if TYPE_CHECKING:
    import redis.asyncio

# Redis 6.2 says of a script that it failed, and why in the middle of it; of rights each version does, in its words.
_CAUSES = {
    "-READONLY": ReadOnlyError,
    "-MISCONF": ReadOnlyError,
    "-NOREPLICAS": ReadOnlyError,
    "-OOM": OutOfMemoryError,
    "The user executing the script can't": NoPermissionError,
    "ACL failure in script": NoPermissionError,
}
_INCLUDE = re.compile(r"^-- include (\w+)$", re.MULTILINE)


def run(client: redis.Redis, name: str, held: Sequence[str], values: Sequence[Any] = ()) -> Any:
    """What the script gives; nothing yet where `client` is a pipeline.

    A pipeline that is sent again after a lost connection may find a Redis that has forgotten scripts, and cannot send
    one in between: it carries the whole text.
    """
    if isinstance(client, Pipeline):
        return client.eval(text_of(name), len(held), *held, *values)
    words = _hash_of(name), len(held), *held, *values
    with _causes():
        try:
            return client.evalsha(*words)
        except NoScriptError:
            client.script_load(text_of(name))
            return client.evalsha(*words)


def run_on(connection: Any, name: str, held: Sequence[str], values: Sequence[Any] = ()) -> Any:
    """The same by a connection of one's own, sent once: whoever has one knows what to do when it is lost."""
    words = "EVALSHA", _hash_of(name), len(held), *held, *values
    with _causes():
        connection.send_command(*words)
        try:
            return connection.read_response()
        except NoScriptError:
            connection.send_command("SCRIPT", "LOAD", text_of(name))
            connection.read_response()
            connection.send_command(*words)
            return connection.read_response()


async def run_async(client: redis.asyncio.Redis, name: str, held: Sequence[str], values: Sequence[Any] = ()) -> Any:
    """The same in an event loop."""
    words = _hash_of(name), len(held), *held, *values
    with _causes():
        try:
            return await client.evalsha(*words)
        except NoScriptError:
            await client.script_load(text_of(name))
            return await client.evalsha(*words)


def by_cause(error: redis.RedisError) -> redis.RedisError:
    """The error of a command; where it ran a script, of the class that what the script met has by itself."""
    kind = next((kind for sign, kind in _CAUSES.items() if sign in str(error)), None)
    return kind(str(error)) if kind else error


@contextmanager
def _causes() -> Iterator[None]:
    try:
        yield
    except redis.ResponseError as error:
        raise by_cause(error) from None


def keep_job(client: redis.Redis, job_id: str, ttl_seconds: int) -> None:
    """Let all that a job has in Redis live on for `ttl_seconds`; a job that has expired stays so.

    `celeriac:jobs` has each id by the time at which its job expires, and lives as long as the last of them.

    `client` may be a pipeline.
    """
    held = [keys.job(job_id), keys.payloads(job_id), keys.answers(job_id), keys.unproven(job_id)]
    run(client, "keep_job", [keys.JOBS, *held], [job_id, ttl_seconds])


@cache
def text_of(name: str) -> str:
    """The script, with those that it includes in their places."""
    text = Path(__file__).with_name(f"{name}.lua").read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda line: text_of(line[1]), text)


@cache
def _hash_of(name: str) -> str:
    """By which Redis knows it; made once, as it costs as much as all the rest of a call."""
    return hashlib.sha1(text_of(name).encode(), usedforsecurity=False).hexdigest()
