"""Zip archives: each member becomes a file of its own."""

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from tempfile import SpooledTemporaryFile
from typing import IO

from django.conf import settings

from ingest.image_file import RejectedFile
from ingest.labels import NO_CLAIMS, Claims, Manifest, ManifestError, clean_path, is_noise
from ingest.models import LabelSource, UploadBatch, UploadedFile
from ingest.receiving import IncomingFile, manifest_among, receive_all, reject_unread

MAX_MEMBERS = 10_000
CHUNK_BYTES = 2**20
SPOOL_BYTES = 16 * 2**20  # a member up to this size stays in memory
ENCRYPTED = 0x1  # bit of a member's flags
# What zipfile raises for a member that is damaged or packed in a way it does not know.
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError)


def is_zip(path: str) -> bool:
    return path.lower().endswith(".zip")


def expand_zip(
    batch: UploadBatch, path: str, file: IO[bytes], claims: Claims = NO_CLAIMS
) -> Iterator[UploadedFile]:
    """Receive the members of a zip; a zip that is refused is one rejected row, and nothing of it comes in.

    A manifest.csv in the zip's root, or in its only folder, labels the members.
    """
    try:
        archive = zipfile.ZipFile(file)
        members = [member for member in archive.infolist() if is_wanted(member)]
        check_archive(archive, members)
        files = [
            IncomingFile(member.filename, partial(inflated, archive, member), claims) for member in members
        ]
        manifest = manifest_among(files)
        if manifest is None and batch.label_source == LabelSource.MANIFEST and claims == NO_CLAIMS:
            raise ManifestError("The zip has no manifest.csv in its root.")
    except RejectedFile as rejected:
        yield reject_zip(batch, path, rejected.code, rejected.sentence)
    except ManifestError as error:
        yield reject_zip(batch, path, "bad_manifest", str(error))
    except DAMAGED:
        yield reject_zip(batch, path, "bad_zip", "This is not a zip archive, or it is cut off.")
    else:
        yield from receive_all(batch, files, manifest)


def reject_zip(batch: UploadBatch, path: str, code: str, sentence: str) -> UploadedFile:
    return reject_unread(UploadedFile(batch=batch, path=clean_path(path)), code, sentence)


def is_wanted(member: zipfile.ZipInfo) -> bool:
    return not member.is_dir() and not is_noise(clean_path(member.filename))


def check_archive(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo]) -> None:
    """Inflate everything once, keeping nothing: sizes in a zip's headers cannot be trusted.

    Raises RejectedFile. A damaged member is left to be rejected on its own.
    """
    if not members:
        raise RejectedFile("empty_zip", "The zip has no files in it.")
    if len(members) > MAX_MEMBERS:
        raise RejectedFile("too_many_members", f"The zip has more than {MAX_MEMBERS} files in it.")
    if any(member.flag_bits & ENCRYPTED for member in members):
        raise RejectedFile("encrypted_zip", "The zip is encrypted. Send it without a password.")
    inflated_bytes = 0
    for member in members:
        try:
            with archive.open(member) as stream:
                while chunk := stream.read(CHUNK_BYTES):
                    inflated_bytes += len(chunk)
                    if inflated_bytes > settings.MAX_UPLOAD_BYTES:
                        limit = settings.MAX_UPLOAD_BYTES / 2**20
                        raise RejectedFile("zip_too_large", f"The zip inflates to more than {limit:g} MB.")
        except DAMAGED:
            continue


@contextmanager
def inflated(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[IO[bytes]]:
    """A member's bytes as a seekable file. Raises RejectedFile where they cannot be had."""
    with SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
        try:
            with archive.open(member) as stream:
                while chunk := stream.read(CHUNK_BYTES):
                    spool.write(chunk)
        except DAMAGED as error:
            raise RejectedFile("damaged", "The file is damaged inside the zip.") from error
        yield spool


def receive_upload(
    batch: UploadBatch, files: Sequence[IncomingFile], manifest: Manifest | None
) -> Iterator[UploadedFile]:
    """Receive what was sent to the server: zips among the files are expanded."""
    yield from receive_all(batch, [file for file in files if not is_zip(file.path)], manifest)
    for file in files:
        if is_zip(file.path):
            with file.open() as stream:
                yield from expand_zip(batch, file.path, stream, file.claims)
