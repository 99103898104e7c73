"""Redis as both sides know it, without Celery: names in it, and its URL, taken apart and checked once.

Celery, redis-py and every command mean the same by a URL:

    redis://USER:PASSWORD@HOST:PORT/DB, rediss:// with TLS      --address_of--> BrokerAddress
    unix://USER:PASSWORD@/PATH?db=DB, redis+socket://           --celery_url--> Celery's spelling
    sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/NAME/DB, sentinels:// with TLS

User, password and database may also be options behind the `?`, which neither library understands by itself.

Several URLs, with commas between them, are shards: servers that know nothing of each other, over which jobs spread.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from worker_config.errors import ConfigError
from worker_config.retry_policy import CONNECT_TIMEOUT_SECONDS

QUEUE = "celeriac"
KEY_PREFIX = "celeriac:"

_BETWEEN_SHARDS = re.compile(r",(?=[a-z+]+://)")
_FORM = re.compile(r"(?P<scheme>[a-z+]+)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(\?(?P<query>[^#]*))?")
_PORTS = {"redis": 6379, "rediss": 6379, "sentinel": 26379, "sentinels": 26379}
_SOCKETS = ("unix", "redis+socket")
_OPTIONS = ("db", "virtual_host", "username", "password")
_OF_SENTINEL = ("sentinel_username", "sentinel_password")
_CERT_REQS = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_FLAGS = {"true": True, "1": True, "false": False, "0": False}
_TLS_FILES = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
_FORMS = "redis://HOST:PORT/DB, rediss://..., unix:///path/to/redis.sock or sentinel://HOST:PORT,HOST:PORT/NAME/DB"
_ESCAPE = "write special characters of a password as %XX"
_TLS = ("ssl_cert_reqs", "ssl_check_hostname", *_TLS_FILES, "ssl_password")


def queue_of(digests: Mapping[str, str]) -> str:
    """The queue of the workers that hold exactly these models, given as names with digests."""
    model_set = "\n".join(sorted(f"{name}@{digest}" for name, digest in digests.items()))
    return f"{QUEUE}.{hashlib.sha256(model_set.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class BrokerAddress:
    """Where Redis is, and how to log in.

    Attributes:
        scheme: of the URL; `unix` for both spellings of a socket.
        hosts: name and port of the server, or of each Sentinel.
        path: of the socket.
        master: the name by which Sentinels know the server.
        tls: redis-py's options for TLS, to Sentinels as well; None without TLS.
    """

    scheme: str
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    master: str = ""
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    tls: dict[str, Any] | None = field(default=None, repr=False)


def shard_urls(url: str) -> list[str]:
    """The URLs that stand in a setting, one for each shard."""
    return _BETWEEN_SHARDS.split(url)


def check_broker_url(url: str, where: str) -> str:
    """Return `url`, or raise ConfigError if Redis cannot be reached by it; `where` names the setting in the text."""
    known: set[tuple[object, ...]] = set()
    urls = shard_urls(url)
    for number, one in enumerate(urls, 1):
        # As a whole: a part of a malformed one may be a part of a password.
        which = f"{where}: {redacted(url)!r}" + (f", its shard {number}," if len(urls) > 1 else "")
        try:
            address = address_of(one)
        except ValueError as error:
            raise ConfigError(f"{which} is not a Redis URL: it {error}; write {_FORMS}") from None
        try:
            _check_tls(address.tls)
        except ValueError as error:
            raise ConfigError(f"{which} {error}") from None
        place = (address.hosts, address.path, address.master, address.database)
        if place in known:
            raise ConfigError(f"{which} is named before; each shard is a server, or a database, of its own")
        known.add(place)
    return url


def address_of(url: str) -> BrokerAddress:
    """Take a URL apart.

    Raises:
        ValueError: it is not of a form above; the text says what it does, as "has an option twice".
    """
    parts = _FORM.fullmatch(url)
    if parts is None or parts["scheme"] not in (*_PORTS, *_SOCKETS):
        raise ValueError(f"is of none of the forms{f'; {_ESCAPE}' if '@' in url else ''}")
    if parts["scheme"] in _PORTS and "@" in parts["path"]:
        raise ValueError(f"has no HOST:PORT in its place; {_ESCAPE}")
    scheme = "unix" if parts["scheme"] in _SOCKETS else parts["scheme"]
    options = _options(scheme, parts["query"] or "")
    login, _, hosts = parts["authority"].rpartition("@")
    username, _, password = login.partition(":")
    address: dict[str, Any] = {"scheme": scheme}
    path, names = parts["path"], [unquote(name) for name in parts["path"].split("/") if name]
    if scheme == "unix":
        if hosts or not names:
            raise ValueError("names no socket, which begins after unix:// with a third slash")
        address["path"], names = unquote(path), []
    else:
        address["hosts"] = tuple(_host(host, _PORTS[scheme]) for host in hosts.split(","))
    if scheme.startswith("sentinel"):
        if not names:
            raise ValueError("does not name the server that the Sentinels know")
        address["master"], *names = names
        address.update({name: options[name] for name in _OF_SENTINEL if name in options})
    elif len(address.get("hosts", ())) > 1:
        raise ValueError("has several hosts, as only Sentinels may")
    database = _one("database", "/".join(names), options.get("db"), options.get("virtual_host")) or "0"
    if not (database.isascii() and database.isdecimal()):
        raise ValueError(f"has {database!r} in the place of the database, which is a number")
    return BrokerAddress(
        **address,
        database=int(database),
        username=_one("user", unquote(username), options.get("username")),
        password=_one("password", unquote(password), options.get("password")),
        tls=_tls(options) if scheme in ("rediss", "sentinels") else None,
    )


def celery_url(address: BrokerAddress) -> str:
    """The spelling that Celery understands; it is told of TLS, and of Sentinel's names, by settings of its own."""
    login = f"{quote(address.username or '', safe='')}:{quote(address.password or '', safe='')}@"
    login = "" if login == ":@" else login
    if address.scheme == "unix":
        return f"redis+socket://{login}{quote(address.path)}?virtual_host={address.database}"
    scheme = address.scheme.replace("sentinels", "sentinel")
    hosts = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in address.hosts]
    return ";".join(f"{scheme}://{login}{host}/{address.database}" for host in hosts)


