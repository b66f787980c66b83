"""Content-addressed files: each sequence of bytes is stored once, under its digest."""

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


def lock_bytes(sha256: str) -> None:
    """Until the transaction ends, nobody else stores or deletes the original of these bytes."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [sha256])


def digest_of(name: str | None) -> str:
    """The SHA-256 of the original of this name."""
    return str(name or "").rsplit("/", 1)[-1]


def quarantine_name(sha256: str, frame_number: int) -> str:
    return f"quarantine/{sha256[:2]}/{sha256}-{frame_number}.jpg"


def delete_unused_original(sha256: str) -> None:
    """Delete the original unless it is an image's, or a file's that may still be read."""
    name = original_name(sha256)
    with transaction.atomic():
        lock_bytes(sha256)
        # In this order: an import ends its row and commits its images at once, between two questions maybe.
        is_used = (
            UploadedFile.objects.needing_bytes().filter(sha256=sha256).exists()
            or Image.objects.filter(original=name).exists()
        )
        if sha256 and not is_used:
            default_storage.delete(name)


def delete_files_of(image: Image) -> None:
    """After an image was deleted: its pictures, and the original if no other frame needs it."""
    for file in (image.rendition, image.preview):
        if file.name:
            default_storage.delete(file.name)
    for digest in {image.sha256, digest_of(image.original.name)}:
        delete_unused_original(digest)
