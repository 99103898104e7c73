"""A bucket --store_of--> obstore's client of it, one for each in a process.

Credentials, endpoint and region come from this machine's environment (`AWS_*`, `GOOGLE_*`, `AZURE_*`), never from a
URL or a message. obstore's threads do not live on in a forked child, where a request would wait for ever: a process
whose parent has used it is told so.
"""

from __future__ import annotations

import importlib
import os
from datetime import timedelta
from typing import Any

from worker_config.errors import ConfigError, StoreUnavailableError
from worker_config.object_urls import WEB, ObjectUrl
from worker_config.retry_policy import STORE_REQUEST_RETRIES, STORE_REQUEST_SECONDS, STORE_SILENT_SECONDS

_stores: dict[tuple[str, str, bool], Any] = {}
_used_by: list[int] = []


def obstore() -> Any:
    """The library.

    Raises:
        ConfigError: it is not installed; the text says how to install it.
    """
    try:
        return importlib.import_module("obstore")
    except ImportError:
        raise ConfigError("URLs of objects need obstore; run: pip install 'celeriac[objects]'") from None


def store_of(url: ObjectUrl, *, patient: bool = True) -> Any:
    """The client for an object's bucket; one that is not patient gives up when nothing comes for a while.

    Raises:
        ConfigError: obstore is not installed, or a variable of the environment is not of its form.
        StoreUnavailableError: this process was forked from one that has used obstore.
    """
    if _used_by and _used_by[0] != os.getpid():
        raise StoreUnavailableError(
            f"{url}: this process was forked from one that had opened a URL already, and what does the requests does "
            "not live on in a fork; open URLs after the fork only, or start the process anew (spawn)"
        )
    known = (url.scheme, url.bucket, patient)
    if known not in _stores:
        library = obstore()
        try:
            _stores[known] = _made(importlib.import_module("obstore.store"), url, patient)
        except library.exceptions.BaseError as error:
            why = type(error).__name__
            raise ConfigError(
                f"{url}: no client can be made from this machine's environment ({why}); look at its "
                f"{_VARIABLES[url.scheme]} variables"
            ) from None
        _used_by[:] = [os.getpid()]
    return _stores[known]


_VARIABLES = {"s3": "AWS_*", "gs": "GOOGLE_*", "az": "AZURE_*", "http": "proxy", "https": "proxy"}


def credentials_of(url: ObjectUrl) -> str:
    """Which variables of the environment give rights, for people."""
    return {
        "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the machine's role",
        "gs": "GOOGLE_APPLICATION_CREDENTIALS",
        "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    }.get(url.scheme, "the server's own rights")


def _made(stores: Any, url: ObjectUrl, patient: bool) -> Any:
    client: dict[str, Any] = {} if patient else {"read_timeout": timedelta(seconds=STORE_SILENT_SECONDS)}
    # Where an endpoint of S3 is plain HTTP, the environment says so itself; keys are not sent, requests are signed.
    if url.scheme == "s3" or url.scheme in WEB:
        client["allow_http"] = True
    options: dict[str, Any] = {
        "retry_config": {
            "max_retries": STORE_REQUEST_RETRIES,
            "retry_timeout": timedelta(seconds=STORE_REQUEST_SECONDS),
        },
        **({"client_options": client} if client else {}),
    }
    if url.scheme == "s3":
        # What keeps a copy from replacing another object: the condition is on the end of an upload in parts.
        copies = {"copy_if_not_exists": os.environ.get("AWS_COPY_IF_NOT_EXISTS", "multipart")}
        return stores.S3Store(url.bucket, **copies, **options)
    if url.scheme == "gs":
        return stores.GCSStore(url.bucket, **options)
    if url.scheme == "az":
        return stores.AzureStore(url.bucket, **options)
    assert url.scheme in WEB  # noqa: S101 - `object_url` lets no other through
    return stores.HTTPStore(f"{url.scheme}://{url.bucket}", **options)
