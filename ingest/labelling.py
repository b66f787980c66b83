"""Labels given by people: one image or thousands in one act, with a history, and undone as one."""

from collections.abc import Sequence
from dataclasses import dataclass

from django.contrib.auth.models import AnonymousUser, User
from django.db import transaction
from django.db.models import Exists, F, OuterRef
from django.utils import timezone

from ingest.merged import bring_back
from ingest.models import (
    Image,
    ImageQuerySet,
    LabelChange,
    LabelEdit,
    LabelOrigin,
    Modality,
    ModalityName,
    OrganClass,
    OrganName,
)

LABELS = {"organ": "organ_id", "modality": "modality_id", "split": "split"}  # attribute: its column
LABELLED_AT_ONCE = 5_000  # images


@dataclass(frozen=True)
class Labels:
    """What images are to be labelled: None leaves a label as it is, "" takes it away.

    organ: the key of an OrganClass; modality: a DICOM code; split: "train" or "test".
    """

    organ: int | str | None = None
    modality: str | None = None
    split: str | None = None

    def given(self) -> dict[str, int | str]:
        """By attribute, what is not left as it is."""
        return {name: value for name in LABELS if (value := getattr(self, name)) is not None}


def label(
    images: ImageQuerySet, labels: Labels, user: User | AnonymousUser | None, origin: LabelOrigin
) -> LabelEdit:
    """Give images these labels in one act, and tell who, when, and what they had before.

    A label that an image has already is kept in the history too: somebody has confirmed it.
    """
    return label_each([(images, labels)], user, origin)


def label_each(
    parts: Sequence[tuple[ImageQuerySet, Labels]], user: User | AnonymousUser | None, origin: LabelOrigin
) -> LabelEdit:
    """As `label`, some images one way and some another, in one act."""
    asked = [(images, labels.given()) for images, labels in parts]
    summary = "; ".join(dict.fromkeys(in_words(given) for _, given in asked))
    with transaction.atomic():
        edit = LabelEdit.objects.create(
            created_by=user if isinstance(user, User) else None, origin=origin, summary=summary[:200]
        )
        for images, given in asked:
            ids = list(images.order_by("pk").values_list("pk", flat=True))
            for start in range(0, len(ids), LABELLED_AT_ONCE):
                change(edit, Image.objects.filter(pk__in=ids[start : start + LABELLED_AT_ONCE]), given)
    return edit


def change(edit: LabelEdit, images: ImageQuerySet, given: dict[str, int | str]) -> None:
    rows = list(images.select_for_update(no_key=True).order_by("pk").values("pk", *LABELS.values()))
    LabelChange.objects.bulk_create(
        LabelChange(
            edit=edit,
            image_id=row["pk"],
            attribute=name,
            before=as_text(row[LABELS[name]]),
            after=as_text(value),
        )
        for row in rows
        for name, value in given.items()
    )
    images.update(**{LABELS[name]: as_column(name, as_text(value)) for name, value in given.items()})


def undo(edit: LabelEdit, user: User | AnonymousUser | None) -> int:
    """Give the images their earlier labels back, but for those that were labelled since.

    Returns how many labels were changed back. An edit is undone once. A class that was merged away comes back
    with the merge that is undone; in other edits it is what it was merged into.
    """
    with transaction.atomic():
        held = LabelEdit.objects.select_for_update().get(pk=edit.pk)
        if held.undone_at:
            return 0
        held.undone_at, held.undone_by = timezone.now(), user if isinstance(user, User) else None
        held.save(update_fields=["undone_at", "undone_by"])
        if held.merged:
            bring_back(held.merged)
        changed = 0
        later = LabelChange.objects.filter(
            image=OuterRef("image"),
            attribute=OuterRef("attribute"),
            edit__gt=held.pk,
            edit__undone_at=None,
        )
        other = held.changes.exclude(before=F("after")).filter(~Exists(later))
        kinds = other.order_by("attribute", "before", "after").values_list("attribute", "before", "after")
        for attribute, before, after in list(kinds.distinct()):
            same = other.filter(attribute=attribute, before=before, after=after)
            earlier = as_column(attribute, label_now(held, attribute, before))
            changed += Image.objects.filter(
                pk__in=same.values("image"), **{LABELS[attribute]: as_column(attribute, after)}
            ).update(**{LABELS[attribute]: earlier})
    return changed


def label_now(edit: LabelEdit, attribute: str, before: str) -> str:
    """An earlier label, as it is to be given back by undoing the edit."""
    is_merge = edit.origin == LabelOrigin.MERGE
    if attribute == "organ" and before and not OrganClass.objects.filter(pk=before).exists():
        if edit.merged:  # another class has its name by now
            return as_text(OrganClass.objects.get(name=edit.merged["name"]).pk)
        former = OrganName.objects.filter(former_key=before).first()
        if not (is_merge and former):
            return as_text(former.organ_id) if former else ""
        OrganClass.objects.create(pk=int(before), name=former.name)
        former.delete()
    if attribute == "modality" and before and not Modality.objects.filter(code=before).exists():
        known = ModalityName.objects.filter(name=before).first()
        if known and not is_merge:
            return as_text(known.modality_id)
        Modality.objects.create(code=before)
        ModalityName.objects.filter(name=before).delete()
    return before


def in_words(given: dict[str, int | str]) -> str:
    """Such as "organ: chest, split: none"."""
    words = {name: str(value) or "none" for name, value in given.items()}
    if given.get("organ"):
        words["organ"] = OrganClass.objects.get(pk=given["organ"]).name
    return ", ".join(f"{name}: {value}" for name, value in words.items())


def as_text(value: object) -> str:
    return "" if value is None else str(value)


def as_column(attribute: str, text: str) -> int | str | None:
    if attribute == "split":
        return text
    if not text:
        return None
    return int(text) if attribute == "organ" else text
