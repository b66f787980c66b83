"""Content-addressed files: each sequence of bytes is stored once, under its digest."""

from collections.abc import Collection
from typing import IO

from django.core.files.base import ContentFile, File
from django.core.files.storage import default_storage
from django.db import connection, transaction

from ingest.models import Image, UploadedFile


def original_name(sha256: str) -> str:
    return f"originals/{sha256[:2]}/{sha256}"


def rendition_name(sha256: str, frame_number: int) -> str:
    return f"renditions/{sha256[:2]}/{sha256}-{frame_number}.png"


def preview_name(sha256: str, frame_number: int) -> str:
    return f"previews/{sha256[:2]}/{sha256}-{frame_number}.jpg"


def store_once(name: str, content: bytes | IO[bytes], size_bytes: int) -> str:
    """Store `content` under exactly `name`, unless it is there already. Safe beside other writers."""
    while True:
        if default_storage.exists(name):
            if default_storage.size(name) == size_bytes:
                return name
            default_storage.delete(name)  # cut off when its writer was killed
        file = ContentFile(content) if isinstance(content, bytes) else File(content)
        saved = default_storage.save(name, file)
        if saved == name:
            return name
        default_storage.delete(saved)  # another writer was first, and Django chose another name


def lock_bytes(*digests: str) -> None:
    """Until the transaction ends, nobody else stores or deletes the originals of these SHA-256."""
    in_order = sorted(digests)  # nobody waits for somebody who waits for them
    with connection.cursor() as cursor:
        sql = "SELECT pg_advisory_xact_lock(hashtextextended(digest, 0)) FROM unnest(%s::text[]) AS digest"
        cursor.execute(sql, [in_order])


def digest_of(name: str | None) -> str:
    """The SHA-256 of the original of this name."""
    return str(name or "").rsplit("/", 1)[-1]


def quarantine_name(sha256: str, frame_number: int) -> str:
    return f"quarantine/{sha256[:2]}/{sha256}-{frame_number}.jpg"


def delete_unused_original(sha256: str) -> None:
    delete_unused_originals({sha256})


def delete_unused_originals(digests: Collection[str]) -> None:
    """Delete those originals of these SHA-256 that are no image's, nor a file's that may still be read."""
    with transaction.atomic():
        lock_bytes(*digests)
        # In this order: an import ends its row and commits its images at once, between two questions maybe.
        awaited = UploadedFile.objects.needing_bytes().filter(sha256__in=digests).order_by()
        used = set(awaited.values_list("sha256", flat=True))
        names = [original_name(digest) for digest in digests]
        images = Image.objects.filter(original__in=names).order_by()
        used |= {digest_of(name) for name in images.values_list("original", flat=True)}
        for digest in set(digests) - used - {""}:
            default_storage.delete(original_name(digest))


def delete_files_of(image: Image) -> None:
    """After an image was deleted: its pictures, and the original if no other frame needs it."""
    for file in (image.rendition, image.preview):
        if file.name:
            default_storage.delete(file.name)
    for digest in {image.sha256, digest_of(image.original.name)}:
        delete_unused_original(digest)
