"""Whoever holds a job need not know whether it is attached or detached: both offer the same."""

from __future__ import annotations

import inspect

import pytest

from producer.detached.detached_job import DetachedJob
from producer.job.job import Job
from producer.job.job_handle import JobHandle

HELD = {name for name in vars(JobHandle) if not name.startswith("_")}


def test_what_both_offer_is_what_a_handle_offers() -> None:
    both = {name for name in dir(Job) if name in dir(DetachedJob) and not name.startswith("_")}
    assert both == HELD


@pytest.mark.parametrize("kind", [Job, DetachedJob])
@pytest.mark.parametrize("name", sorted(HELD))
def test_both_take_the_arguments_of_a_handle(kind: type[JobHandle], name: str) -> None:
    expected, own = vars(JobHandle)[name], inspect.getattr_static(kind, name)
    assert isinstance(own, property) == isinstance(expected, property)
    if not isinstance(own, property):
        wanted = inspect.signature(expected).parameters
        taken = inspect.signature(own).parameters
        assert list(taken)[: len(wanted)] == list(wanted)
        assert all(taken[each].default == wanted[each].default for each in wanted)
        assert all(one.default is not inspect.Parameter.empty for each, one in taken.items() if each not in wanted)


def test_neither_lacks_anything() -> None:
    assert not Job.__abstractmethods__
    assert not DetachedJob.__abstractmethods__
