"""What the dashboard tells its viewers: the whole at first, then what changes; nothing is read for nobody."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from producer.dashboard.feed import PROBLEM, Feed
from worker_config.errors import BrokerError


class Source:
    """Values that a test changes; `looks` counts how often they were read."""

    def __init__(self, **values: Any) -> None:
        self.values, self.looks = dict(values), 0
        self.error: Exception | None = None

    def read(self) -> dict[str, Any]:
        self.looks += 1
        if self.error:
            raise self.error
        return dict(self.values)


async def event_of(events: AsyncIterator[bytes]) -> tuple[str, dict[str, Any], list[str]]:
    """The next event: its kind, values and keys that are gone."""
    kind, data = (await anext(events)).decode().strip().split("\n")
    told = json.loads(data.removeprefix("data: "))
    return kind.removeprefix("event: "), told["values"], told["gone"]


def run(test: Callable[[], Any]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


def test_first_the_whole_then_what_changes() -> None:
    async def look() -> None:
        source = Source(a=1, b=2)
        feed = Feed(source.read, tick_seconds=0.01)
        events = feed.events()
        assert await event_of(events) == ("whole", {"a": 1, "b": 2}, [])
        source.values = {"a": 1, "b": 3, "c": 4}
        assert await event_of(events) == ("change", {"b": 3, "c": 4}, [])
        source.values = {"a": 1, "c": 4}
        assert await event_of(events) == ("change", {}, ["b"])
        late = feed.events()
        assert await event_of(late) == ("whole", {"a": 1, "c": 4}, [])
        await events.aclose()
        await late.aclose()

    run(look)


def test_who_has_missed_an_event_gets_the_whole() -> None:
    async def look() -> None:
        source = Source(a=0)
        feed = Feed(source.read, tick_seconds=0.01)
        slow, quick = feed.events(), feed.events()
        await event_of(slow)
        await event_of(quick)
        for number in (1, 2, 3):
            source.values = {"a": number, "b": 0}
            assert (await event_of(quick))[1]["a"] == number
        assert await event_of(slow) == ("whole", {"a": 3, "b": 0}, [])
        await slow.aclose()
        await quick.aclose()

    run(look)


def test_nothing_is_read_when_all_have_gone() -> None:
    async def look() -> None:
        source = Source(a=0)
        feed = Feed(source.read, tick_seconds=0.01)
        assert source.looks == 0
        viewers = [feed.events() for _ in range(3)]
        for viewer in viewers:
            await event_of(viewer)
        for viewer in viewers:
            assert feed.is_on
            await viewer.aclose()
        assert not feed.is_on
        after = source.looks
        await asyncio.sleep(0.2)  # twenty ticks
        assert source.looks <= after + 1, "a thread may have been on its way"
        again = feed.events()
        assert await event_of(again) == ("whole", {"a": 0}, [])
        await again.aclose()

    run(look)


def test_what_was_known_stays_while_it_cannot_be_read() -> None:
    async def look() -> None:
        source = Source(a=1)
        feed = Feed(source.read, tick_seconds=0.01)
        events = feed.events()
        await event_of(events)
        source.error = BrokerError("Redis is away")
        assert await event_of(events) == ("change", {PROBLEM: "Redis is away"}, [])
        source.error = ZeroDivisionError("oh")
        assert await event_of(events) == ("change", {PROBLEM: "a bug in Celeriac: ZeroDivisionError: oh"}, [])
        source.error = None
        assert await event_of(events) == ("change", {}, [PROBLEM])
        await events.aclose()

    run(look)


def test_streams_end_when_the_server_does() -> None:
    async def look() -> None:
        feed = Feed(Source(a=1).read, tick_seconds=0.01)
        events = feed.events()
        await event_of(events)
        feed.close()
        assert [one async for one in events] == []

    run(look)
