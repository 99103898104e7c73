"""Finds out what a login may not do, without doing anything.

Role --tries, in a transaction that is never executed--> the rules of `ACL SETUSER` that are missing

Redis looks at a user's rights when it takes a command into a transaction. Its own `ACL DRYRUN` is for administrators.
"""

from __future__ import annotations

from typing import Any

import redis
from redis.exceptions import ExecAbortError, NoPermissionError

from tasks.protocol.rights import Role
from tasks.transport.connection import broker_errors, connect
from worker_config.broker import KEY_PREFIX, address_of, redacted
from worker_config.errors import BrokerError, BrokerRefusedError


def check_rights(url: str, role: Role) -> None:
    """Refuse a login that lacks a right, before anything is begun that would fail in the middle.

    Raises:
        BrokerRefusedError: it lacks some; the text says how they are given.
        BrokerError: Redis cannot be reached.
    """
    with broker_errors(url), connect(url, retries=0) as client:
        missing = missing_rules(client, role, address_of(url).database)
    if missing:
        user = address_of(url).username or "default"
        raise BrokerRefusedError(
            f"Redis at {redacted(url)} refuses user {user!r} rights of {role.name}s; have its administrator run: "
            f"ACL SETUSER {user} {' '.join(missing)}"
        )


def refuse_if_refused(url: str, role: Role) -> None:
    """Say what is wrong with a server, or with the login, where Celery would fail later and in other words.

    Raises:
        BrokerRefusedError: waiting would not help; what it would is left to Celery.
    """
    try:
        check_rights(url, role)
    except BrokerRefusedError:
        raise
    except BrokerError:
        return


def missing_rules(client: redis.Redis, role: Role, database: int) -> list[str]:
    """The rules that would give the login of `client` what it lacks; none where nothing is."""
    pool = client.connection_pool
    connection: Any = pool.get_connection()
    try:
        tries = list(role.tries(database))
        missing = _refused(connection, [command for is_outside, command in tries if is_outside])
        others = [command for is_outside, command in tries if not is_outside]
        if others and (begin := _refused(connection, [("MULTI",)])):
            # They would be executed; to be given what one has does no harm.
            missing += begin + [_rule_for(one) for one in others]
        else:
            missing += _refused(connection, others)
        return list(dict.fromkeys(missing))
    finally:
        connection.disconnect()  # which ends the transaction
        pool.release(connection)


def _refused(connection: Any, commands: list[tuple[str, ...]]) -> list[str]:
    connection.send_packed_command(connection.pack_commands(commands))
    rules = []
    for command in commands:
        try:
            connection.read_response()
        except (NoPermissionError, ExecAbortError) as error:  # the latter of EXEC, where it is refused
            what = str(error)
            if "run the" in what:
                rules.append(_rule_for(command))
            else:  # then it has looked at keys, and then at channels
                rules.append(f"&{command[1]}" if "channel" in what else f"~{KEY_PREFIX}*")
        except redis.ResponseError:
            continue  # as of EXEC without a transaction: it may
    return rules


def _rule_for(command: tuple[str, ...]) -> str:
    has_subcommand = command[0] in ("CLIENT", "PUBSUB", "SCRIPT")
    return f"+{'|'.join(command[: 1 + has_subcommand]).lower()}"
