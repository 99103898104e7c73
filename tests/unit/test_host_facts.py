"""What a worker tells of itself: read back as it was, and as far as it goes where it is of another version."""

from __future__ import annotations

import msgspec

from tasks.protocol.records import WorkerFacts, facts_of, pack_facts, unpack_facts, version_of
from tasks.transport.worker_registry import clock_ahead_of


def test_facts_survive_with_the_clock_of_the_moment() -> None:
    facts = facts_of(2, 1, ["0"], None)
    assert unpack_facts(pack_facts(facts, 1.5)) == msgspec.structs.replace(facts, clock_ahead=1.5)
    assert {"celeriac", "python", "tensorflow"} <= set(facts.versions)


def test_another_version_is_read_as_far_as_it_goes() -> None:
    newer = msgspec.msgpack.encode({"versions": {"celeriac": "9"}, "mood": "good"})
    assert unpack_facts(newer) == WorkerFacts(versions={"celeriac": "9"})
    for nothing in (b"", None, b"\xc1", msgspec.msgpack.encode([1])):
        assert unpack_facts(nothing) is None


def test_a_clock_is_compared_with_the_middle_of_the_question() -> None:
    assert clock_ahead_of((100, 500_000), 103.0, 104.0) == 3.0


def test_what_is_not_installed_has_no_version() -> None:
    assert version_of(["no-such-distribution"]) is None
    assert version_of(["no-such-distribution", "celeriac"]) == version_of(["celeriac"])
