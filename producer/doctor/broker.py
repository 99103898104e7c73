"""The Redis server: its version, what it keeps, what it throws away, and its room.

INFO, CONFIG GET save, TIME --read--> BrokerFacts --check_broker--> findings
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from packaging.version import InvalidVersion, Version

from producer.broker.broker_channel import USABLE_SHARE
from producer.doctor.findings import MIB, Finding, error, mib, ok, warning
from worker_config.errors import BrokerError, ExitCode

LEAST_VERSION = "6.2"
# With less room than this, chunks wait for each other.
LEAST_ROOM_BYTES = 16 * MIB


@dataclass(frozen=True)
class BrokerFacts:
    """A server that answered.

    Attributes:
        address: its URL, without a password.
        name: "Redis" or "Valkey".
        version: of the server itself.
        compatible: the version of Redis that it stands for; its own, if it is one.
        answers_in: seconds of one question.
        role: as `INFO` tells it: "master" or "slave".
        appends: whether every change is written to a file.
        saves: whether all is written to a file now and then; None where it does not tell.
        refuses_writes: whether it could not do that the last time.
        policy: what it does when its memory is full.
        max_memory: in bytes; 0 is without limit.
        used_memory: in bytes.
        clock_ahead: seconds by which this machine's clock is ahead of its own.
    """

    address: str
    name: str = "Redis"
    version: str = ""
    compatible: str = ""
    answers_in: float = 0.0
    role: str = "master"
    appends: bool = False
    saves: bool | None = None
    refuses_writes: bool = False
    policy: str = "noeviction"
    max_memory: int = 0
    used_memory: int = 0
    clock_ahead: float = 0.0


def read(address: str, info: Mapping[str, Any], save: str | None, answers_in: float, clock_ahead: float) -> BrokerFacts:
    """The facts in what a server says; `save` is its setting of that name, None where it does not tell."""
    valkey = info.get("valkey_version")
    return BrokerFacts(
        address=address,
        name="Valkey" if valkey else "Redis",
        version=str(valkey or info.get("redis_version", "")),
        compatible=str(info.get("redis_version", "")),
        answers_in=answers_in,
        role=str(info.get("role", "master")),
        appends=bool(info.get("aof_enabled")),
        saves=None if save is None else bool(save),
        refuses_writes=info.get("rdb_last_bgsave_status") == "err" or info.get("aof_last_write_status") == "err",
        policy=str(info.get("maxmemory_policy", "noeviction")),
        max_memory=int(info.get("maxmemory", 0)),
        used_memory=int(info.get("used_memory", 0)),
        clock_ahead=clock_ahead,
    )


def is_too_old(version: str) -> bool | None:
    """Whether a server of this version lacks what we need; None where this is no version."""
    try:
        return Version(version) < Version(LEAST_VERSION)
    except InvalidVersion:
        return None


def check_broker(facts: BrokerFacts) -> list[Finding]:
    """All that is to be said of a server that answered, but for its clock."""
    return [_reached(facts), _version(facts), _persistence(facts), _eviction(facts), _memory(facts)]


def is_away(cause: BrokerError) -> Finding:
    """Of a shard, while others are up."""
    found = f"{cause} Jobs go on without this shard; those that are left with it wait for it"
    return warning("broker", found, "start it again")


def _reached(facts: BrokerFacts) -> Finding:
    if facts.role != "master":
        found = f"{facts.name} at {facts.address} is a replica, which takes no chunks"
        return error("broker", found, "give the URL of its master", ExitCode.BROKER)
    return ok("broker", f"{facts.name} at {facts.address} answers in {1_000 * facts.answers_in:.1f} ms")


def _version(facts: BrokerFacts) -> Finding:
    old = is_too_old(facts.compatible)
    if old is None:
        found = f"{facts.name} does not tell its version"
        return warning("redis", found, f"make sure that it is as good as Redis {LEAST_VERSION}")
    if old:
        found = f"{facts.name} {facts.version} is too old"
        return error("redis", found, f"install Redis {LEAST_VERSION} or newer, or Valkey", ExitCode.BROKER)
    return ok("redis", f"{facts.name} {facts.version}")


def _persistence(facts: BrokerFacts) -> Finding:
    if facts.refuses_writes:
        found = f"{facts.name} could not write its data to its disk, and may refuse to take more"
        return warning("persistence", found, "look at its log and make room on that disk")
    if facts.appends:
        return ok("persistence", "appendonly: a restart loses at most the last second")
    advice = "set appendonly to yes if you detach jobs; attached ones send again what is lost"
    if facts.saves is None:
        return warning("persistence", "no appendonly, and it does not tell whether it saves now and then", advice)
    if facts.saves:
        found = "saves now and then: a restart loses what detached jobs have done since the last time"
        return warning("persistence", found, advice)
    return warning("persistence", "none: detached jobs are lost when it restarts", advice)


def _eviction(facts: BrokerFacts) -> Finding:
    if facts.policy == "noeviction":
        return ok("eviction", "noeviction")
    advice = "set maxmemory-policy to noeviction"
    if not facts.max_memory:
        found = f"{facts.policy}: nothing is thrown away as long as maxmemory is not set"
        return warning("eviction", found, advice)
    found = f"{facts.policy}: when its memory is full, {facts.name} throws away rows and jobs that are not done"
    return error("eviction", found, advice, ExitCode.BROKER)


def _memory(facts: BrokerFacts) -> Finding:
    used, limit = facts.used_memory, facts.max_memory
    if not limit:
        return ok("memory", f"{mib(used)} used, without limit")
    found = f"{mib(used)} used of {mib(limit)} (maxmemory)"
    if used >= limit:
        found = f"full: {found}"
        return error("memory", found, "raise maxmemory, or wait until others have gone", ExitCode.BROKER)
    room = USABLE_SHARE * limit - used
    if room < LEAST_ROOM_BYTES:
        found = f"{found}, of which jobs fill three quarters: {mib(max(0.0, room))} are left"
        return warning("memory", found, "raise maxmemory: chunks will wait for each other")
    return ok("memory", found)
