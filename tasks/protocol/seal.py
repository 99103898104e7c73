"""Seals what lies in Redis or in the spool, so that whoever opens it knows whether it is what was written there.

    head | content        kind, tag = checksum, or signature, of context and content

    bytes   head
    0-1     b"Ce"
    2       2: the version of seals
    3       0: checksum; 1: signed
    4-7     which key signed it, zeros without one
    8-15    XXH3-64 of context and content; zeros where it is signed
    16-27   nonce           (signed alone, as all that follow)
    28-43   GMAC: the tag of AES-256-GCM over context and content
    44-47   zeros: arrays in the content stay aligned

The context says what the content is and whose, such as `rows/JOB/17`: what was moved to another place is found too.
XXH3 finds damage at the speed of memory, and GMAC forgery at a third of it, where SHA-256 would take 3 % of a chunk's
time. One key may sign 2**32 contents of random nonces (NIST SP 800-38D, 8.3); each job has a key of its own, derived.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

import xxhash

from worker_config.errors import SealError

CHECKSUM_BYTES: Final = 16
SIGNATURE_BYTES: Final = 48

_MAGIC: Final = b"Ce"
_SEAL_VERSION: Final = 2
_CHECKSUM, _SIGNED = 0, 1

Part = bytes | bytearray | memoryview
Parts = Sequence[bytes | memoryview]


class Sealer:
    """Seals and opens; with signing keys it opens nothing that none of them has signed.

    Args:
        keys: the first one signs; what any of them has signed is opened.
    """

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._keys = {_identity(key): key for key in keys}
        self._signs_with = _identity(keys[0]) if keys else b""

    @property
    def signs(self) -> bool:
        """Whether it has keys."""
        return bool(self._keys)

    @property
    def key_ids(self) -> list[str]:
        """What tells its keys apart, and nothing of them; that of the one that signs first."""
        return [identity.hex() for identity in self._keys]

    @property
    def head_bytes(self) -> int:
        """How long the head is of what is sealed here."""
        return SIGNATURE_BYTES if self._keys else CHECKSUM_BYTES

    def seal(self, context: str, parts: Parts) -> Parts:
        """The content, given in parts, with its head before it."""
        if not self._keys:
            return [_head(_CHECKSUM, bytes(4)) + _checksum(context, parts), *parts]
        nonce = secrets.token_bytes(12)
        tag = _tag(self._keys[self._signs_with], nonce, context, parts)
        return [b"".join((_head(_SIGNED, self._signs_with), bytes(8), nonce, tag, bytes(4))), *parts]

    def seal_bytes(self, context: str, content: bytes) -> bytes:
        """The same for content in one piece."""
        return b"".join(self.seal(context, [content]))

    def open(self, context: str, sealed: Part) -> memoryview:
        """The content, which shares the memory of `sealed`.

        Raises:
            SealError: it was damaged, moved, or not signed with a key that is known here.
        """
        view = memoryview(sealed)
        content = view[self.head_bytes :]
        self.check(context, view[: self.head_bytes], [content])
        return content

    def check(self, context: str, head: Part, parts: Iterable[Part]) -> None:
        """The same for a content in parts, each where it belongs.

        Raises:
            SealError: as `open`.
        """
        head = bytes(head)
        if head[:2] != _MAGIC or len(head) < CHECKSUM_BYTES:
            raise SealError(f"{context} is damaged, or of an older release, which did not seal it")
        if head[2] != _SEAL_VERSION:
            raise SealError(
                f"{context} has seal version {head[2]}, only {_SEAL_VERSION} is understood here; "
                "run the same release of Celeriac on both sides"
            )
        if not self._keys:
            if head[3] == _SIGNED:
                raise SealError(f"{context} is signed; set CELERIAC_SIGNING_KEY here too")
            if head[:8] != _head(_CHECKSUM, bytes(4)) or head[8:] != _checksum(context, parts):
                raise SealError(f"{context} is damaged: its checksum differs")
            return
        key = self._keys.get(head[4:8])
        if head[3] != _SIGNED or key is None or len(head) < SIGNATURE_BYTES or any(head[8:16] + head[44:]):
            raise SealError(f"{context} is not signed with a key of CELERIAC_SIGNING_KEY, or damaged")
        if not hmac.compare_digest(_tag(key, head[16:28], context, parts), head[28:44]):
            raise SealError(f"{context} is damaged or forged: its signature does not fit")


class Viewer(Sealer):
    """Opens for people who look: where no key is set, what is signed is shown unchecked.

    Attributes:
        unchecked: whether that has happened.
    """

    def __init__(self, keys: Sequence[str] = ()) -> None:
        super().__init__(keys)
        self.unchecked = False

    def open(self, context: str, sealed: Part) -> memoryview:
        """As of any `Sealer`, but for that."""
        if self.signs or not is_signed(sealed):
            return super().open(context, sealed)
        self.unchecked = True
        return content_of(sealed)


def is_signed(sealed: Part) -> bool:
    """Whether it says that it is signed, rightly or not."""
    return memoryview(sealed)[3:4] == bytes((_SIGNED,))


def content_of(sealed: Part) -> memoryview:
    """What was sealed, unchecked: for people alone."""
    return memoryview(sealed)[SIGNATURE_BYTES if is_signed(sealed) else CHECKSUM_BYTES :]


def rows_context(job: str, index: int) -> str:
    """Of a chunk's rows."""
    return f"rows/{job}/{index}"


