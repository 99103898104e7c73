"""One request to a store --answered--> its result, after waits that are told (`waits.py`); or one error of ours.

What obstore says of an error holds addresses, headers and a page of details: only the HTTP status and the store's own
word for it are passed on.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from typing import NoReturn, TypeVar

from tasks.storage import waits as store_waits
from tasks.storage.stores import credentials_of, obstore
from worker_config.errors import (
    CeleriacError,
    ObjectChangedError,
    ObjectDeniedError,
    ObjectError,
    ObjectExistsError,
    ObjectMissingError,
    StoreUnavailableError,
)
from worker_config.object_urls import WEB, ObjectUrl
from worker_config.retry_policy import (
    LEAST_BACKOFF_SECONDS,
    STORE_BACKOFF_SECONDS,
    STORE_TELL_SECONDS,
    STORE_WAIT_SECONDS,
)

logger = logging.getLogger(__name__)
T = TypeVar("T")

_STATUS = re.compile(r"status(?: code)?: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_BUSY = (408, 425, 429)
# Requests for credentials go to the machine's own address; without any there is nothing to wait for.
_NO_CREDENTIALS = re.compile(
    r"169\.254\.169\.254|/latest/(api/token|meta-data)|computeMetadata|metadata\.google|identity/oauth2/token"
)


def answered(url: ObjectUrl, verb: str, request: Callable[[], T], *, waits: bool = True) -> T:
    """The result of a request that may be made again; a store that is busy or gone is waited for.

    Args:
        url: of what.
        verb: what is done with it, such as "read".
        request: calls obstore.
        waits: whether there is time for that.

    Raises:
        ObjectError: one of its kinds; the text names the URL, the cause and what to do, and no key.
    """
    began, pause, told = time.monotonic(), LEAST_BACKOFF_SECONDS, -STORE_TELL_SECONDS
    try:
        while True:
            try:
                return request()
            except CeleriacError:
                raise
            except Exception as error:
                waited = time.monotonic() - began
                why = _passing(error)
                if why is None:
                    _refuse(url, verb, error)
                if waited >= STORE_WAIT_SECONDS or not waits:
                    raise StoreUnavailableError(
                        f"{url}: cannot be {_DONE[verb]}: {why}, for {waited:.0f} s by now; look at the store, and at "
                        "the address in this machine's environment"
                    ) from None
                store_waits.begin(began, f"{url}: {why}")
                if waited - told >= STORE_TELL_SECONDS:
                    told = waited
                    left = STORE_WAIT_SECONDS - waited
                    logger.warning("%s: %s; trying to %s it for up to %d s", url, why, verb, left)
            time.sleep(pause)
            pause = min(2 * pause, STORE_BACKOFF_SECONDS)
    finally:
        store_waits.end()


_DONE = {
    "read": "read",
    "list": "listed",
    "look at": "looked at",
    "write": "written",
    "delete": "deleted",
    "copy": "copied",
}


def _passing(error: Exception) -> str | None:
    """Why a request is worth another try; None where it is not."""
    text = str(error)
    status, code = _status(text), _code(text)
    if status is not None:
        busy = status >= 500 or status in _BUSY
        return f"the store is busy or in trouble (HTTP {status}{code})" if busy else None
    if not isinstance(error, obstore().exceptions.GenericError) or _NO_CREDENTIALS.search(text):
        return None
    for word, why in (("timed out", "no answer in time"), ("TimedOut", "no answer in time")):
        if word in text:
            return why
    if re.search(r"error sending request|Connect|connection|error decoding response body|IncompleteMessage", text):
        return "the store cannot be reached"
    return None


def _refuse(url: ObjectUrl, verb: str, error: Exception) -> NoReturn:
    kinds = obstore().exceptions
    text = str(error)
    status, code = _status(text), _code(text)
    if isinstance(error, kinds.AlreadyExistsError):
        raise ObjectExistsError(f"{url}: is there already; choose another name, or delete it") from None
    if isinstance(error, kinds.PreconditionError) or status in (412, 416):
        raise ObjectChangedError(
            f"{url}: has changed since it was looked at; leave objects as they are while a job reads them"
        ) from None
    if status == 404 or isinstance(error, FileNotFoundError):
        what = f"no bucket {url.bucket}" if "NoSuchBucket" in code else "no such object"
        raise ObjectMissingError(f"{url}: {what}; check the URL, and the endpoint in the environment") from None
    denied = isinstance(error, kinds.PermissionDeniedError | kinds.UnauthenticatedError) or status in (401, 403)
    if denied or "AccessDenied" in text:  # of many objects deleted at once the store says it of each
        raise ObjectDeniedError(
            f"{url}: may not be {_DONE[verb]} with this machine's credentials (HTTP {status or 403}{code}); they come "
            f"from {credentials_of(url)}"
        ) from None
    if _NO_CREDENTIALS.search(text):
        raise ObjectDeniedError(
            f"{url}: cannot be {_DONE[verb]}: this machine has no credentials; set {credentials_of(url)}"
        ) from None
    if isinstance(error, kinds.NotSupportedError | NotImplementedError):
        what = "this server gives no ranges of bytes" if url.scheme in WEB else "stores of this kind do not do that"
        raise ObjectError(f"{url}: cannot be {_DONE[verb]}: {what}; copy it to one that does") from None
    what = f"HTTP {status}{code}" if status else type(error).__name__
    raise ObjectError(f"{url}: cannot be {_DONE[verb]} ({what}); check the URL and the store") from None


def _status(text: str) -> int | None:
    match = _STATUS.search(text)
    return int(match[1]) if match else None


def _code(text: str) -> str:
    match = _CODE.search(text)
    return f" {match[1]}" if match else ""
