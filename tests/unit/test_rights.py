"""The lists of rights: those of the page about Redis, and the arguments with which each can be tried."""

from __future__ import annotations

import pytest

from producer.doctor import rights
from tasks.protocol.rights import ROLES, WATCHER, Role
from tests.unit.test_documentation import REPOSITORY

# What Redis itself calls dangerous, but for INFO; and what would reach beyond our keys.
DANGEROUS = set(
    "acl bgrewriteaof bgsave client cluster config debug failover flushall flushdb keys latency migrate module monitor "
    "pfdebug pfselftest psync replconf replicaof restore restore-asking role save shutdown slaveof slowlog sort swapdb "
    "sync".split()
)


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_the_page_about_redis_has_the_line_of_each_user(role: Role) -> None:
    page = (REPOSITORY / "docs" / "redis.md").read_text(encoding="utf-8")
    assert rights.setuser(role, 0) in page.splitlines()
    assert f"| `{role.name}` | {role.does}"[:60] in page


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_no_user_may_do_what_is_dangerous(role: Role) -> None:
    assert not role.commands & DANGEROUS
    assert not any(rule.startswith("+@") or rule in ("~*", "&*", "allkeys", "allchannels") for rule in role.rules(0))


def test_a_watcher_cannot_write_and_channels_have_the_number_of_their_database() -> None:
    assert WATCHER.commands.isdisjoint(set("set hset lpush del unlink expire eval evalsha publish multi".split()))
    for role in ROLES:
        assert all(one.startswith("&celeriac:/3.") for one in role.rules(3) if one.startswith("&"))
