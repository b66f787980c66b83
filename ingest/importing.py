"""From a queued file to the images of the collection.

Rows of the ledger are claimed some at a time (ingest/claiming.py); each is read and finished in a transaction
of its own. Any number of workers may do so at once, and a killed one's rows are taken up again.
"""

import logging
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from django.core.files.storage import default_storage
from django.db import IntegrityError, transaction
from django.utils import timezone

from ingest.claiming import (
    claim_files,
    held_by,
    is_trouble_of_the_machine,
    lock,
    queue_again,
    reject,
    release_stuck_files,
    tidy,
)
from ingest.deidentifying import CLEAN_PIXEL_DATA, Deidentified, tags_without_words, without_words
from ingest.duplicates import pair_same_pixels, pixel_hash
from ingest.image_file import Frame, LeftOut, ReadImage, RejectedFile
from ingest.keeping import kept_of, path_kept, store_kept, stored_original, tidy_duplicate
from ingest.labels import modality_code, organ_of_body_part
from ingest.masking import masked
from ingest.models import (
    Decision,
    FileState,
    Image,
    ImageQuerySet,
    LabelSource,
    Modality,
    OrganClass,
    QuarantinedFile,
    UploadBatch,
    UploadedFile,
)
from ingest.naming import modality_meant, organ_meant
from ingest.pseudonyms import group_key_of, keyed_hash, patient_key_of
from ingest.quarantine import decisions_on, hold, reason_to_hold
from ingest.reading import read_image
from ingest.renditions import network_rendition, preview
from ingest.signals import about_to_work, images_imported
from ingest.storing import (
    original_name,
    preview_name,
    rendition_name,
    store_once,
)
from ingest.trying import try_out

logger = logging.getLogger(__name__)

Row = TypeVar("Row", OrganClass, Modality)
LABELS_TOLD = ("organ_name", "modality_code")  # by a dry run


def import_queued(batch: UploadBatch | None = None, seconds: float | None = None) -> int:
    """Claim and import queued files, of one batch or of all, until none is left or the time is over.

    Returns how many files were handled.
    """
    started, handled = time.monotonic(), 0
    release_stuck_files()
    while (seconds is None or time.monotonic() - started < seconds) and (rows := claim_files(batch)):
        import_claimed(rows)
        handled += len(rows)
    return handled


def import_claimed(rows: list[UploadedFile]) -> None:
    """Finish the rows of a claim, and send `images_imported`."""
    known, image_ids, waiting = Known.of(rows), list[int](), list(rows)
    try:
        while waiting:
            about_to_work.send(sender=UploadBatch)
            image_ids += import_file(waiting.pop(0), known)
    finally:
        for row in waiting:
            queue_again(row)
        announce(image_ids)
        tidy(rows)


@dataclass
class Known:
    """What one look tells of all the files of a claim."""

    digests: set[str]  # of those whose bytes are an image's already, or were before it was merged
    decisions: dict[int, QuarantinedFile]  # of people in the quarantine, by file
    meanings: dict[tuple[object, ...], Any] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: list[UploadedFile]) -> "Known":
        digests = [row.sha256 for row in rows]
        merged = UploadedFile.objects.filter(sha256__in=digests, reason_code="merged")
        images = Image.objects.filter(sha256__in=digests).order_by()
        found = {*images.values_list("sha256", flat=True), *merged.values_list("sha256", flat=True)}
        return cls(found, decisions_on(rows))

    def meaning(self, meant: Callable[..., Row | None], name: str, *, makes: bool) -> Row | None:
        """As `meant` says; asked once where it is something, and nothing that was made is rolled back."""
        key = (meant, name, makes)
        if key in self.meanings:
            return self.meanings[key]  # type: ignore[no-any-return]
        if found := meant(name, makes=makes):
            transaction.on_commit(partial(self.meanings.__setitem__, key, found))
        return found


def announce(image_ids: list[int]) -> None:
    if image_ids:
        transaction.on_commit(partial(images_imported.send, sender=UploadBatch, image_ids=image_ids))


def import_file(row: UploadedFile, known: Known) -> list[int]:
    """Read a claimed file and finish its row; returns the ids of the images made.

    Trouble of the machine (database, disk) is raised, and the file is tried again later.
    """
    try:
        with transaction.atomic():
            return read_and_store(row, known) if lock(row) else []
    except LeftOut as left_out:
        turn_away(row, left_out.code, left_out.sentence, FileState.LEFT_OUT)
    except RejectedFile as rejected:
        turn_away(row, rejected.code, rejected.sentence)
    except Exception as error:
        if is_trouble_of_the_machine(error):
            queue_again(row)
            raise
        if isinstance(error, IntegrityError) and known.meanings:  # a class known here was merged meanwhile
            known.meanings.clear()
            held_by(row).update(state=FileState.QUEUED)  # the attempt counts: it is claimed alone next
            return []
        # Messages may quote the file; where it happened is enough.
        frames = "".join(traceback.format_tb(error.__traceback__))
        logger.error("File %s could not be imported: %s\n%s", row.pk, type(error).__name__, frames)
        sentence = "This file could not be imported. The administrator finds the cause in the log."
        turn_away(row, "internal_error", sentence)
    return []


def turn_away(row: UploadedFile, code: str, sentence: str, state: str = FileState.REJECTED) -> None:
    """Reject a file that was opened: its path loses the words by which it names the patient."""
    with suppress(RejectedFile):
        row.path = path_kept(row, stored_original(row.sha256))
    reject(row, code, sentence, state)


