"""One Redis URL, as Celery and as redis-py spell it, and never with its password in sight."""

from __future__ import annotations

import ssl
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_config.broker import BrokerAddress, address_of, celery_url, check_broker_url, redacted
from worker_config.errors import ConfigError

REDIS = BrokerAddress("redis", (("host", 6379),))
SOCKET = BrokerAddress("unix", path="/run/r.sock")
SENTINELS = BrokerAddress("sentinel", (("a", 26379), ("b", 7)), master="main", database=2)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://host", REDIS),
        ("redis://host:6379/0", REDIS),
        ("redis://HOST/?db=0", REDIS),
        ("redis:///3", replace(REDIS, hosts=(("localhost", 6379),), database=3)),
        ("redis://[::1]:7/", replace(REDIS, hosts=(("::1", 7),))),
        ("redis://host?db=5", replace(REDIS, database=5)),
        ("redis://host/5?db=5", replace(REDIS, database=5)),
        ("redis://me:a%2Fb@host", replace(REDIS, username="me", password="a/b")),
        ("redis://:a%25+b@host", replace(REDIS, password="a%+b")),
        ("redis://:a@b@host", replace(REDIS, password="a@b")),
        ("redis://host?username=me&password=a%2Fb%2B+", replace(REDIS, username="me", password="a/b++")),
        ("unix:///run/r.sock", SOCKET),
        ("redis+socket:///run/r.sock?virtual_host=0", SOCKET),
        ("unix:///run/r.sock?db=2", replace(SOCKET, database=2)),
        ("unix://me:secret@/run/a%20b", replace(SOCKET, path="/run/a b", username="me", password="secret")),
        ("unix:///run/r.sock?password=secret", replace(SOCKET, password="secret")),
        ("sentinel://a,b:7/main/2", SENTINELS),
        ("sentinel://a,b:7/main?db=2", SENTINELS),
        (
            "sentinel://me:secret@a,b:7/main/2?sentinel_username=you&sentinel_password=other",
            replace(SENTINELS, username="me", password="secret", sentinel_username="you", sentinel_password="other"),
        ),
    ],
)
def test_a_url_is_taken_apart_and_celery_s_spelling_means_the_same(url: str, address: BrokerAddress) -> None:
    assert address_of(url) == address
    celery = celery_url(address).split(";")
    if address.master:
        again = [address_of(f"{one}".replace("/2", "/main/2")) for one in celery]
        login = {"sentinel_username": None, "sentinel_password": None}
        assert again == [replace(address, hosts=(host,), **login) for host in address.hosts]
    else:
        assert [address_of(one) for one in celery] == [address]


@pytest.mark.parametrize("url", ["rediss://host/1", "sentinels://host/main"])
def test_certificates_are_verified_unless_the_url_says_otherwise(url: str) -> None:
    assert address_of(url).tls == {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
    tls = address_of(f"{url}?ssl_cert_reqs=none&ssl_check_hostname=false&ssl_ca_certs=%2Fca.pem").tls
    assert tls == {"ssl_cert_reqs": ssl.CERT_NONE, "ssl_check_hostname": False, "ssl_ca_certs": "/ca.pem"}
    assert address_of(f"{url}?ssl_cert_reqs=CERT_OPTIONAL").tls == {**(address_of(url).tls or {}), "ssl_cert_reqs": 1}


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("rediss://host?ssl_foo=1", "has an unknown option 'ssl_foo'; there are db, .*ssl_ca_certs"),
        ("redis://host?timeout=1", "has an unknown option 'timeout'; there are db, "),
        ("redis://host?ssl_ca_certs=/x", "has the option ssl_ca_certs, which is for TLS: rediss://"),
        ("redis://host?sentinel_password=x", "has an unknown option 'sentinel_password'"),
        ("rediss://host?ssl_cert_reqs=maybe", "has ssl_cert_reqs=maybe; it is none, optional, required"),
        ("rediss://host?ssl_check_hostname=", "has ssl_check_hostname=; it is true"),
        ("rediss://host?ssl_ca_certs=/nonexistent", "has ssl_ca_certs=/nonexistent, which is not here"),
        ("rediss://host?ssl_ca_certs=/etc/passwd", "which has no certificates in it"),
        ("rediss://host?ssl_keyfile=/etc/passwd", "has ssl_keyfile without ssl_certfile"),
        ("rediss://host?ssl_certfile=/etc/passwd", "a client certificate that cannot be used"),
        ("redis://host/main", "has 'main' in the place of the database"),
        ("redis://host/1/2", "has '1/2' in the place of the database"),
        ("redis://host/1?db=2", "two values for the database"),
        ("redis://host?db=1&db=1", "an option twice"),
        ("redis://:one@host?password=two", "two values for the password"),
        ("redis://a,b/0", "has several hosts, as only Sentinels may"),
        ("redis://host:0", "has no HOST:PORT in its place"),
        ("redis://[host", "has no HOST:PORT in its place"),
        ("redis://:two/two@host", "write special characters of a password as %XX"),
        ("redis://:12/two@host", "write special characters of a password as %XX"),
        ("redis://:two#two@host", "write special characters of a password as %XX"),
        ("redis://:two?two@host", "write special characters of a password as %XX"),
        ("unix://run/r.sock", "names no socket, .*third slash"),
        ("unix://", "names no socket"),
        ("sentinel://a,b", "does not name the server"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason_and_without_the_password(url: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f"^--broker: .*{why}") as raised:
        check_broker_url(url, "--broker")
    assert "\n" not in str(raised.value)
    assert "two" not in str(raised.value).replace("two values", "")


@pytest.mark.parametrize(
    "url", ["", "host:6379", "http://host", "amqp://host//", "Redis://host", "redis+cluster://host"]
)
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
        "sentinel://:{}@a:1,b:2/main/0",
        "sentinels://a,b/main?sentinel_password={}",
        "rediss://host?ssl_password={}",
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
