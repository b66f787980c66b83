"""From a queued file to the images of the collection.

The ledger is the queue: a row is claimed by an UPDATE, read, and finished in one transaction. Any number of
workers may do so at once, and a killed one's rows are taken up again.
"""

import logging
import time
import traceback
from contextlib import suppress
from datetime import timedelta
from functools import partial

from django.core.files.storage import default_storage
from django.db import DatabaseError, IntegrityError, InterfaceError, OperationalError, transaction
from django.db.models import F, Q
from django.utils import timezone

from ingest.deidentifying import CLEAN_PIXEL_DATA, Deidentified, tags_without_words, without_words
from ingest.duplicates import pair_same_pixels, pixel_hash
from ingest.image_file import Frame, LeftOut, ReadImage, RejectedFile
from ingest.keeping import (
    MISSING_BYTES,
    forget_incoming,
    kept_of,
    path_kept,
    store_kept,
    stored_original,
    tidy_duplicate,
)
from ingest.labels import modality_code, organ_of_body_part
from ingest.masking import masked
from ingest.models import (
    Decision,
    FileState,
    Image,
    ImageQuerySet,
    LabelSource,
    UploadBatch,
    UploadedFile,
    UploadedFileQuerySet,
)
from ingest.naming import modality_meant, organ_meant
from ingest.pseudonyms import group_key_of, keyed_hash, patient_key_of
from ingest.quarantine import decision_on, hold, reason_to_hold
from ingest.reading import read_image
from ingest.renditions import network_rendition, preview
from ingest.signals import images_imported
from ingest.storing import (
    delete_unused_original,
    original_name,
    preview_name,
    rendition_name,
    store_once,
)
from ingest.trying import try_out

logger = logging.getLogger(__name__)

CLAIM_TIMEOUT = timedelta(minutes=1)  # a living reader holds its row locked, however long it takes
MAX_ATTEMPTS = 3
ANNOUNCE_EVERY = 32  # files
LABELS_TOLD = ("organ_name", "modality_code")  # by a dry run


def import_queued(batch: UploadBatch | None = None, seconds: float | None = None) -> int:
    """Claim and import queued files, of one batch or of all, until none is left or the time is over.

    Returns how many files were handled. `images_imported` is sent for every 32 files and at the end.
    """
    started = time.monotonic()
    release_stuck_files()
    handled, image_ids = 0, list[int]()
    try:
        while (seconds is None or time.monotonic() - started < seconds) and (row := claim_next_file(batch)):
            image_ids += import_file(row)
            handled += 1
            if handled % ANNOUNCE_EVERY == 0:
                announce(image_ids)
                image_ids = []
    finally:
        announce(image_ids)
    return handled


def announce(image_ids: list[int]) -> None:
    if image_ids:
        transaction.on_commit(partial(images_imported.send, sender=UploadBatch, image_ids=image_ids))


def claim_next_file(batch: UploadBatch | None = None) -> UploadedFile | None:
    """Take the oldest queued file that nobody else is taking; committed before it is read."""
    queued = UploadedFile.objects.filter(state=FileState.QUEUED, **({"batch": batch} if batch else {}))
    with transaction.atomic():
        row = queued.order_by("id").select_for_update(skip_locked=True, no_key=True).first()
        if row is None:
            return None
        row.state, row.claimed_at = FileState.READING, timezone.now()
        row.attempts += 1
        row.save(update_fields=["state", "claimed_at", "attempts"])
        return row


def stuck_files() -> UploadedFileQuerySet:
    """Rows that a killed worker was reading, locked: to be asked within a transaction."""
    overdue = Q(claimed_at=None) | Q(claimed_at__lt=timezone.now() - CLAIM_TIMEOUT)
    reading = UploadedFile.objects.filter(overdue, state=FileState.READING)
    return reading.select_for_update(skip_locked=True, no_key=True)


def release_stuck_files() -> None:
    """Queue again what a killed worker was reading; give up on what has killed several."""
    with transaction.atomic():
        stuck = list(stuck_files().values_list("pk", "attempts"))
        again = [pk for pk, attempts in stuck if attempts < MAX_ATTEMPTS]
        UploadedFile.objects.filter(pk__in=again).update(state=FileState.QUEUED)
        for row in UploadedFile.objects.filter(pk__in=[pk for pk, _ in stuck]).exclude(pk__in=again):
            reject(row, "crashed_reader", "Reading this file stopped the reader several times.")


