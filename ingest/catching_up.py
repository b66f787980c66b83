"""Originals that are stored as they came, from before they were de-identified: found, and taken care of.

Safe beside imports, and to stop any time: each file is done in one transaction, and is not done again.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from django.db import transaction
from django.db.models import F, Q, Value
from django.db.models.functions import Concat, Substr

from ingest.checking import CHUNK, Finding
from ingest.deidentifying import (
    APPLIED,
    CLEAN_PIXEL_DATA,
    Deidentified,
    deidentify,
    tags_without_words,
    without_words,
)
from ingest.image_file import RejectedFile
from ingest.keeping import store_kept, stored_original
from ingest.models import Image, ImageQuerySet, UploadedFile
from ingest.storing import delete_unused_original, digest_of

AS_IT_CAME = Concat(Value("originals/"), Substr("sha256", 1, 2), Value("/"), F("sha256"))
DICOM = Q(file_format="DICOM")


@dataclass(frozen=True)
class Outcome:
    """How many files were, or would be, done; how many have no notes; how many are lost or cannot be read."""

    done: int = 0
    clean: int = 0
    failed: int = 0

    def __add__(self, other: "Outcome") -> "Outcome":
        return Outcome(self.done + other.done, self.clean + other.clean, self.failed + other.failed)


def images_as_they_came() -> ImageQuerySet:
    """DICOM that was not de-identified, and pictures that may have notes, where identifiers are not kept."""
    raw = DICOM & ~Q(deidentification__contains=APPLIED[0]) | ~DICOM & Q(original=AS_IT_CAME)
    return Image.objects.filter(raw, dataset__keeps_identifiers=False)


def check_originals() -> list[Finding]:
    """No DICOM file is stored as it came, where identifiers are not kept. Pictures would have to be read."""
    raw = Finding("not_deidentified", "images whose original was not de-identified")
    raw.add_all(images_as_they_came().filter(DICOM))
    return [raw]


def originals_as_they_came() -> Iterator[str]:
    """The names of their files, each once, in the order in which they came in."""
    last, before = 0, ""
    images = images_as_they_came().order_by("pk").values_list("pk", "original")
    while chunk := list(images.filter(pk__gt=last)[:CHUNK]):
        for _, name in chunk:
            if name != before:
                yield name
            before = name
        last = chunk[-1][0]


def deidentify_original(name: str, *, only_check: bool = False) -> Outcome:
    """Keep the original of this name as it would be kept if it came in today, and tell what was done."""
    with transaction.atomic():
        images = images_as_they_came().filter(original=name).order_by("pk").select_for_update(of=("self",))
        first = images.first()
        if first is None:  # another process was faster
            return Outcome()
        try:
            content = stored_original(digest_of(name))
            kept = deidentify(content, is_masked=CLEAN_PIXEL_DATA in first.deidentification)
        except RejectedFile:
            return Outcome(failed=1)
        if kept.content == content or only_check:
            return Outcome(clean=1) if kept.content == content else Outcome(done=1)
        kept_name = store_kept(kept.content, digest_of(name))
        for image in images:
            rewrite(image, kept, kept_name)
    delete_unused_original(digest_of(name))
    return Outcome(done=1)


def rewrite(image: Image, kept: Deidentified, name: str) -> None:
    """What the database has of an image, without what names the patient, and its new original."""
    image.original, image.deidentification = name, " ".join(kept.methods)
    image.tags = tags_without_words(image.tags, kept.identifiers)
    image.body_part_examined = without_words(image.body_part_examined, kept.identifiers)
    image.source_path = without_words(image.source_path, kept.identifiers)
    image.save(update_fields=["original", "deidentification", "tags", "body_part_examined", "source_path"])
    rows = UploadedFile.objects.filter(Q(pk=image.uploaded_file_id) | Q(duplicate_of=image))
    for row in rows.select_for_update():
        UploadedFile.objects.filter(pk=row.pk).update(path=without_words(row.path, kept.identifiers))
