"""Files that are held back because text may be burned into their pictures, until a person decides."""

import logging
from collections.abc import Iterable, Mapping
from functools import partial

from django.contrib.auth.models import AnonymousUser, User
from django.core.files.storage import default_storage
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from ingest.bell import ring
from ingest.burned_in import TEXT, text_boxes, together
from ingest.image_file import ReadImage
from ingest.masking import Box
from ingest.models import BurnedInText, Decision, FileState, QuarantinedFile, UploadedFile
from ingest.renditions import preview
from ingest.storing import delete_unused_original, quarantine_name, store_once

logger = logging.getLogger(__name__)

LOOKED_AT = 3  # frames of a file
MOST_BOXES = 200  # of one file
KEPT_OUT = ("kept_out", "A person has rejected it in the quarantine; its bytes were deleted.")


def reason_to_hold(row: UploadedFile, image: ReadImage) -> tuple[str, str] | None:
    """Code and sentence where a file must wait for a person; None where it may come in."""
    dataset = row.batch.dataset
    if row.batch.is_trusted or dataset.burned_in_text == BurnedInText.TRUSTED:
        return None
    if image.text_likely:
        return image.text_likely
    return TEXT if dataset.burned_in_text == BurnedInText.DETECT and boxes_in(image) else None


def boxes_in(image: ReadImage) -> list[list[float]]:
    """Where text is in some of the frames; it mostly stands still."""
    boxes: list[list[float]] = []
    step = -(-len(image.frames) // LOOKED_AT)
    for frame in image.frames[::step]:
        boxes = together(boxes, text_boxes(frame.pixels))
    return boxes[:MOST_BOXES]


def hold(row: UploadedFile, image: ReadImage) -> None:
    """Keep what a person needs to decide: the frames as pictures, and where text is in them."""
    for frame in image.frames:
        name, picture = quarantine_name(row.sha256, frame.frame_number), preview(frame.pixels)
        default_storage.delete(name)
        store_once(name, picture, len(picture))
    QuarantinedFile.objects.update_or_create(
        file=row,
        defaults={
            "boxes": boxes_in(image),
            "frame_numbers": [frame.frame_number for frame in image.frames],
            "decision": "",
        },
    )


def decisions_on(rows: Iterable[UploadedFile]) -> dict[int, QuarantinedFile]:
    """By file: what people have decided on those of them that were held back."""
    decided = QuarantinedFile.objects.filter(file__in=rows).exclude(decision="")
    return {each.file_id: each for each in decided}


def undecided() -> QuerySet[QuarantinedFile]:
    """The oldest first."""
    return QuarantinedFile.objects.filter(decision="", file__state=FileState.QUARANTINED)


def decide(
    decision: Decision, boxes_of_files: Mapping[int, Iterable[Box]], user: User | AnonymousUser | None
) -> int:
    """Mask, let in as it is, or reject the files of these quarantine numbers; returns how many that were.

    `boxes_of_files`: what is masked of each; files of the same bytes are decided on at once. Others, and
    those that somebody has decided on meanwhile, are left alone.
    """
    now, person, decided = timezone.now(), user if isinstance(user, User) else None, 0
    with transaction.atomic():
        for chosen in undecided().filter(pk__in=list(boxes_of_files)).select_related("file"):
            boxes = [list(box) for box in boxes_of_files[chosen.pk]]
            same = UploadedFile.objects.filter(sha256=chosen.file.sha256, state=FileState.QUARANTINED)
            rows = list(same.select_for_update(no_key=True).values_list("pk", flat=True))
            held = QuarantinedFile.objects.filter(file__in=rows, decision="")
            held.update(decision=decision, decided_by=person, decided_at=now)
            if decision == Decision.MASK:
                QuarantinedFile.objects.filter(file__in=rows).update(boxes=boxes)
            move_on(UploadedFile.objects.filter(pk__in=rows), decision)
            transaction.on_commit(partial(forget_pictures, chosen.file.sha256, chosen.frame_numbers))
            decided += len(rows)
        if decided and decision != Decision.REJECT:
            ring("ingest.import_queued_files")
    if decided:
        logger.info("Quarantine: %s files %s by account %s.", decided, decision.label, person and person.pk)
    return decided


def move_on(rows: QuerySet[UploadedFile], decision: Decision) -> None:
    """Queue them again, or reject them for good."""
    if decision == Decision.REJECT:
        code, sentence = KEPT_OUT
        rows.update(state=FileState.REJECTED, reason_code=code, reason=sentence, finished_at=timezone.now())
        for sha256 in rows.values_list("sha256", flat=True):
            transaction.on_commit(partial(delete_unused_original, sha256))
    else:
        rows.update(
            state=FileState.QUEUED, reason_code="", reason="", attempts=0, claimed_at=None, finished_at=None
        )


def forget_pictures(sha256: str, frame_numbers: Iterable[int]) -> None:
    for number in frame_numbers:
        default_storage.delete(quarantine_name(sha256, number))