def read_and_store(row: UploadedFile, known: Known) -> list[int]:
    """Make the images of a locked row, find that they exist, or hold the file back for a person's eye; of a
    dry run, only tell."""
    if row.batch.is_dry_run:
        content = stored_original(row.sha256)
        row.path = path_kept(row, content)
        try_out(row, content)
        finish(row, FileState(row.state))
        return []
    if row.sha256 in known.digests and finish_as_duplicate(row):
        return []
    content, decision = stored_original(row.sha256), known.decisions.get(row.pk)
    is_masked = decision is not None and decision.decision == Decision.MASK
    if decision and is_masked:
        content = masked(content, decision.boxes)
    image = read_image(content, row.batch.dataset.slice_rule)
    kept = kept_of(row, content, is_masked)
    row.path = without_words(row.path, kept.identifiers)
    if decision is None and (why := reason_to_hold(row, image)):
        hold(row, image)
        row.reason_code, row.reason = why
        finish(row, FileState.QUARANTINED)
        return []
    try:
        with transaction.atomic():
            images = Image.objects.bulk_create(images_of(row, image, kept, known))
            pair_same_pixels(images)
    except IntegrityError:  # another worker stored the same bytes meanwhile
        if finish_as_duplicate(row):
            return []
        raise
    known.digests.add(row.sha256)
    finish(row, FileState.IMPORTED)
    return [image.pk for image in images]


def finish(row: UploadedFile, state: FileState) -> None:
    row.state, row.finished_at = state, timezone.now()
    told = ["path", "state", "finished_at", "reason_code", "reason", "duplicate_of", *LABELS_TOLD]
    row.save(update_fields=told)


def finish_as_duplicate(row: UploadedFile) -> bool:
    """Finish a row whose bytes are in the collection, giving their images the labels that they lack.

    Images in the trash come out of it, into the data set that the file came for. False: they are not there.
    """
    merged = UploadedFile.objects.filter(sha256=row.sha256, reason_code="merged").values("duplicate_of")
    same, instead = Image.objects.filter(sha256=row.sha256), Image.objects.filter(pk__in=merged)
    existing: ImageQuerySet = same if same.exists() else instead
    first = existing.order_by("frame_number").first()
    if first is None:
        return False
    if row.organ_name:
        organ = organ_meant(row.organ_name, makes=row.batch.makes_organs)
        existing.filter(organ=None).update(organ=organ, incoming_organ=row.organ_name)
    if row.modality_code:
        modality = modality_meant(row.modality_code, makes=row.batch.makes_organs)
        existing.filter(modality=None).update(modality=modality, incoming_modality=row.modality_code)
    existing.filter(dataset__trashed_at__isnull=False).update(dataset=row.batch.dataset_id)
    if first.original.name != original_name(row.sha256):  # it is kept otherwise than it came
        tidy_duplicate(row, first)
    row.duplicate_of, row.reason_code = first, "duplicate"
    row.reason = f"The same bytes are already in the collection as image {first.pk}."
    finish(row, FileState.DUPLICATE)
    return True


def images_of(row: UploadedFile, image: ReadImage, kept: Deidentified, known: Known) -> list[Image]:
    """Unsaved images, one per chosen frame, with their files stored. Identifiers become keyed hashes."""
    makes, organ = row.batch.makes_organs, row.organ_name
    if not organ and row.batch.label_source == LabelSource.DICOM:
        organ = organ_of_body_part(image.body_part_examined)
    modality = row.modality_code or modality_code(image.modality)
    common = {
        "dataset_id": row.batch.dataset_id,
        "uploaded_file": row,
        "sha256": row.sha256,
        "source_path": row.path,
        "original": store_kept(kept.content, row.sha256),
        "deidentification": " ".join(kept.methods),
        "organ": known.meaning(organ_meant, organ, makes=makes),
        "incoming_organ": organ,
        "modality": known.meaning(modality_meant, modality, makes=makes),
        "incoming_modality": modality,
        "split": row.split,
        "patient_key": patient_key_of(image),
        "study_key": keyed_hash(image.study_instance_uid),
        "series_key": keyed_hash(image.series_instance_uid),
        "group_key": group_key_of(image, row.sha256, row.group_key),
        "body_part_examined": without_words(image.body_part_examined[:64], kept.identifiers),
        "number_of_frames": image.number_of_frames,
        "file_format": image.file_format,
        "transfer_syntax_uid": image.transfer_syntax_uid[:64],
        "bits_stored": image.bits_stored,
        "assumptions": list(image.assumptions),
    }
    is_masked = CLEAN_PIXEL_DATA in kept.methods
    return [
        Image(
            **common,
            tags=tags_without_words(image.tags | frame.tags, kept.identifiers),
            **stored_frame(row.sha256, frame, anew=is_masked),
        )
        for frame in image.frames
    ]


def stored_frame(sha256: str, frame: Frame, *, anew: bool = False) -> dict[str, str | int]:
    """Store a frame's two pictures; the fields of its image. `anew`: whatever may still lie there."""
    rendition, picture = network_rendition(frame.pixels), preview(frame.pixels)
    if anew:
        default_storage.delete(rendition_name(sha256, frame.frame_number))
        default_storage.delete(preview_name(sha256, frame.frame_number))
    return {
        "frame_number": frame.frame_number,
        "rows": frame.pixels.shape[0],
        "columns": frame.pixels.shape[1],
        "pixel_hash": pixel_hash(frame.pixels),
        "rendition": store_once(rendition_name(sha256, frame.frame_number), rendition, len(rendition)),
        "preview": store_once(preview_name(sha256, frame.frame_number), picture, len(picture)),
    }
