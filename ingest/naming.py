"""Names of organs that come with files: each is decided on once, and waits until then."""

from dataclasses import dataclass

from django.contrib.auth.models import AnonymousUser, User
from django.db import transaction
from django.db.models import Count, QuerySet
from django.utils import timezone

from ingest.labelling import Labels, label
from ingest.models import Image, ImageQuerySet, LabelOrigin, OrganClass, OrganName

SAMPLES = 4  # pictures shown of a name


def organ_meant(name: str, *, makes_organs: bool = False) -> OrganClass | None:
    """The class of that name, or what the name was decided to mean; None while it waits, or names no organ.

    A name never seen before waits for a decision, or becomes a class where `makes_organs`.
    """
    if not name:
        return None
    if found := OrganClass.objects.filter(name=name).first():
        return found
    known, _created = OrganName.objects.get_or_create(name=name)
    if known.organ is None and makes_organs and not known.is_ignored:
        return decide(known, OrganClass.objects.get_or_create(name=name)[0], None)
    return known.organ


def decide(name: OrganName, organ: OrganClass | None, user: User | AnonymousUser | None) -> OrganClass | None:
    """The name means this organ from now on, or (None) no organ; images that wait for it are labelled."""
    with transaction.atomic():
        name.organ, name.is_ignored = organ, organ is None
        name.decided_by, name.decided_at = user if isinstance(user, User) else None, timezone.now()
        name.save()
        images = waiting_for(name)
        if organ and images.exists():
            label(images, Labels(organ=organ.pk), user, LabelOrigin.NAME)
    return organ


def waiting_for(name: OrganName) -> ImageQuerySet:
    """Images that came with this name and have no label."""
    return Image.objects.filter(organ=None, incoming_organ=name.name)


def undecided() -> QuerySet[OrganName]:
    return OrganName.objects.filter(organ=None, is_ignored=False)


@dataclass(frozen=True)
class WaitingName:
    """A name, with what came under it."""

    name: OrganName
    images: int
    samples: list[Image]


def waiting_names() -> list[WaitingName]:
    """Those with the most images first."""
    names = list(undecided())
    came = Image.objects.filter(organ=None, incoming_organ__in=[name.name for name in names]).order_by()
    numbers = dict(came.values_list("incoming_organ").annotate(Count("pk")))
    found = [
        WaitingName(name, numbers.get(name.name, 0), list(waiting_for(name).order_by("pk")[:SAMPLES]))
        for name in names
    ]
    return sorted(found, key=lambda each: (-each.images, each.name.name))
