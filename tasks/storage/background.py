"""What waits for a store --done by threads of this process, a few at once--> a future of its result, or its end."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from tasks.storage.objects import ObjectStamp, read_range
from worker_config.object_urls import ObjectUrl

T = TypeVar("T")

# Requests at once.
_THREADS = 8

_waiting: SimpleQueue[tuple[Future[memoryview], Callable[[], memoryview]]] = SimpleQueue()
_threads: list[threading.Thread] = []


def _begin_anew() -> None:
    """Threads do not live on in a fork, which begins those that it needs."""
    global _waiting
    _waiting = SimpleQueue()
    _threads.clear()


os.register_at_fork(after_in_child=_begin_anew)


def begin(task: Callable[[], T]) -> Future[T]:
    """Have a task done by a thread of its own; the result raises what it does."""
    future: Future[T] = Future()
    _start(_do, future, task)
    return future


def at_once(tasks: Iterable[Callable[[], object]]) -> None:
    """Have tasks done, a few at once; raises what one of them did, when none is done any more."""
    with ThreadPoolExecutor(_THREADS, "at-once") as pool:
        futures = [pool.submit(task) for task in tasks]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def fetch(url: ObjectUrl, stamp: ObjectStamp, start: int, stop: int) -> Future[memoryview]:
    """Begin to read the bytes `[start, stop)` of an object; see `read_range`."""
    future: Future[memoryview] = Future()
    _waiting.put((future, partial(read_range, url, stamp, start, stop)))
    if len(_threads) < _THREADS:
        _threads.append(_start(_work))
    return future


def _start(target: Callable[..., None], *args: Any) -> threading.Thread:
    # Daemons: a child that ends waits for no store.
    thread = threading.Thread(target=target, args=args, name="read-ahead", daemon=True)
    thread.start()
    return thread


def _work() -> None:
    while True:
        _do(*_waiting.get())


def _do(future: Future[T], task: Callable[[], T]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(task())
        except BaseException as error:
            future.set_exception(error)
