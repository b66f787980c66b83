"""Buckets of an object storage that speaks S3, from which images may come as they do from folders.

Which of them is said by CBMIR_IMPORT_ROOTS; credentials and endpoint by the ways that boto3 knows.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from django.conf import settings

from ingest.archives import CHUNK_BYTES, SPOOL_BYTES
from ingest.bucket_failures import BROKEN_OFF, FAILURES, reason_of
from ingest.directories import CHANGED, GONE, FolderRefused, State
from ingest.image_file import RejectedFile
from ingest.labels import is_noise
from ingest.receiving import too_large

SCHEME = "s3://"
KEY_BYTES = 1024  # the longest key that S3 has
CONNECT_SECONDS, READ_SECONDS = 5, 30  # to wait for a connection, and for its next bytes
READ_ATTEMPTS = 3  # of a body that breaks off; whole requests are repeated by boto3
BUCKET_NAME = re.compile(r"[A-Za-z0-9._-]{1,255}")
NEVER_IN_KEYS = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class BucketFolder:
    """A bucket, or what lies in it below a prefix: "studies/2026" is no prefix of "studies/2026-old"."""

    bucket: str
    prefix: str = ""  # without a slash at its end

    @classmethod
    def parsed(cls, text: str) -> "BucketFolder | None":
        """Of s3://bucket/prefix; None where nothing can have this address."""
        bucket, _, prefix = text.removeprefix(SCHEME).removesuffix("/").partition("/")
        is_clean = not NEVER_IN_KEYS.search(prefix) and {"", ".", ".."}.isdisjoint(prefix.split("/"))
        if not BUCKET_NAME.fullmatch(bucket) or (prefix and not is_clean):
            return None
        folder = cls(bucket, prefix)
        return folder if len(str(folder).encode()) <= KEY_BYTES else None

    @classmethod
    def below_a_root(cls, text: str) -> "BucketFolder | None":
        """Without asking the storage: None unless it is a root or lies below one."""
        folder = cls.parsed(text)
        return folder if folder and any(folder.lies_in(root) for root in bucket_roots()) else None

    def lies_in(self, other: "BucketFolder") -> bool:
        is_same = (self.bucket, self.prefix) == (other.bucket, other.prefix)
        return is_same or (self.bucket == other.bucket and self.prefix.startswith(other.start))

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")

    @property
    def name(self) -> str:
        return self.prefix.rpartition("/")[2] or self.bucket

    @property
    def start(self) -> str:
        """What the keys in it begin with."""
        return f"{self.prefix}/" if self.prefix else ""

    def address_of(self, path: str) -> str:
        return f"{self}/{path}"

    def files(self) -> Iterator[tuple[str, State]]:
        """The path below the prefix and the state of every object that is not hidden, in the storage's order.

        Keys that end in "/" stand for folders, and are none. Raises FolderRefused.
        """
        try:
            pages = client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.start)
            for page in pages:
                for found in page.get("Contents", ()):
                    path = str(found["Key"]).removeprefix(self.start)
                    if path and not path.endswith("/") and not is_noise(path):
                        yield path, state_of(found["Size"], found.get("ETag"))
        except FAILURES as error:
            raise FolderRefused(reason_of(error)[1]) from error


def bucket_roots() -> Iterator[BucketFolder]:
    for root in settings.IMPORT_ROOTS:
        if root.startswith(SCHEME) and (folder := BucketFolder.parsed(root)):
            yield folder


def state_of(size_bytes: int, etag: str | None) -> State:
    """The version is 63 bits of a digest of the ETag, which is another one for other bytes."""
    digest = hashlib.sha256((etag or "").removeprefix("W/").strip('"').encode()).digest()
    return State(size_bytes, int.from_bytes(digest[:8], "big") >> 1)


@contextmanager
def opened_object(address: str, state: State) -> Iterator[IO[bytes]]:
    """An object below a root, if it still is what it was when it was listed. Raises RejectedFile."""
    bucket, _, key = address.removeprefix(SCHEME).partition("/")
    if not any(bucket == root.bucket and key.startswith(root.start) for root in bucket_roots()):
        raise RejectedFile(*GONE)
    with fetched(bucket, key, state) as stream:
        yield stream


@contextmanager
def fetched(bucket: str, key: str, state: State) -> Iterator[IO[bytes]]:
    """An object as a seekable file: small ones stay in memory. Raises RejectedFile."""
    if state.size_bytes > settings.MAX_UPLOAD_BYTES:
        raise too_large()
    with SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
        for attempt in range(1, READ_ATTEMPTS + 1):
            try:
                copy_object(bucket, key, state, spool)
                break
            except FAILURES as error:
                reason = reason_of(error)
                if reason != BROKEN_OFF or attempt == READ_ATTEMPTS:
                    raise RejectedFile(*reason) from error
        spool.seek(0)
        yield spool


def copy_object(bucket: str, key: str, state: State, file: IO[bytes]) -> None:
    """From its first byte, whatever an earlier attempt has left in the file."""
    file.seek(0)
    file.truncate()
    answer = client().get_object(Bucket=bucket, Key=key)
    with closing(answer["Body"]) as body:
        if state_of(answer.get("ContentLength", state.size_bytes), answer.get("ETag")) != state:
            raise RejectedFile(*CHANGED)
        for chunk in body.iter_chunks(CHUNK_BYTES):
            file.write(chunk)
            if file.tell() > state.size_bytes:  # where no length was told
                break
    if file.tell() != state.size_bytes:
        raise RejectedFile(*CHANGED)


@cache
def client() -> Any:
    """One for a process: making it takes long, and so does importing boto3."""
    from boto3.session import Session
    from botocore.config import Config

    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard"},
        request_checksum_calculation="when_required",  # storages other than Amazon's may not know them
        response_checksum_validation="when_required",
    )
    return Session().client("s3", config=config)
