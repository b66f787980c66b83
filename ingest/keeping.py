"""What is kept of a file in place of what came in, and what becomes of that."""

import hashlib
from contextlib import suppress

from django.core.files.storage import default_storage

from ingest.deidentifying import (
    CLEAN_PIXEL_DATA,
    Deidentified,
    deidentify,
    identifiers_in,
    without_words,
)
from ingest.image_file import RejectedFile
from ingest.masking import masked
from ingest.models import Decision, Image, QuarantinedFile, UploadedFile
from ingest.storing import lock_bytes, original_name, store_once

MISSING_BYTES = "missing_bytes"


def kept_of(row: UploadedFile, content: bytes, is_masked: bool) -> Deidentified:
    """What is kept of a file in place of what came in. Raises RejectedFile."""
    if row.batch.dataset.keeps_identifiers:
        return Deidentified(content, (CLEAN_PIXEL_DATA,) if is_masked else ())
    return deidentify(content, is_masked=is_masked)


def path_kept(row: UploadedFile, content: bytes) -> str:
    """Where the file lay, without the words by which it names the patient; whatever becomes of it."""
    if row.batch.dataset.keeps_identifiers:
        return row.path
    return without_words(row.path, identifiers_in(content))


def store_kept(content: bytes, sha256: str) -> str:
    """Store a file as it is kept, under its own digest; until the transaction ends nobody deletes it."""
    digest = hashlib.sha256(content).hexdigest()
    if digest == sha256:  # as it came in: it is there, and is kept for its row
        return original_name(digest)
    lock_bytes(digest)
    return store_once(original_name(digest), content, len(content))


def stored_original(sha256: str) -> bytes:
    try:
        with default_storage.open(original_name(sha256)) as file:
            content = bytes(file.read())
    except FileNotFoundError as error:
        raise RejectedFile(MISSING_BYTES, "The file's bytes are no longer stored. Send it again.") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise RejectedFile(MISSING_BYTES, "The file's stored bytes were damaged. Send it again.")
    return content


def tidy_duplicate(row: UploadedFile, image: Image) -> None:
    """Keep the patient's name out of the row too, and put a lost original in its place again."""
    with suppress(RejectedFile):
        content, mask = stored_original(row.sha256), None
        if CLEAN_PIXEL_DATA in image.deidentification:
            mask = QuarantinedFile.objects.filter(file=image.uploaded_file_id, decision=Decision.MASK).first()
        row.path = without_words(row.path, identifiers_in(content))
        is_lost = image.sha256 == row.sha256 and not default_storage.exists(str(image.original.name))
        if is_lost and (mask or CLEAN_PIXEL_DATA not in image.deidentification):
            content = masked(content, mask.boxes) if mask else content
            name = store_kept(deidentify(content, is_masked=bool(mask)).content, row.sha256)
            Image.objects.filter(sha256=row.sha256).update(original=name)
