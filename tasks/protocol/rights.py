"""What each kind of login has to be allowed in Redis, and nothing more: commands, keys and channels.

Role, database --rules--> the words of `ACL SETUSER`; --tries--> commands that show whether all of it is allowed
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tasks.protocol import keys
from worker_config.broker import KEY_PREFIX

_KEY = keys.PROBE
# Of every connection: it says who it is, chooses its database, and asks for a sign of life after a pause.
_LOGIN = "hello ping select"
_READS = "hget hgetall lrange pttl smembers zrange"
# Celery's, to send a message and to bind its queue.
_PUBLISHES = "exec lpush multi sadd smembers"
# Celery's, to ask all workers and take their answers. Whoever takes messages also gives back those of workers that are
# gone (`restore_visible`), under a lock, and deletes bindings of those that asked before.
_ASKS = """
    brpop del evalsha exists get hdel hget psubscribe publish punsubscribe script|exists script|load set srem time
    unwatch watch zadd zrange zrangebyscore zrem
"""

# Arguments with which a command can be tried; of most it is the key alone.
_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "blmove": (_KEY, _KEY, "LEFT", "RIGHT", "1"),
    "blpop": (_KEY, "1"),
    "brpop": (_KEY, "1"),
    "client|id": (),
    "client|unblock": ("0",),
    "eval": ("return 0", "1", _KEY),
    "evalsha": ("0", "1", _KEY),
    "exec": (),
    "expire": (_KEY, "1"),
    "expireat": (_KEY, "1"),
    "hdel": (_KEY, "f"),
    "hello": (),
    "hexists": (_KEY, "f"),
    "hget": (_KEY, "f"),
    "hincrby": (_KEY, "f", "1"),
    "hmget": (_KEY, "f"),
    "hset": (_KEY, "f", "v"),
    "hsetnx": (_KEY, "f", "v"),
    "hstrlen": (_KEY, "f"),
    "info": (),
    "lindex": (_KEY, "0"),
    "lmove": (_KEY, _KEY, "LEFT", "RIGHT"),
    "lpush": (_KEY, "v"),
    "lrem": (_KEY, "1", "v"),
    "lrange": (_KEY, "0", "0"),
    "ltrim": (_KEY, "0", "0"),
    "multi": (),
    "ping": (),
    "pubsub|numsub": (),
    "punsubscribe": (),
    "rename": (_KEY, _KEY),
    "rpush": (_KEY, "v"),
    "sadd": (_KEY, "v"),
    "scan": ("0",),
    "script|exists": ("0",),
    "script|load": ("return 0",),
    "select": ("0",),
    "set": (_KEY, "v"),
    "srem": (_KEY, "v"),
    "time": (),
    "unwatch": (),
    "zadd": (_KEY, "0", "v"),
    "zrange": (_KEY, "0", "0"),
    "zrangebyscore": (_KEY, "0", "0"),
    "zrem": (_KEY, "v"),
    "zremrangebyscore": (_KEY, "0", "0"),
}
# Redis runs them at once also within a transaction: they are tried before it begins.
_OUTSIDE = ("exec", "watch")


@dataclass(frozen=True)
class Role:
    """A kind of login.

    Attributes:
        does: who logs in so, in a line.
        commands: by their names in Redis, subcommands as `script|load`.
        sends, hears: the channels, as patterns, on which it publishes, and which it subscribes to.
    """

    name: str
    does: str
    commands: frozenset[str]
    sends: tuple[str, ...] = ()
    hears: tuple[str, ...] = ()

    def rules(self, database: int) -> list[str]:
        """The rules of `ACL SETUSER`, but for the password, of a login that may do this in a database."""
        patterns = dict.fromkeys(_channel(one, database) for one in (*self.sends, *self.hears))
        commands = (f"+{name}" for name in sorted(self.commands))
        return [f"~{KEY_PREFIX}*", "resetchannels", *(f"&{one}" for one in patterns), "-@all", *commands]

    def tries(self, database: int) -> Iterator[tuple[bool, tuple[str, ...]]]:
        """Commands, and whether to send them before a transaction begins; nothing is done if that is not executed.

        Who only reads has none.
        """
        only_reads = "multi" not in self.commands
        for name in sorted(self.commands - {"hello", "multi", "publish", "psubscribe", "subscribe"}):
            yield only_reads or name in _OUTSIDE, (*name.upper().split("|"), *_ARGUMENTS.get(name, (_KEY,)))
        for one in self.sends:
            yield False, ("PUBLISH", _channel(one, database), "")
        for one in self.hears:
            yield False, ("SUBSCRIBE" if "subscribe" in self.commands else "PSUBSCRIBE", _channel(one, database))


def _channel(name: str, database: int) -> str:
    """A channel as Celery names it. A subscription has to be allowed word for word, so that no pattern will do."""
    return f"{KEY_PREFIX}/{database}.{name}"


# Celery's: commands to all workers; what these tell of themselves and of their tasks, by its kind.
_CONTROL, _EVENTS = "celery.pidbox", "celeryev/*"
# Ours: answers to requests (`tasks/protocol/requests.py`).
_ANSWERS = "answers.*"


def _commands(*names: str) -> frozenset[str]:
    return frozenset(" ".join(names).split())


WORKER = Role(
    "worker",
    "`celeriac worker`, `celery -A tasks worker`, and `celeriac doctor` beside them",
    _commands(
        _LOGIN,
        _PUBLISHES,
        _ASKS,
        "eval expire expireat hexists hgetall hincrby hkeys hlen hmget hset hsetnx info llen lmove ltrim persist",
        "rename rpush unlink zremrangebyscore",
        "blmove client|id client|unblock lindex lpop lrange lrem pubsub|numsub",
    ),
    sends=(_CONTROL, _EVENTS, _ANSWERS),
    hears=(_CONTROL, "celeryev/worker.*"),
)
PRODUCER = Role(
    "producer",
    "Python, `celeriac predict`, `fetch`, `cancel`, `priority`, `watch` of detached jobs, and all that a watcher does",
    _commands(
        _LOGIN,
        _READS,
        "blpop del eval evalsha exec expire expireat getdel hdel hincrby hkeys hmget hset hsetnx hstrlen info llen",
        "lmove lpop lpush lrem multi persist rename rpush scan script|load set srem subscribe time unlink zadd zrem",
        "zremrangebyscore",
    ),
    hears=(_ANSWERS,),
)
WATCHER = Role(
    "watcher",
    "`celeriac jobs`, `status`, `failures`, `report`, `models`, `doctor`, `dashboard`, `watch` of attached jobs; "
    "changes nothing",
    _commands(_LOGIN, _READS, "info time"),
)
OPERATOR = Role(
    "operator",
    "Flower, `celery -A tasks inspect`, `control` and `events`",
    _commands(_LOGIN, _PUBLISHES, _ASKS, "llen"),
    sends=(_CONTROL,),
    hears=(_EVENTS,),
)
ROLES = (WORKER, PRODUCER, WATCHER, OPERATOR)
