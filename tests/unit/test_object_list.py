"""A list of very many objects: what was put in comes out, in the order of the keys."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from tasks.storage.object_list import ObjectList, ObjectPath
from tasks.storage.objects import ObjectStamp
from worker_config.object_urls import ObjectUrl

FOLDERS = [
    ObjectUrl("s3", "bucket", "", is_folder=True),
    ObjectUrl("gs", "bucket", "a folder/100 %", is_folder=True),
]


def _found(folder: ObjectUrl) -> list[tuple[ObjectUrl, ObjectStamp]]:
    """Keys of many scripts, beyond the first plane of Unicode too; with ETags of all kinds, and none."""
    head = f"{folder.key}/" if folder.key else ""
    names = ["b", "a/b", "a b", "\u00e4", "\ue000", "\U0001f600", "z" * 900, *(f"{one:x}/x.png" for one in range(300))]
    etags = ["", "0" * 32, 'W/"weak"', f"{'ab' * 16}-12"]
    return [
        (ObjectUrl(folder.scheme, folder.bucket, head + name), ObjectStamp(2**40 + at, at * 10**9, etags[at % 4]))
        for at, name in enumerate(names)
    ]


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_objects_come_out_in_the_order_of_their_keys(folder: ObjectUrl) -> None:
    found = _found(folder)
    found = [found[at] for at in np.random.default_rng(1).permutation(len(found))]
    wanted = [ObjectPath(*one) for one in sorted(found, key=lambda one: one[0])]
    listed = ObjectList(folder, found).in_order()
    assert list(listed) == wanted
    assert [listed[at] for at in range(len(listed))] == wanted
    assert listed[5:9] == wanted[5:9]
    assert listed[-1] == wanted[-1]
    assert list(listed.urls()) == [str(one) for one in wanted]
    assert listed.total_bytes == sum(one.stamp.size for one in wanted)
    assert listed.in_order() is listed
    with pytest.raises(IndexError):
        listed[len(listed)]


def test_small_names_take_little_room_in_any_order() -> None:
    folder, count = FOLDERS[0], 20_000
    tracemalloc.start()
    try:
        listed = ObjectList(folder)
        for number in range(count):
            url = ObjectUrl("s3", "bucket", f"{(7 * number) % count:x}")
            listed.append(url, ObjectStamp(number, number * 10**9, f"{number:032x}"))
        kept, _ = tracemalloc.get_traced_memory()
        in_order, peak = listed.in_order(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(in_order) == count
    assert kept < 90 * count
    assert peak < 300 * count
