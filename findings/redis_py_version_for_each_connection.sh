#!/usr/bin/env bash
# redis-py: each new connection looks up the version of the installed package anew, among its files on the disk.
#
# Version: redis 8.1.0; so since 7.2.0, while 7.1.0 and earlier look it up once, at import.
#
# A connection tells the server who it is by CLIENT SETINFO, and for that has a `DriverInfo`, whose default asks
# `importlib.metadata`, which finds the folder of the package's metadata and parses its file. It is done where the
# connection object is made, before anything is sent, by the synchronous and the asynchronous classes alike, and by each
# `Redis(...)` or pool that is not given one. It took 0.4 to 0.7 ms, more than a round trip to a server on the same
# machine: who opens connections for short work pays it each time. One `driver_info=DriverInfo()` that is made once and
# given to all pools ends it; `lib_version`, which did the same before, is deprecated.
#
# Seen, of ten connections made by one pool of each kind: ten look-ups; none with a `driver_info`.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --no-compile redis==8.1.0

cat >look.py <<'PYTHON'
import importlib.metadata
import time

import redis
import redis.asyncio
from redis.driver_info import DriverInfo

looked_up = 0
version = importlib.metadata.version


def counting(package):
    global looked_up
    looked_up += 1
    return version(package)


importlib.metadata.version = counting


def of_ten(pool):
    global looked_up
    looked_up = 0
    began = time.perf_counter()
    for _ in range(10):
        pool.make_connection()
    return looked_up, (time.perf_counter() - began) / 10 * 1e3


known = DriverInfo()
found = {}
for kind in (redis, redis.asyncio):
    for given in ({}, {"driver_info": known}):
        pool = kind.ConnectionPool(host="127.0.0.1", port=1, **given)
        count, ms = of_ten(pool)
        found[kind.__name__, bool(given)] = count
        print(f"{kind.__name__}, {'one DriverInfo for all' if given else 'as it comes'}: {count} look-ups, {ms:.2f} ms each")
assert found == {
    ("redis", False): 10,
    ("redis", True): 0,
    ("redis.asyncio", False): 10,
    ("redis.asyncio", True): 0,
}, found
PYTHON
venv/bin/python look.py
