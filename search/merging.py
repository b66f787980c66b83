"""Of two images that are one, the one that stays: with the labels, the provenance and the history of both."""

from collections.abc import Mapping
from typing import Any

from django.contrib.auth.models import AnonymousUser, User
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from ingest.duplicates import pair
from ingest.labelling import LABELS, Labels, label
from ingest.models import (
    DuplicatePair,
    FileState,
    Image,
    LabelChange,
    LabelOrigin,
    Likeness,
    UploadedFile,
)
from search.models import Mark, Query

OF_PATIENT = ("patient_key", "study_key", "series_key", "group_key")


class MergeError(Exception):
    """What cannot be merged so; its text is a sentence for the person."""


def contradictions(one: Image, other: Image) -> list[str]:
    """Labels that both have, and not the same."""
    pairs = {name: (getattr(one, column), getattr(other, column)) for name, column in LABELS.items()}
    return [name for name, (its, others) in pairs.items() if its and others and its != others]


def has_known_patient(image: Image) -> bool:
    """Whether its file, or the manifest that came with it, tells whose it is."""
    file = image.uploaded_file
    return bool(image.patient_key or image.study_key or (file and file.group_key))


def merge(found: DuplicatePair, keep: int, choices: Mapping[str, str], user: User | AnonymousUser) -> Image:
    """Make one image of a pair: `keep` stays, the other one goes. Raises MergeError.

    choices: of labels that contradict each other, "first" or "second". It takes over labels that it lacks.
    The other file's row in the ledger, its history of labels, and the searches and marks that were about it
    point to the image that stays; should its bytes come in again, they are a duplicate of that.
    """
    with transaction.atomic():
        images = Image.objects.select_for_update(no_key=True).in_bulk([found.first_id, found.second_id])
        if len(images) < 2 or keep not in images:
            raise MergeError("One of these images is no longer there.")
        first, second = images[found.first_id], images[found.second_id]
        kept = images[keep]
        gone = second if kept is first else first
        given = labels_after(kept, gone, {"first": first, "second": second}, choices)
        if given:
            label(Image.objects.filter(pk=kept.pk), Labels(**given), user, LabelOrigin.DUPLICATE)
        take_over_provenance(kept, gone, found.likeness)
        take_over_searches(kept, gone)
        take_over_pairs(kept, gone)
        gone.delete()
    return kept


def labels_after(
    kept: Image, gone: Image, images: Mapping[str, Image], choices: Mapping[str, str]
) -> dict[str, Any]:
    """Labels to give to the image that stays."""
    given = {}
    for name in contradictions(kept, gone):
        if choices.get(name) not in images:
            raise MergeError(f"The labels contradict each other: choose the {name}.")
        given[name] = getattr(images[choices[name]], LABELS[name])
    for name, column in LABELS.items():
        if not getattr(kept, column) and getattr(gone, column):
            given[name] = getattr(gone, column)
    return given


def take_over_provenance(kept: Image, gone: Image, likeness: str) -> None:
    changes = {
        name: getattr(gone, name)
        for name in ("incoming_organ", "incoming_modality")
        if not getattr(kept, name) and getattr(gone, name)
    }
    if has_known_patient(gone) and not has_known_patient(kept):
        changes |= {name: getattr(gone, name) for name in OF_PATIENT}
    if changes:
        Image.objects.filter(pk=kept.pk).update(**changes)
    UploadedFile.objects.filter(duplicate_of=gone).update(duplicate_of=kept)
    others_of_file = Image.objects.filter(uploaded_file=gone.uploaded_file_id).exclude(pk=gone.pk)
    if gone.uploaded_file_id and not others_of_file.exists():
        UploadedFile.objects.filter(pk=gone.uploaded_file_id).update(
            state=FileState.DUPLICATE,
            reason_code="merged",
            reason=f"{Likeness(likeness).label.capitalize()}: merged by a curator into image {kept.pk}.",
            duplicate_of=kept,
        )
    LabelChange.objects.filter(image=gone).update(image=kept)


def take_over_searches(kept: Image, gone: Image) -> None:
    Query.objects.filter(image=gone).update(
        image=kept, preview=kept.preview.name, sha256=kept.sha256, group_key=kept.group_key
    )
    marks = Mark.objects.filter(image=kept)
    for mark in Mark.objects.filter(image=gone):
        if not marks.filter(query=mark.query_id, created_by=mark.created_by_id).exists():
            Mark.objects.filter(pk=mark.pk).update(image=kept)
    for through in (Query.relevant.through, Query.irrelevant.through):
        rows: Any = through._default_manager
        has_kept = rows.filter(image=kept).values("query")
        rows.filter(image=gone).exclude(query__in=has_kept).update(image=kept)


def take_over_pairs(kept: Image, gone: Image) -> None:
    """What the image that goes is a pair with, the one that stays is, and what was said of it holds."""
    pairs = DuplicatePair.objects.filter(Q(first=gone) | Q(second=gone)).select_related("first", "second")
    for each in pairs:
        other = each.second if each.first_id == gone.pk else each.first
        if other.pk != kept.pk:
            same = kept.pixel_hash != "" and kept.pixel_hash == other.pixel_hash
            pair(
                kept.pk,
                other.pk,
                Likeness.PIXELS if same else Likeness.NEAR,
                is_different=each.is_different,
                decided_by_id=each.decided_by_id,
                decided_at=each.decided_at,
            )


def keep_apart(found: DuplicatePair, user: User | AnonymousUser) -> None:
    """They are different: the pair does not come again."""
    found.is_different, found.decided_at = True, timezone.now()
    found.decided_by = user if isinstance(user, User) else None
    found.save(update_fields=["is_different", "decided_at", "decided_by"])
