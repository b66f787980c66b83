"""Names of organs and modalities that come with files: each is decided on once, and waits until then."""

from collections.abc import Sequence
from dataclasses import dataclass

from django.contrib.auth.models import AnonymousUser, User
from django.db import transaction
from django.db.models import Count, QuerySet
from django.utils import timezone

from ingest.labelling import Labels, label
from ingest.models import (
    Image,
    ImageQuerySet,
    IncomingName,
    LabelOrigin,
    Modality,
    ModalityName,
    OrganClass,
    OrganName,
)

SAMPLES = 4  # pictures shown of a name

# Modality (0008,0060) of pictures: the defined terms of PS3.3 C.7.3.1.1.1, without OT, which says nothing.
DICOM_MODALITIES = {
    *(
        "BDUS",
        "BI",
        "BMD",
        "CFM",
        "CR",
        "CT",
        "DG",
        "DMS",
        "DX",
        "ECG",
        "ES",
        "FID",
        "GM",
        "HD",
        "IO",
        "IVOCT",
    ),
    *("IVUS", "LEN", "LS", "MG", "MR", "NM", "OAM", "OCT", "OP", "OPM", "OPT", "OPTBSV", "OPTENF", "OPV"),
    *("OSS", "PA", "PT", "PX", "RF", "RG", "RTIMAGE", "SEG", "SM", "TG", "US", "VA", "XA", "XC"),
}


def organ_meant(name: str, *, makes: bool = False) -> OrganClass | None:
    """The class of that name, or what the name was decided to mean; None while it waits, or names no organ.

    A name never seen before waits for a decision, or becomes a class where `makes`.
    """
    if not name:
        return None
    if found := OrganClass.objects.filter(name=name).first():
        return found
    known, _created = OrganName.objects.get_or_create(name=name)
    if known.organ is None and makes and not known.is_ignored:
        return decide(known, OrganClass.objects.get_or_create(name=name)[0], None)
    return known.organ


def decide(name: OrganName, organ: OrganClass | None, user: User | AnonymousUser | None) -> OrganClass | None:
    """The name means this organ from now on, or (None) no organ; images that wait for it are labelled."""
    with transaction.atomic():
        name.organ = organ
        note_decision(name, organ is None, user)
        images = Image.objects.filter(organ=None, incoming_organ=name.name)
        if organ and images.exists():
            label(images, Labels(organ=organ.pk), user, LabelOrigin.NAME)
    return organ


def note_decision(name: IncomingName, is_ignored: bool, user: User | AnonymousUser | None) -> None:
    name.is_ignored, name.decided_at = is_ignored, timezone.now()
    name.decided_by = user if isinstance(user, User) else None
    name.save()


def modality_meant(code: str, *, makes: bool = False) -> Modality | None:
    """As `organ_meant`, of a code in capitals. One of DICOM's is known; "OT", other, and "XRAY" wait."""
    if not code:
        return None
    if found := Modality.objects.filter(code=code).first():
        return found
    known = ModalityName.objects.filter(name=code).first()
    if known is None and (makes or code in DICOM_MODALITIES):
        return Modality.objects.get_or_create(code=code)[0]
    if known is None:
        known, _created = ModalityName.objects.get_or_create(name=code)
    return known.modality


def decide_modality(
    name: ModalityName, modality: Modality | None, user: User | AnonymousUser | None
) -> Modality | None:
    """As `decide`, of a modality."""
    with transaction.atomic():
        name.modality = modality
        note_decision(name, modality is None, user)
        images = Image.objects.filter(modality=None, incoming_modality=name.name)
        if modality and images.exists():
            label(images, Labels(modality=modality.pk), user, LabelOrigin.NAME)
    return modality


def current_organs(names: Sequence[str]) -> list[str]:
    """What classes of these names are called now; two may have become one. An unknown name stays."""
    known = set(OrganClass.objects.filter(name__in=names).values_list("name", flat=True))
    others = OrganName.objects.filter(name__in=set(names) - known, organ__isnull=False)
    now = dict(others.values_list("name", "organ__name"))
    return [now.get(name, name) for name in names]


def current_modalities(codes: Sequence[str]) -> list[str]:
    """As `current_organs`."""
    known = set(Modality.objects.filter(code__in=codes).values_list("code", flat=True))
    others = ModalityName.objects.filter(name__in=set(codes) - known, modality__isnull=False)
    now = dict(others.values_list("name", "modality_id"))
    return [now.get(code) or code for code in codes]


def waiting_for(name: OrganName) -> ImageQuerySet:
    """Images that came with this name and have no label."""
    return Image.objects.present().filter(organ=None, incoming_organ=name.name)


def undecided() -> QuerySet[OrganName]:
    return OrganName.objects.filter(organ=None, is_ignored=False)


def undecided_modalities() -> QuerySet[ModalityName]:
    return ModalityName.objects.filter(modality=None, is_ignored=False)


def waiting_modalities() -> list[tuple[ModalityName, int]]:
    """Names, each with how many images came under it."""
    names = list(undecided_modalities())
    came = Image.objects.present().filter(modality=None, incoming_modality__in=[name.name for name in names])
    numbers = dict(came.order_by().values_list("incoming_modality").annotate(Count("pk")))
    return [(name, numbers.get(name.name, 0)) for name in names]


@dataclass(frozen=True)
class WaitingName:
    """A name, with what came under it."""

    name: OrganName
    images: int
    samples: list[Image]


def waiting_names() -> list[WaitingName]:
    """Those with the most images first."""
    names = list(undecided())
    came = (
        Image.objects.present()
        .filter(organ=None, incoming_organ__in=[name.name for name in names])
        .order_by()
    )
    numbers = dict(came.values_list("incoming_organ").annotate(Count("pk")))
    found = [
        WaitingName(name, numbers.get(name.name, 0), list(waiting_for(name).order_by("pk")[:SAMPLES]))
        for name in names
    ]
    return sorted(found, key=lambda each: (-each.images, each.name.name))