def outputs_context(job: str, index: int) -> str:
    """Of a chunk's outputs."""
    return f"outputs/{job}/{index}"


def answer_context(job: str) -> str:
    """Of an answer, which says itself which chunk it is to."""
    return f"answer/{job}"


def record_context(job: str) -> str:
    """Of a job's record, with its plan."""
    return f"record/{job}"


def failure_context(job: str) -> str:
    """Of what the record of a detached job has on rows or on a model that failed, which says itself which it is."""
    return f"failure/{job}"


def note_context(job: str, index: int, name: str) -> str:
    """Of what is noted of a chunk's deliveries."""
    return f"note/{job}/{index}/{name}"


def _head(kind: int, identity: bytes) -> bytes:
    return _MAGIC + bytes((_SEAL_VERSION, kind)) + identity


def _identity(key: str) -> bytes:
    """Tells keys apart, and nothing of them."""
    return hashlib.sha256(b"celeriac key identity" + key.encode()).digest()[:4]


def _checksum(context: str, parts: Iterable[Part]) -> bytes:
    digest = xxhash.xxh3_64(_ended(context))
    for part in parts:
        digest.update(part)
    return digest.digest()


def _tag(key: str, nonce: bytes, context: str, parts: Iterable[Part]) -> bytes:
    job = context.split("/")[1]
    signer = _cipher(key, job, nonce).encryptor()
    signer.authenticate_additional_data(_ended(context))
    for part in parts:
        signer.authenticate_additional_data(part)
    signer.finalize()
    tag: bytes = signer.tag
    return tag


def _ended(context: str) -> bytes:
    """So that nothing of the content can pass for the end of a context."""
    return context.encode() + b"\0"


def _cipher(key: str, job: str, nonce: bytes) -> Any:
    from cryptography.hazmat.primitives.ciphers import Cipher, modes

    return Cipher(_algorithm(key, job), modes.GCM(nonce))


@lru_cache(maxsize=64)
def _algorithm(key: str, job: str) -> Any:
    from cryptography.hazmat.primitives.ciphers import algorithms

    return algorithms.AES256(hmac.digest(key.encode(), job.encode(), "sha256"))


def checksum(parts: Parts) -> int:
    """The XXH3-64 of a payload, given in parts."""
    digest = xxhash.xxh3_64()
    for part in parts:
        digest.update(part)
    return int(digest.intdigest())
