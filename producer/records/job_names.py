"""Names of jobs, by which each is done once, however often and wherever somebody tries.

detached   name --bind--> id of the one job that has it, as long as that is kept --find_named--> id
attached   name --claim--> the one producer that runs it, while it says so --ended--> how it ended, for those that wait

Beside the name stands what its job does, as its caller tells it, so that nobody takes one job for another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import msgspec
import redis

from tasks.protocol import keys
from tasks.protocol.keys import JobField
from tasks.protocol.messages import from_json
from tasks.transport import scripts
from tasks.transport.connection import broker_errors, connect
from worker_config.broker import shard_urls
from worker_config.errors import ExitCode, UsageError

# A producer says so often that it has a name; one that has not for so long has it no more.
CLAIM_SECONDS = 15
RENEW_SECONDS = 3.0

Work = Mapping[str, Any]


class Ended(msgspec.Struct, frozen=True):
    """How a producer's job ended: who ran it, the command's exit code, the error, and the summary as JSON."""

    owner: str
    exit_code: ExitCode
    error: str = ""
    summary: str = ""


class Named(NamedTuple):
    """What is known of a name: the job's id, what it does, who has claimed it last, and how that ended."""

    job: str
    work: Work
    owner: str
    ended: Ended | None


def url_of_names(broker_url: str) -> str:
    """The URL of the server that keeps names: the first of several, so that one alone decides who has a name."""
    return shard_urls(broker_url)[0]


def read(client: redis.Redis, name: str) -> Named:
    """What is known of a name; all is empty where that is nothing.

    Raises:
        MessageError: it is damaged.
    """
    job, work, owner, ended = cast(
        "list[bytes | None]", client.hmget(keys.named(name), ["job", "work", "owner", "ended"])
    )
    return Named(
        (job or b"").decode(),
        from_json(work, dict[str, Any]) if work else {},
        (owner or b"").decode(),
        from_json(ended, Ended) if ended else None,
    )


def job_of(client: redis.Redis, name: str) -> str:
    """The id of the job that has this name, or had it last; empty where nobody knows one."""
    return cast("bytes", client.hget(keys.named(name), "job") or b"").decode()


def claim(client: redis.Redis, name: str, owner: str, seconds: int, keep_seconds: int, **fields: str) -> str:
    """Claim a name for some seconds, or longer, or for none to give it back; who has it now, this owner if it could."""
    words = [word for pair in fields.items() for word in pair]
    has_it = scripts.run(client, "claim_name", [keys.named(name)], [owner, seconds, keep_seconds, *words])
    return cast("bytes", has_it).decode()


def bind(client: redis.Redis, name: str, job_id: str, work: Work, ttl_seconds: int) -> str:
    """Give a detached job this name, unless one that is there, and did not end badly, has it; the id that has it now.

    Raises:
        UsageError: a producer runs a job of this name.
    """
    values = [keys.job(""), job_id, msgspec.json.encode(work), ttl_seconds]
    known = cast("bytes | None", scripts.run(client, "bind_name", [keys.named(name)], values))
    if known is None:
        raise UsageError(
            f"the job {name!r} is run by {read(client, name).owner}; wait for its end, or choose another name"
        )
    return known.decode()


def find_named(broker_url: str, name: str) -> str | None:
    """The id of the detached job that has this name, which it then keeps for longer; None where there is none any more.

    Raises:
        BrokerError: Redis cannot be reached.
    """
    url = url_of_names(broker_url)
    with broker_errors(url), connect(url) as client:
        found = cast("bytes | None", client.hget(keys.named(name), "job"))
        ttl_seconds = found and client.hget(keys.job(found.decode()), JobField.TTL)
        if not found or not ttl_seconds:
            return None
        client.expire(keys.named(name), int(ttl_seconds))
        return found.decode()
