"""One Redis URL, as Celery and as redis-py spell it, and never with its password in sight."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_config.broker_url import celery_url, check_broker_url, redacted, redis_url
from worker_config.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "celery", "redis"),
    [
        ("redis://host:6379/0", "redis://host:6379/0", "redis://host:6379/0"),
        ("unix:///run/r.sock?db=2", "redis+socket:///run/r.sock?virtual_host=2", "unix:///run/r.sock?db=2"),
        ("redis+socket:///run/r.sock", "redis+socket:///run/r.sock", "unix:///run/r.sock"),
    ],
)
def test_both_libraries_get_their_own_spelling(url: str, celery: str, redis: str) -> None:
    assert (celery_url(url), redis_url(url)) == (celery, redis)
    assert redis_url(celery_url(url)) == redis


@pytest.mark.parametrize("url", ["", "host:6379", "http://host", "amqp://host//", "redis://host:0", "redis://[host"])
def test_what_is_no_redis_url_is_refused_with_the_place_it_came_from(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^--broker: .*redis://HOST"):
        check_broker_url(url, "--broker")


@pytest.mark.parametrize(
    "url",
    [
        "redis://:{}@host:6379/0",
        "redis://user:{}@host",
        "rediss://user:{}@host/0?ssl_cert_reqs=none",
        "unix://:{}@/run/r.sock",
        "unix:///run/r.sock?db=1&password={}",
        "not-redis://user:{}@host",
    ],
)
@given(
    password=st.text(st.characters(codec="ascii", categories=["L", "N", "P"], exclude_characters="/?#&"), min_size=6)
)
def test_no_password_survives(url: str, password: str) -> None:
    assert redacted(url.format(password)) == url.format("***")


def test_a_url_without_a_password_stays_as_it_is() -> None:
    assert redacted("redis://host:6379/0") == "redis://host:6379/0"
    assert redacted(None) is None
