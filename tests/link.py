"""What stands between Redis and those who use it, as a poor network would: slow, narrow, or cut in the middle.

producer, workers --TCP--> link --its faults--> Redis's socket
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from pathlib import Path

_PIECE = 1 << 16


class Link:
    """A port of loopback that leads to a server's Unix socket; its faults concern all connections, in both ways.

    Attributes:
        port: its own.
        delay_seconds: how long each piece takes more.
        bytes_per_second: how much of each connection passes; 0 for all that comes.
        cuts: connections that are still to end in the middle of what they send.
        pieces, bytes_passed: how many have passed.
    """

    def __init__(self, server: Path) -> None:
        self._server = server
        self.delay_seconds = 0.0
        self.bytes_per_second = 0
        self.cuts = 0
        self.pieces = self.bytes_passed = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="link", daemon=True)

    def start(self) -> Link:
        self._thread.start()
        self._listener = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        self.port: int = self._listener.sockets[0].getsockname()[1]
        return self

    def stop(self) -> None:
        """Cut all that is there, and end."""
        asyncio.run_coroutine_threadsafe(self._cancel(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        """The Redis, as it is reached this way."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=128)

    async def _cancel(self) -> None:
        self._listener.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        with suppress(OSError, asyncio.CancelledError):
            to_server = await asyncio.open_unix_connection(str(self._server))
            writers.append(to_server[1])
            ways = [self._pass(reader, to_server[1]), self._pass(to_server[0], writer)]
            pumps = [asyncio.ensure_future(way) for way in ways]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        for one in writers:
            one.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_PIECE):
            if self.delay_seconds:
                await asyncio.sleep(self.delay_seconds)
            if self.bytes_per_second:
                await asyncio.sleep(len(data) / self.bytes_per_second)
            is_cut = self.cuts > 0 and len(data) > 1
            self.cuts -= is_cut
            writer.write(data[: len(data) // 2] if is_cut else data)
            await writer.drain()
            if is_cut:
                return
            self.pieces += 1
            self.bytes_passed += len(data)
