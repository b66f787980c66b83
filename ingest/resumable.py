"""Bytes that come in parts, as the tus protocol has it (https://tus.io/protocols/resumable-upload, 1.0.0).

Each part is a stored file of its own, because an object storage cannot append: so any web server may take
the next one.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from tempfile import SpooledTemporaryFile
from typing import IO

from django.conf import settings
from django.core.files.base import File
from django.core.files.storage import default_storage
from django.db import transaction
from django.utils import timezone

from ingest.archives import CHUNK_BYTES, SPOOL_BYTES
from ingest.image_file import RejectedFile
from ingest.labels import PATH_LENGTH
from ingest.models import PendingFile, PendingKind, UploadBatch


class NotExpected(Exception):
    """A file that its batch does not wait for; its text is a sentence for the person."""


class WrongOffset(Exception):
    """A part that does not begin where the one before ended."""


def expect_sent_file(batch: UploadBatch, path: str, size_bytes: int, modified: int, key: str) -> PendingFile:
    """The row of a file that is about to be sent; the same one for the same key. Raises NotExpected.

    When as many have begun as were announced, an unfinished one of the same path makes room: the file has
    changed since.
    """
    with transaction.atomic():
        batch = UploadBatch.objects.select_for_update().get(pk=batch.pk)
        if key and (known := batch.pending_files.filter(key=key).first()):
            return known
        waiting = batch.pending_files.unreceived()
        if waiting.count() >= batch.files_to_come:
            earlier = waiting.filter(path=path[-PATH_LENGTH:], kind=PendingKind.SENT)
            unfinished = earlier.exclude(pk__in=waiting.complete().values("pk")).first()
            if unfinished is None:
                raise NotExpected("All files of this import have been sent.")
            unfinished.delete()
        return batch.pending_files.create(
            path=path[-PATH_LENGTH:], size_bytes=size_bytes, modified=modified, key=key
        )


def part_name(pk: int, offset: int) -> str:
    return f"uploads/{pk}-{offset}"


def add_part(pk: int, offset: int, content: IO[bytes], size_bytes: int) -> PendingFile:
    """Store the next part of a file, which begins at `offset`. Raises WrongOffset.

    A part that was stored and not counted, because its web server died, is stored anew.
    """
    with transaction.atomic():
        file = PendingFile.objects.select_for_update().filter(pk=pk).first()
        if file is None or offset != file.received_bytes or file.received_at:
            raise WrongOffset
        if size_bytes:
            name = part_name(pk, offset)
            default_storage.delete(name)
            content.seek(0)
            default_storage.save(name, File(content))
            file.received_bytes += size_bytes
            file.save(update_fields=["received_bytes", "updated_at"])
        return file


def store_manifest(batch: UploadBatch, path: str, content: IO[bytes], size_bytes: int) -> None:
    """The manifest of what will be sent, which was read already."""
    now = timezone.now()
    file = batch.pending_files.create(
        kind=PendingKind.MANIFEST, path=path, size_bytes=size_bytes, received_at=now
    )
    file.received_bytes = size_bytes
    file.save()
    content.seek(0)
    default_storage.save(part_name(file.pk, 0), File(content))


def part_names(pk: int, received_bytes: int) -> Iterator[str]:
    offset = 0
    while offset < received_bytes:
        yield part_name(pk, offset)
        offset += default_storage.size(part_name(pk, offset))


@contextmanager
def joined_parts(file: PendingFile) -> Iterator[IO[bytes]]:
    """What has come of a file, seekable. Raises RejectedFile where parts were lost."""
    with SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
        try:
            for name in part_names(file.pk, file.received_bytes):
                with default_storage.open(name) as part:
                    while chunk := part.read(CHUNK_BYTES):
                        spool.write(chunk)
        except FileNotFoundError as error:
            sentence = "The file's bytes are no longer stored. Send it again."
            raise RejectedFile("missing_bytes", sentence) from error
        spool.seek(0)
        yield spool


def delete_parts(pk: int, received_bytes: int) -> None:
    """Of a pending file of that number; the one that was stored and not counted too."""
    names = [part_name(pk, received_bytes)]
    with suppress(FileNotFoundError):
        names.extend(part_names(pk, received_bytes))
    for name in names:
        default_storage.delete(name)


def abandoned_batches() -> Iterator[UploadBatch]:
    """Batches of which nothing has come for CBMIR_UPLOAD_DAYS."""
    cutoff = timezone.now() - timedelta(days=settings.UPLOAD_DAYS)
    waiting = UploadBatch.objects.filter(files_to_come__gt=0, source="", created_at__lt=cutoff)
    yield from waiting.exclude(pending_files__updated_at__gte=cutoff)
