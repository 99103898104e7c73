"""What workers tell of their slots, as producers read it each second."""

from __future__ import annotations

from pathlib import Path

from tasks.protocol import keys
from tasks.protocol.records import SlotRecord
from tasks.transport.worker_registry import heartbeat, read_slots
from tests.systems import RedisServer

SLOTS = [SlotRecord("w", slot, 1_000 + slot, 0.5, "queue", []) for slot in range(3)]


def test_records_that_have_not_changed_are_not_decoded_again(tmp_path: Path) -> None:
    server = RedisServer(tmp_path).start()
    try:
        with server.admin() as client:
            heartbeat(client, "w", [slot.pid for slot in SLOTS], SLOTS)
            first = read_slots(client)
            assert first == SLOTS
            heartbeat(client, "w", [1_000, 1_002], SLOTS)
            client.hset(keys.worker("w"), "7", b"of another version")
            again = read_slots(client)
            assert [slot.slot for slot in again] == [0, 2]
            assert again[0] is first[0]
            assert again[1] is first[2]
    finally:
        server.stop()
