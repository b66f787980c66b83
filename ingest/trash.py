"""The trash: a data set in it is in no search, count, review or training, and comes back as it was.

Its images stay where they are; whatever asks for images asks for those `present`. After TRASH_DAYS days the
trash is emptied: images, their files and their rows in the ledger are deleted for good.
"""

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AnonymousUser, User
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from ingest.models import Dataset, DatasetQuerySet, Image, UploadedFile

DELETED_AT_ONCE = 200  # rows


def put_into_trash(dataset: Dataset, user: User | AnonymousUser | None) -> None:
    dataset.trashed_at, dataset.trashed_by = timezone.now(), user if isinstance(user, User) else None
    dataset.save(update_fields=["trashed_at", "trashed_by"])


def restore(dataset: Dataset) -> None:
    dataset.trashed_at = dataset.trashed_by = None
    dataset.save(update_fields=["trashed_at", "trashed_by"])


def overdue() -> DatasetQuerySet:
    return Dataset.objects.filter(trashed_at__lt=timezone.now() - timedelta(days=settings.TRASH_DAYS))


def empty_trash() -> int:
    """Delete data sets that have lain in the trash long enough; returns how many. Safe to stop any time."""
    number = 0
    for pk in list(overdue().values_list("pk", flat=True)):
        for rows in (Image.objects.filter(dataset=pk), UploadedFile.objects.filter(batch__dataset=pk)):
            while delete_some(pk, rows):
                pass
        with transaction.atomic():
            for dataset in overdue().select_for_update().filter(pk=pk):
                dataset.delete()
                number += 1
    return number


def delete_some(dataset: int, rows: QuerySet[Any]) -> bool:
    """Delete some of the rows of a data set that is still to be emptied; whether there were any."""
    with transaction.atomic():
        if not overdue().select_for_update().filter(pk=dataset):
            return False
        ids = list(rows.order_by("pk").values_list("pk", flat=True)[:DELETED_AT_ONCE])
        rows.model._default_manager.filter(pk__in=ids).delete()
        return bool(ids)
