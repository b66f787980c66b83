"""Versions of data sets: which images were in one, and how labelled, at one time. They never change.

The list is a file of the storage, under its own SHA-256: some ten bytes an image, compressed.
"""

import csv
import gzip
import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO, TextIOWrapper
from itertools import chain, islice
from typing import IO

from django.contrib.auth.models import AnonymousUser, User
from django.db import transaction

from ingest.datasets import Exported, zip_of
from ingest.models import Dataset, DatasetVersion, Image, ImageQuerySet
from ingest.storing import store_once

COLUMNS = ["image", "sha256", "frame_number", "organ", "modality", "group_id", "split"]
CHUNK = 500  # images
NAME_LENGTH = 56


class VersionError(Exception):
    """What cannot be frozen so; its text is a sentence for the person."""


def freeze_as(dataset: Dataset, name: str, user: User | AnonymousUser | None) -> DatasetVersion:
    """As `freeze`, under exactly this name. Raises VersionError."""
    name = name.strip()
    if not name or dataset.versions.filter(name=name).exists():
        raise VersionError("Give the version a name that no other version of it has.")
    if len(name) > NAME_LENGTH:
        raise VersionError(f"The name of a version has at most {NAME_LENGTH} characters.")
    if not dataset.images.exists():
        raise VersionError("There is nothing to freeze yet.")
    return freeze(dataset, name, user)


def freeze(dataset: Dataset, name: str, user: User | AnonymousUser | None = None) -> DatasetVersion:
    """Keep what is in the data set now as a version of that name, which no other has.

    Where the last version lists the same, that one is returned instead.
    """
    with tempfile.TemporaryFile() as file:
        images, digest = write_listing(dataset, file)
        with transaction.atomic():
            Dataset.objects.select_for_update(no_key=True).get(pk=dataset.pk)
            last = dataset.versions.first()
            if last and last.sha256 == digest:
                return last
            size = file.tell()
            file.seek(0)
            return DatasetVersion.objects.create(
                dataset=dataset,
                dataset_name=dataset.name,
                name=free_name(dataset, name),
                images=images,
                sha256=digest,
                listing=store_once(f"datasets/{digest[:2]}/{digest}.csv.gz", file, size),
                created_by=user if isinstance(user, User) else None,
            )


def free_name(dataset: Dataset, name: str) -> str:
    taken = set(dataset.versions.values_list("name", flat=True))
    name = name.strip()[:NAME_LENGTH] or "version"
    names = (name, *(f"{name} ({number})" for number in range(2, len(taken) + 3)))
    return next(each for each in names if each not in taken)


def write_listing(dataset: Dataset, file: IO[bytes]) -> tuple[int, str]:
    """Write the list, compressed; how many images it has, and the SHA-256 of what was compressed."""
    rows = dataset.images.order_by("pk").values_list(
        "pk", "sha256", "frame_number", "organ__name", "modality_id", "group_key", "split"
    )
    images, digest = 0, hashlib.sha256()
    with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as compressed:
        for line in lines_of(rows.iterator()):
            images += 1
            digest.update(line)
            compressed.write(line)
    return images - 1, digest.hexdigest()


def lines_of(rows: Iterable[Sequence[object]]) -> Iterator[bytes]:
    """The lines of a CSV file, that of the columns first."""
    line = StringIO()
    writer = csv.writer(line)
    for row in chain([COLUMNS], rows):
        writer.writerow(row)  # None is empty
        yield line.getvalue().encode()
        line.seek(0)
        line.truncate()


def listed_in(version: DatasetVersion) -> Iterator[dict[str, str]]:
    """By column, what the version says of each image."""
    with version.listing.open("rb") as file, gzip.open(file) as inflated:
        yield from csv.DictReader(TextIOWrapper(inflated, "utf-8", newline=""))


def export_version(version: DatasetVersion) -> Iterator[bytes]:
    """As `export` of a data set, with the labels that the version has; images deleted since are left out."""
    return zip_of(exported(version), f"{version}; SHA-256 of its list {version.sha256}")


def exported(version: DatasetVersion) -> Iterator[Exported]:
    for row, image in looked_up(listed_in(version), Image.objects.all()):
        if image:
            yield Exported(image, row["organ"], row["modality"], row["group_id"], row["split"])


def looked_up(
    listed: Iterator[dict[str, str]], images: ImageQuerySet
) -> Iterator[tuple[dict[str, str], Image | None]]:
    """What a version says of each image, and the image where it is one of these still."""
    while rows := list(islice(listed, CHUNK)):
        found = images.in_bulk([int(row["image"]) for row in rows])
        for row in rows:
            image = found.get(int(row["image"]))
            yield row, image if image and image.sha256 == row["sha256"] else None
