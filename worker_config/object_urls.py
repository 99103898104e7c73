"""URLs of objects, taken apart once: `s3://`, `gs://`, `az://`, `http://`, `https://`.

    text --object_url--> ObjectUrl --is_beneath--> under a URL prefix of the roots, by whole segments?

A key is taken as it stands; that of a web address has its %-escapes undone, once. What could lead elsewhere than it
reads (`..`, empty segments, a `?`, a user) is refused, so that no two spellings of an object differ for who checks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from urllib.parse import unquote

from worker_config.errors import UsageError

WEB = ("http", "https")
SCHEMES = ("s3", "gs", "az", *WEB)
_URL = re.compile(rf"({'|'.join(SCHEMES)})://", re.I)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,253})|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?")
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_MOST_CHARACTERS = 4_096


@dataclass(frozen=True, slots=True, order=True)
class ObjectUrl:
    """One object, or all whose keys begin with these segments.

    Attributes:
        bucket: of `az` the container, of web addresses host and port.
        key: segments with `/` between them; empty for the whole bucket.
        is_folder: whether it was written with a `/` at the end.
    """

    scheme: str
    bucket: str
    key: str
    is_folder: bool = False

    def __str__(self) -> str:
        if not self.bucket:
            return f"{self.scheme}://"
        key = self.key
        if self.scheme in WEB:
            key = "".join(character if character not in "%?#" else f"%{ord(character):02X}" for character in key)
        return f"{self.scheme}://{self.bucket}/{key}{'/' if self.is_folder and key else ''}"

    @property
    def name(self) -> str:
        """The last segment."""
        return self.key.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The ending of the name, with its dot; empty where there is none."""
        return PurePosixPath(self.name).suffix

    def with_name(self, name: str) -> ObjectUrl:
        """The object beside it that has this name."""
        return replace(self, key=self.key.removesuffix(self.name) + name, is_folder=False)

    def __truediv__(self, name: str) -> ObjectUrl:
        """The object of this name, or the folder of these segments, beneath it."""
        return replace(self, key=f"{self.key}/{name}" if self.key else name, is_folder=False)

    def is_beneath(self, root: ObjectUrl) -> bool:
        """Whether it is this root, or lies under it; under a root without a bucket are all of its scheme."""
        if not root.bucket:
            return self.scheme == root.scheme
        same = (self.scheme, self.bucket) == (root.scheme, root.bucket)
        return same and (not root.key or self.key == root.key or self.key.startswith(f"{root.key}/"))


def is_url(text: object) -> bool:
    """Whether this is the URL of an object, and no path of a file."""
    return isinstance(text, ObjectUrl) or (isinstance(text, str) and bool(_URL.match(text)))


def object_url(text: str | ObjectUrl) -> ObjectUrl:
    """Take a URL apart.

    Raises:
        UsageError: it is none that is taken; the text names it without what may be secret, and says what to write.
    """
    if isinstance(text, ObjectUrl):
        return text
    match = _URL.match(text)
    if not match:
        raise UsageError(f"{text!r} is no URL of an object; write one as s3://bucket/key")
    scheme, rest = match[1].lower(), text[match.end() :]
    shown = redacted_url(text)
    bucket, _, key = rest.partition("/")
    if "@" in bucket:
        raise _refused(shown, "has a user or a password in it; credentials come from each machine's environment")
    if "?" in bucket or "#" in bucket or (scheme in WEB and ("?" in key or "#" in key)):
        raise _refused(shown, "has a ? or a #; signed addresses would carry their signature to every worker")
    if scheme in WEB:
        if _ESCAPE.search(key):
            raise _refused(shown, "has a % that is no escape; write it as %25")
        key, bucket = unquote(key, errors="strict") if _is_utf8(key) else "\0", bucket.lower()
    if not (_HOST if scheme in WEB else _BUCKET).fullmatch(bucket):
        raise _refused(shown, "names no bucket" if scheme not in WEB else "names no host")
    folder = key.endswith("/")
    segments = key.removesuffix("/").split("/") if key else []
    if len(text) > _MOST_CHARACTERS or any(_is_wrong(segment) for segment in segments):
        raise _refused(shown, "has a segment that is empty, '.' or '..', or characters that no key should have")
    return ObjectUrl(scheme, bucket, "/".join(segments), folder or not key)


def root_url(text: str | ObjectUrl) -> ObjectUrl:
    """A URL beneath which others lie; a scheme alone, as `s3://`, is one too.

    Raises:
        UsageError: as `object_url`.
    """
    alone = _URL.fullmatch(text) if isinstance(text, str) else None
    return ObjectUrl(alone[1].lower(), "", "", is_folder=True) if alone else object_url(text)


def redacted_url(text: str) -> str:
    """The text of a URL without its user and without what follows a `?` or `#`, for people."""
    scheme, separator, rest = text.partition("://")
    bucket, slash, key = rest.partition("/")
    bucket = bucket.rpartition("@")[2]
    shown = re.split(r"[?#]", bucket + slash + key, maxsplit=1)[0]
    return f"{scheme}{separator}{shown}".encode("unicode_escape").decode()


def is_beneath_any(url: str | ObjectUrl, roots: list[str | ObjectUrl]) -> bool:
    """Whether a URL lies under one of these; one that is refused lies under none."""
    try:
        one = object_url(url)
    except UsageError:
        return False
    return any(one.is_beneath(root_url(root)) for root in roots)


def _is_wrong(segment: str) -> bool:
    return segment in ("", ".", "..") or "\\" in segment or not segment.isprintable()


def _is_utf8(escaped: str) -> bool:
    try:
        unquote(escaped, errors="strict")
    except UnicodeDecodeError:
        return False
    return True


def _refused(shown: str, why: str) -> UsageError:
    return UsageError(f"{shown}: {why}; write it as s3://bucket/key, gs://, az:// or https://host/path")
