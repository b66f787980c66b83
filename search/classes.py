"""The classes, as curators keep them: organs and modalities are added, described, renamed and merged.

A model version keeps the names that its outputs had when it was trained; what they are called now is looked
up where they are read (ingest/naming.py). So a former name stays known, and searches go on after each change.
"""

from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import AnonymousUser, User
from django.db import connection, transaction
from django.db.models import Count, QuerySet
from django.utils import timezone

from ingest.labelling import Labels, label
from ingest.labels import modality_code, organ_slug
from ingest.merged import kept_of
from ingest.models import (
    Image,
    LabelEdit,
    LabelOrigin,
    Modality,
    ModalityName,
    OrganClass,
    OrganName,
)
from ingest.naming import decide, decide_modality
from ml.models import ModelVersion
from search.models import Embedding

SAMPLES = 4  # pictures shown of a class

Person = User | AnonymousUser | None


class ClassError(Exception):
    """What cannot be done to a class; its text is a sentence for the person."""


@dataclass(frozen=True)
class ClassRow:
    """A class as the page shows it."""

    each: Any  # OrganClass or Modality
    images: int
    other_names: list[Any]  # OrganName or ModalityName
    samples: list[Image]


def rows_of(model: type[OrganClass] | type[Modality], field: str) -> list[ClassRow]:
    """All organs or all modalities; `field`: the image's, "organ" or "modality"."""
    present = Image.objects.present().order_by()
    numbers = dict(present.values_list(field).annotate(Count("pk")))
    return [
        ClassRow(
            each,
            numbers.get(each.pk, 0),
            [name for name in each.other_names.all() if name.name != str(each)],
            list(present.filter(**{field: each.pk}).order_by("pk")[:SAMPLES]),
        )
        for each in model._default_manager.prefetch_related("other_names")
    ]


def add_organ(name: str, user: Person) -> OrganClass:
    """A new organ; images that wait under its name are labelled. Raises ClassError."""
    with transaction.atomic():
        return take_name(OrganClass(), name, user)


def rename_organ(organ: OrganClass, name: str, user: Person) -> None:
    """Files that come under the earlier name still mean it, and links still find it. Raises ClassError."""
    with transaction.atomic():
        held = OrganClass.objects.select_for_update().get(pk=organ.pk)
        earlier = held.name
        if organ_slug(name) == earlier:
            return
        take_name(held, name, user)
        keep_name(earlier, held, user)
        in_queries("organ_probabilities", earlier, held.name)


def take_name(organ: OrganClass, name: str, user: Person) -> OrganClass:
    slug = organ_slug(name)
    if not slug:
        raise ClassError("An organ needs a name of letters or digits.")
    if OrganClass.objects.filter(name=slug).exclude(pk=organ.pk).exists():
        raise ClassError(f"There is an organ {slug} already. Two organs become one by merging them.")
    other = OrganName.objects.filter(name=slug).first()
    if other and other.organ and other.organ != organ:
        raise ClassError(f"{slug} is another name of {other.organ}. Take it away there first.")
    organ.name = slug
    organ.save()
    if other:
        decide(other, organ, user)
        other.delete()
    return organ


def keep_name(name: str, organ: OrganClass, user: Person, former_key: int | None = None) -> None:
    """From now on the name means this organ."""
    OrganName.objects.update_or_create(
        name=name,
        defaults={
            "organ": organ,
            "is_ignored": False,
            "former_key": former_key,
            "decided_by": user if isinstance(user, User) else None,
            "decided_at": timezone.now(),
        },
    )


def merge_organs(organ: OrganClass, other: OrganClass, user: Person) -> LabelEdit:
    """What is `organ` becomes `other`, in one act that can be undone.

    Its names become other names of `other`. The network's outputs for the two mean one class from now on, and
    their probabilities add up; an embedding keeps the probability of the likelier output. Undoing it gives
    the images their label back, and the class its name, description and other names. Raises ClassError.
    """
    with transaction.atomic():
        both = OrganClass.objects.select_for_update().in_bulk([organ.pk, other.pk])
        if len(both) < 2:
            raise ClassError("Choose another organ to merge it into.")
        images = Image.objects.filter(organ=organ)
        edit = move_labels(images, Labels(organ=other.pk), kept_of("organ", organ, other), other, user)
        Embedding.objects.filter(predicted_organ=organ).update(predicted_organ=other)
        OrganName.objects.filter(organ=organ).update(organ=other)
        keep_name(organ.name, other, user, organ.pk)
        in_queries("organ_probabilities", organ.name, other.name)
        both[organ.pk].delete()
    return edit


