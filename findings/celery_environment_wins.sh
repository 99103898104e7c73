#!/usr/bin/env bash
# Celery: `CELERY_BROKER_URL` in the environment wins over the broker that the code names.
#
# Versions: celery 5.7.0, kombu 5.7.0.
#
# An environment variable is usually a default that code overrides. Here it is the other way round, for
# `app.conf.broker_url` that is set, `app.conf.update`, `config_from_object`, and the argument of `Celery(broker=...)`:
# all are read back as the variable's value, no error tells, and tasks go to the other broker. `CELERY_RESULT_BACKEND`
# does the same. What the variable does not reach are `broker_read_url` and `broker_write_url`, which have variables of
# their own.
#
# Seen:
#   Celery(broker=...)    memory://environment
#   conf.broker_url       memory://environment
#   conf.update           memory://environment
#   config_from_object    memory://environment
#   conf.result_backend   cache+memory://
#   conf.broker_write_url memory://code
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --no-compile celery==5.7.0 kombu==5.7.0

unset CELERY_BROKER_READ_URL CELERY_BROKER_WRITE_URL CELERY_CONFIG_MODULE
export CELERY_BROKER_URL=memory://environment CELERY_RESULT_BACKEND=cache+memory://
venv/bin/python - <<'PYTHON'
import sys

from celery import Celery

CODE = "memory://code"


def as_argument():
    return Celery(broker=CODE).conf.broker_url


def as_attribute():
    app = Celery()
    app.conf.broker_url = CODE
    return app.conf.broker_url


def by_update():
    app = Celery()
    app.conf.update(broker_url=CODE)
    return app.conf.broker_url


def from_object():
    app = Celery()
    app.config_from_object({"broker_url": CODE})
    return app.conf.broker_url


def backend():
    app = Celery()
    app.conf.result_backend = "rpc://"
    return app.conf.result_backend


def write_url():
    app = Celery()
    app.conf.broker_write_url = CODE
    return app.conf.broker_write_url


ways = {
    "Celery(broker=...)": as_argument,
    "conf.broker_url": as_attribute,
    "conf.update": by_update,
    "config_from_object": from_object,
    "conf.result_backend": backend,
    "conf.broker_write_url": write_url,
}
seen = [way() for way in ways.values()]
for name, url in zip(ways, seen):
    print(f"{name:<21} {url}")
if seen != ["memory://environment"] * 4 + ["cache+memory://", CODE]:
    sys.exit("changed: the environment won over the code in all but broker_write_url")
PYTHON