class SentinelOptions(dict[str, Any]):
    """A dict by which our connections are told from others of the process (`tasks/transport/connection.py`)."""


def sentinel_options(address: BrokerAddress) -> SentinelOptions:
    """What redis-py is to connect to Sentinels with; each is asked once, then the next one."""
    # For those alone who use it: settings are read without redis-py.
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return SentinelOptions(
        username=address.sentinel_username,
        password=address.sentinel_password,
        socket_timeout=CONNECT_TIMEOUT_SECONDS,
        socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
        **({"ssl": True, **address.tls} if address.tls else {}),
    )


def redacted(url: str | None) -> str | None:
    """`url`, or several, with passwords, if any, as `***`; works on malformed URLs too."""
    if url is None:
        return None
    urls = shard_urls(url)
    if not all(map(_is_url, urls)):
        urls = [url]
    # The last @ ends the credentials: a password may itself hold an unescaped one.
    urls = [re.sub(r"(?<=[?&])(\w*)password=[^&]*", r"\1password=***", one) for one in urls]
    return ",".join(re.sub(r"(://[^:/@]*):.*@", r"\1:***@", one) for one in urls)


def _is_url(text: str) -> bool:
    try:
        address_of(text)
    except ValueError:
        return False
    return True


def _options(scheme: str, query: str) -> dict[str, str]:
    known = (*_OPTIONS, *(_OF_SENTINEL if scheme.startswith("sentinel") else ()))
    # A + in a password is no space.
    pairs = parse_qsl(query.replace("+", "%2B"), keep_blank_values=True)
    options = dict(pairs)
    if len(options) < len(pairs):
        raise ValueError("has an option twice")
    for name in options:
        if name in _TLS and scheme not in ("rediss", "sentinels"):
            raise ValueError(f"has the option {name}, which is for TLS: rediss:// or sentinels://")
        if name not in (*known, *_TLS):
            if "@" in query:  # the name may be a part of a password
                raise ValueError(f"has an unknown option; {_ESCAPE}")
            tls = _TLS if scheme in ("rediss", "sentinels") else ()
            raise ValueError(f"has an unknown option {name!r}; there are {', '.join((*known, *tls))}")
    return options


def _host(text: str, port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        found = parts.port
    except ValueError:
        found = 0
    if found == 0:
        raise ValueError(f"has no HOST:PORT in its place; {_ESCAPE}")
    return parts.hostname or "localhost", found or port


def _one(what: str, *given: str | None) -> str | None:
    """What several places of a URL may say, and must say alike."""
    said = {one for one in given if one}
    if len(said) > 1:
        raise ValueError(f"has two values for the {what}")
    return next(iter(said), None)


def _tls(options: dict[str, str]) -> dict[str, Any]:
    """Certificates are verified unless they say otherwise; Celery alone would not."""
    tls: dict[str, Any] = {name: options[name] for name in _TLS if name in options}
    for name, meanings, default in (
        ("ssl_cert_reqs", _CERT_REQS, "required"),
        ("ssl_check_hostname", _FLAGS, "true"),
    ):
        text = tls.get(name, default).lower().removeprefix("cert_")
        if text not in meanings:
            raise ValueError(f"has {name}={text}; it is {', '.join(meanings)}")
        tls[name] = meanings[text]
    return tls


def _check_tls(tls: dict[str, Any] | None) -> None:
    """Whether the files that it names are what they should be."""
    if tls is None:
        return
    for name in _TLS_FILES:
        if name in tls and not (Path(tls[name]).is_dir() if name == "ssl_ca_path" else Path(tls[name]).is_file()):
            raise ValueError(f"has {name}={tls[name]}, which is not here")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if "ssl_keyfile" in tls and "ssl_certfile" not in tls:
        raise ValueError("has ssl_keyfile without ssl_certfile")
    try:
        if tls.get("ssl_ca_certs"):
            context.load_verify_locations(tls["ssl_ca_certs"])
    except OSError as error:
        raise ValueError(f"has ssl_ca_certs={tls['ssl_ca_certs']}, which has no certificates in it ({error})") from None
    try:
        if "ssl_certfile" in tls:
            # A function, or else OpenSSL would ask for the password of the key.
            context.load_cert_chain(tls["ssl_certfile"], tls.get("ssl_keyfile"), lambda: tls.get("ssl_password", ""))
    except (OSError, ValueError) as error:
        raise ValueError(f"has a client certificate that cannot be used with its key ({error})") from None