def import_file(row: UploadedFile) -> list[int]:
    """Read a claimed file and finish its row; returns the ids of the images made.

    Trouble of the machine (database, disk) is raised, and the file is tried again later.
    """
    try:
        with transaction.atomic():
            # Locked until it is finished: so a slow reader is told from a dead one.
            rows = held_by(row).select_for_update(no_key=True, of=("self",))
            image_ids = []
            if locked := rows.select_related("batch__dataset").first():
                row = locked  # has the path that is to be told, as soon as the file was opened
                image_ids = read_and_store(row)
        forget_incoming(row.sha256)
        return image_ids
    except LeftOut as left_out:
        reject(row, left_out.code, left_out.sentence, FileState.LEFT_OUT)
    except RejectedFile as rejected:
        reject(row, rejected.code, rejected.sentence)
    except Exception as error:
        if is_trouble_of_the_machine(error):
            queue_again(row)
            raise
        # Messages may quote the file; where it happened is enough.
        frames = "".join(traceback.format_tb(error.__traceback__))
        logger.error("File %s could not be imported: %s\n%s", row.pk, type(error).__name__, frames)
        reject(
            row,
            "internal_error",
            "This file could not be imported. The administrator finds the cause in the log.",
        )
    return []


def is_trouble_of_the_machine(error: Exception) -> bool:
    """A database or disk that fails, rather than a file that cannot be read."""
    return isinstance(error, OperationalError | InterfaceError) or (
        isinstance(error, OSError) and error.errno is not None
    )


def queue_again(row: UploadedFile) -> None:
    """As if the file had not been claimed. Where even this fails, `release_stuck_files` does it later."""
    with suppress(DatabaseError):
        held_by(row).update(state=FileState.QUEUED, attempts=F("attempts") - 1)


def held_by(row: UploadedFile) -> UploadedFileQuerySet:
    """The row, unless it was taken up by another worker since it was claimed."""
    return UploadedFile.objects.filter(pk=row.pk, state=FileState.READING, attempts=row.attempts)


def reject(row: UploadedFile, code: str, sentence: str, state: str = FileState.REJECTED) -> None:
    """Its bytes are kept a while: what rejected it may be mended (see ingest/ledger.py). Not of a dry run."""
    is_dry_run = row.batch.is_dry_run
    held_by(row).update(
        path=row.path,
        state=state,
        reason_code=code,
        reason=sentence[:500],
        finished_at=timezone.now(),
        is_retryable=code != MISSING_BYTES and not is_dry_run,
    )
    if is_dry_run:
        transaction.on_commit(partial(delete_unused_original, row.sha256))


def read_and_store(row: UploadedFile) -> list[int]:
    """Make the images of a locked row, find that they exist, or hold the file back for a person's eye; of a
    dry run, only tell."""
    if row.batch.is_dry_run:
        content = stored_original(row.sha256)
        row.path = path_kept(row, content)
        try_out(row, content)
        finish(row, FileState(row.state))
        return []
    existing = Image.objects.filter(sha256=row.sha256).order_by("frame_number")
    merged = UploadedFile.objects.filter(sha256=row.sha256, reason_code="merged").values("duplicate_of")
    if finish_as_duplicate(row, existing) or finish_as_duplicate(row, Image.objects.filter(pk__in=merged)):
        return []
    content, decision = stored_original(row.sha256), decision_on(row)
    row.path = path_kept(row, content)
    is_masked = decision is not None and decision.decision == Decision.MASK
    if decision and is_masked:
        content = masked(content, decision.boxes)
    image = read_image(content, row.batch.dataset.slice_rule)
    kept = kept_of(row, content, is_masked)
    if decision is None and (why := reason_to_hold(row, content, image)):
        hold(row, image)
        row.reason_code, row.reason = why
        finish(row, FileState.QUARANTINED)
        return []
    try:
        with transaction.atomic():
            images = Image.objects.bulk_create(images_of(row, image, kept))
            pair_same_pixels(images)
    except IntegrityError:  # another worker stored the same bytes meanwhile
        if finish_as_duplicate(row, existing.all()):
            return []
        raise
    finish(row, FileState.IMPORTED)
    return [image.pk for image in images]


def finish(row: UploadedFile, state: FileState) -> None:
    row.state, row.finished_at = state, timezone.now()
    told = ["path", "state", "finished_at", "reason_code", "reason", "duplicate_of", *LABELS_TOLD]
    row.save(update_fields=told)


def finish_as_duplicate(row: UploadedFile, existing: ImageQuerySet) -> bool:
    """Finish a row whose bytes are in the collection, giving their images the labels that they lack.

    Images in the trash come out of it, into the data set that the file came for.
    """
    first = existing.first()
    if first is None:
        return False
    if row.organ_name:
        organ = organ_meant(row.organ_name, makes_organs=row.batch.makes_organs)
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


def images_of(row: UploadedFile, image: ReadImage, kept: Deidentified) -> list[Image]:
    """Unsaved images, one per chosen frame, with their files stored. Identifiers become keyed hashes."""
    organ = row.organ_name
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
        "organ": organ_meant(organ, makes_organs=row.batch.makes_organs),
        "incoming_organ": organ,
        "modality": modality_meant(modality, makes=row.batch.makes_organs),
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