def add_modality(code: str, user: Person) -> Modality:
    """A new modality; images that wait under its code are labelled. Raises ClassError."""
    code = modality_code(code)
    if not code:
        raise ClassError("A modality needs a code of letters or digits.")
    if Modality.objects.filter(code=code).exists():
        raise ClassError(f"There is a modality {code} already.")
    with transaction.atomic():
        other = ModalityName.objects.filter(name=code).select_related("modality").first()
        if other and other.modality:
            raise ClassError(f"{code} is another name of {other.modality}. Take it away there first.")
        modality = Modality.objects.create(code=code)
        if other:
            decide_modality(other, modality, user)
            other.delete()
    return modality


def merge_modalities(modality: Modality, other: Modality, user: Person) -> LabelEdit:
    """As `merge_organs`."""
    with transaction.atomic():
        both = Modality.objects.select_for_update().in_bulk([modality.pk, other.pk])
        if len(both) < 2:
            raise ClassError("Choose another modality to merge it into.")
        images = Image.objects.filter(modality=modality)
        kept = kept_of("modality", modality, other)
        edit = move_labels(images, Labels(modality=other.pk), kept, other, user)
        Embedding.objects.filter(predicted_modality=modality).update(predicted_modality=other)
        ModalityName.objects.filter(modality=modality).update(modality=other)
        ModalityName.objects.update_or_create(
            name=modality.pk,
            defaults={
                "modality": other,
                "is_ignored": False,
                "decided_by": user if isinstance(user, User) else None,
                "decided_at": timezone.now(),
            },
        )
        in_queries("modality_probabilities", modality.pk, other.pk)
        both[modality.pk].delete()
    return edit


def move_labels(images: Any, labels: Labels, kept: dict[str, Any], other: object, user: Person) -> LabelEdit:
    edit = label(images, labels, user, LabelOrigin.MERGE)
    edit.summary, edit.merged = f"{kept['name']} merged into {other}"[:200], kept
    edit.save(update_fields=["summary", "merged"])
    return edit


def in_queries(field: str, earlier: str, now: str) -> None:
    """What queries saw under the earlier name is called by the present one; what is one class adds up."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            UPDATE search_query SET {field} = (
                SELECT jsonb_agg(jsonb_build_array(name, round(probability, 6)) ORDER BY probability DESC)
                FROM (
                    SELECT CASE pair ->> 0 WHEN %s THEN %s ELSE pair ->> 0 END AS name,
                           sum((pair ->> 1)::numeric) AS probability
                    FROM jsonb_array_elements({field}) AS pair GROUP BY 1
                ) AS added
            )
            WHERE {field} @> jsonb_build_array(jsonb_build_array(%s::text))
            """,
            [earlier, now, earlier],
        )


def reason_to_keep(each: OrganClass | Modality) -> str:
    """Why a class cannot be deleted, in a sentence; "" where no image and no model version has it."""
    field, learnt = ("organ", "organs") if isinstance(each, OrganClass) else ("modality", "modalities")
    images = Image.objects.filter(**{field: each})
    if number := images.count():
        trashed = number - images.present().count()
        labelled = f"{number:,} image{' is' if number == 1 else 's are'} labelled {each}"
        of_them = f", {trashed:,} of them in the trash" if trashed else ""
        return f"{labelled}{of_them}: it cannot be deleted."
    names = [str(each), *each.other_names.values_list("name", flat=True)]
    if ModelVersion.objects.filter(**{f"{learnt}__has_any_keys": names}).exists():
        return f"A model version has learnt {each}: it cannot be deleted."
    return ""


def take_name_away(name: OrganName | ModalityName, to: Any, user: Person) -> None:
    """The name means another class from now on or (None) waits for a decision; labels stay.

    Raises ClassError: a name that a model version's output had stays: it tells what the output means.
    """
    field = "organs" if isinstance(name, OrganName) else "modalities"
    if ModelVersion.objects.filter(**{f"{field}__contains": [name.name]}).exists():
        raise ClassError(f"A model version has learnt {name} under this name, which therefore stays.")
    if to is None:
        name.delete()
    elif isinstance(name, OrganName):
        decide(name, to, user)
    else:
        decide_modality(name, to, user)


def merges() -> QuerySet[LabelEdit]:
    """The last ones that can be undone."""
    return LabelEdit.objects.filter(origin=LabelOrigin.MERGE, undone_at=None).select_related("created_by")[:5]
