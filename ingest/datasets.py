"""Data sets: what is in one, its split by patient, and its export."""

import csv
import hashlib
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from io import StringIO

from django.contrib.auth.models import AnonymousUser, User
from django.db.models import Count, Exists, OuterRef
from django.http import StreamingHttpResponse
from django.utils import timezone
from django.utils.text import slugify

from ingest.labelling import Labels, label_each
from ingest.models import (
    AWAITED,
    Dataset,
    DatasetQuerySet,
    Image,
    LabelEdit,
    LabelOrigin,
    OrganClass,
    Split,
    UploadBatch,
    UploadedFile,
    WatchedFolder,
)

SAMPLES = 4  # pictures shown of an organ
BEGINNING = timedelta(hours=1)  # an import that has no file yet may be about to get its first
MANIFEST_COLUMNS = ["path", "organ", "modality", "group_id", "split"]


def empty_datasets() -> DatasetQuerySet:
    """Those without images where none is on its way either: what failed imports and dry runs leave behind."""
    batches = UploadBatch.objects.filter(dataset=OuterRef("pk"))
    files = UploadedFile.objects.filter(batch__dataset=OuterRef("pk"))
    return Dataset.objects.present().filter(
        ~Exists(Image.objects.filter(dataset=OuterRef("pk"))),
        ~Exists(files.filter(state__in=AWAITED)),
        ~Exists(batches.filter(files_to_come__gt=0)),
        ~Exists(batches.filter(files=None, created_at__gt=timezone.now() - BEGINNING)),
        ~Exists(WatchedFolder.objects.filter(dataset=OuterRef("pk"))),
    )


@dataclass(frozen=True)
class OrganPart:
    """What a data set has of one organ; None: without a label."""

    organ: OrganClass | None
    images: int
    modalities: dict[str, int]  # by code, "" without a label
    samples: list[Image]


def parts_of(dataset: Dataset) -> list[OrganPart]:
    """By the organ's name, what has no label last."""
    counted = dataset.images.order_by().values_list("organ", "modality").annotate(Count("pk"))
    modalities: dict[int | None, dict[str, int]] = {}
    for organ, modality, number in counted:
        modalities.setdefault(organ, {})[modality or ""] = number
    organs = OrganClass.objects.in_bulk([organ for organ in modalities if organ])
    parts = [
        OrganPart(
            organs.get(organ) if organ else None,
            sum(of_organ.values()),
            dict(sorted(of_organ.items())),
            list(dataset.images.filter(organ=organ).order_by("pk")[:SAMPLES]),
        )
        for organ, of_organ in modalities.items()
    ]
    return sorted(parts, key=lambda part: (part.organ is None, str(part.organ)))


def splits_of(dataset: Dataset) -> dict[str, tuple[int, int]]:
    """By "train", "test" and "": images and groups, a group being a patient or a volume."""
    rows = dataset.images.order_by().values_list("split").annotate(Count("pk"))
    groups = dict(dataset.images.order_by().values_list("split").annotate(Count("group_key", distinct=True)))
    return {split: (images, groups[split]) for split, images in rows}


def split_by_group(dataset: Dataset, test_share: float, user: User | AnonymousUser | None) -> LabelEdit:
    """Hold about `test_share` of the groups out for testing; the rest is to learn from.

    By a hash of the group: no patient is in both, and the same split comes out again when images were added.
    """
    groups = dataset.images.order_by().values_list("group_key", flat=True).distinct()
    held_out = [group for group in groups.iterator() if place_of(group) < test_share]
    test = dataset.images.filter(group_key__in=held_out)
    train = dataset.images.exclude(group_key__in=held_out)
    parts = [(test, Labels(split=Split.TEST)), (train, Labels(split=Split.TRAIN))]
    return label_each(parts, user, LabelOrigin.SPLIT)


def place_of(group: str) -> float:
    """In 0 to 1, always the same for a group."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / 2**64


class Sink:
    """What a zip is written to, and taken from piece by piece."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self.pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass

    def taken(self) -> bytes:
        data = b"".join(self.pieces)
        self.pieces.clear()
        return data


@dataclass(frozen=True)
class Exported:
    """An image, and the labels that it is exported with."""

    image: Image
    organ: str
    modality: str
    group: str
    split: str


def export(dataset: Dataset) -> Iterator[bytes]:
    """A zip of the renditions, as the network sees them, and a manifest.csv with their labels, in pieces.

    It can be imported again. Originals, whose tags may name patients, are not in it. A rendition that is gone
    is left out.
    """
    images = dataset.images.select_related("organ").order_by("pk").iterator()
    return zip_of(
        Exported(
            image,
            image.organ.name if image.organ else "",
            image.modality_id or "",
            image.group_key,
            image.split,
        )
        for image in images
    )


def zip_of(images: Iterable[Exported], comment: str = "") -> Iterator[bytes]:
    """`comment` is the archive's own, which is no file in it."""
    sink, manifest = Sink(), StringIO()
    rows = csv.writer(manifest)
    rows.writerow(MANIFEST_COLUMNS)
    with zipfile.ZipFile(sink, "w") as archive:  # type: ignore[call-overload]
        archive.comment = comment.encode()
        for each in images:
            try:
                with each.image.rendition.open() as file:
                    content = file.read()
            except FileNotFoundError:
                continue
            path = f"{each.organ or 'unlabelled'}/{each.image.pk}.png"
            archive.writestr(path, content)
            rows.writerow([path, each.organ, each.modality, each.group, each.split])
            yield sink.taken()
        archive.writestr("manifest.csv", manifest.getvalue())
    yield sink.taken()


def zip_response(pieces: Iterator[bytes], name: str) -> StreamingHttpResponse:
    """A zip as a download, named after what is in it."""
    return StreamingHttpResponse(
        pieces,
        content_type="application/zip",
        headers={"Content-Disposition": f'attachment; filename="{slugify(name) or "images"}.zip"'},
    )
