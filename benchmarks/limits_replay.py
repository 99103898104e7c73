"""Replays what a real job had Redis do, by many raw connections, so that only Redis is busy.

a job --MONITOR--> the commands of its chunks, in order --keys of its own for each connection--> Redis, again and again

Each connection waits for each reply, as the product's do. A pop that waits becomes one that does not: what it waited
for has not been pushed yet when it is asked for, and comes in the order of the recording.
"""

from __future__ import annotations

import ast
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hiredis
import msgspec

from worker_config.broker import KEY_PREFIX

CONNECTIONS = 24
_WORD = re.compile(rb'"(?:[^"\\]|\\.)*"')
_POPS = {b"BRPOP": b"RPOP", b"BLPOP": b"LPOP"}
# What nobody does for a chunk: what measures, what workers do for themselves, what waits for requests.
_NOT_OF_A_CHUNK = {b"MONITOR", b"CONFIG", b"PING", b"BLMOVE", b"SUBSCRIBE", b"AUTH", b"HELLO", b"CLIENT", b"SELECT"}

Command = list[bytes]


class Recording:
    """The commands that came while `taken` was open."""

    def __init__(self) -> None:
        self.commands: list[Command] = []

    @contextmanager
    def taken(self, path: str) -> Iterator[None]:
        """Record all that comes to the Redis behind this socket meanwhile."""
        with _connect(path) as monitor:
            monitor.sendall(b"MONITOR\r\n")
            lines = monitor.makefile("rb")
            lines.readline()
            reader = threading.Thread(target=self._read, args=(lines,))
            reader.start()
            try:
                yield
            finally:
                time.sleep(0.2)  # the last ones are on their way
                monitor.shutdown(socket.SHUT_RDWR)
                reader.join()

    def _read(self, lines: Iterator[bytes]) -> None:
        for line in lines:
            head, _, _ = line.partition(b'"')
            if not head.endswith(b"lua] "):  # scripts run them again
                words: Command = [ast.literal_eval("b" + word.decode()) for word in _WORD.findall(line)]
                if words and words[0].upper() not in _NOT_OF_A_CHUNK:
                    self.commands.append(_without_waiting(words))


def _without_waiting(words: Command) -> Command:
    name = words[0].upper()
    return [_POPS[name], words[1]] if name in _POPS else words


def replay(path: str, commands: list[Command], first: int, seconds: float) -> tuple[int, float]:
    """Replay by CONNECTIONS connections for some seconds; how many times all of it was done, and in how many seconds.

    `first` is the number of the first connection: each has keys of its own.
    """
    everybody = [
        (_connect(path), hiredis.Reader(), [_packed(words, first + number) for words in commands])
        for number in range(CONNECTIONS)
    ]
    passes, started = 0, time.monotonic()
    while (taken := time.monotonic() - started) < seconds:
        for step, words in enumerate(commands):
            for connection, _, sent in everybody:
                connection.sendall(sent[step])
            for connection, reader, _ in everybody:
                while (reply := reader.gets()) is False:
                    reader.feed(connection.recv(65_536))
                if isinstance(reply, hiredis.ReplyError):
                    raise RuntimeError(f"{words[:2]}: {reply}")
        passes += CONNECTIONS
    for connection, _, _ in everybody:
        connection.close()
    return passes, taken


def _packed(words: Command, number: int) -> bytes:
    """As it is sent, with all keys under a prefix of the same length."""
    prefix = KEY_PREFIX.encode()
    own = f"{number:0{len(prefix) - 1}d}:".encode()
    return bytes(hiredis.pack_command(tuple(word.replace(prefix, own) for word in words)))


def _connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return connection


def main() -> None:
    """Replay in a process of its own: PATH FILE FIRST SECONDS; prints what `replay` gives."""
    path, file, first, seconds = sys.argv[1:]
    commands = msgspec.msgpack.decode(Path(file).read_bytes(), type=list[Command])
    print(*replay(path, commands, int(first), float(seconds)))


if __name__ == "__main__":
    main()
