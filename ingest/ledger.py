"""What people do with a batch that comes in: see its pace, and why files failed; cancel it, try again."""

import math
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Count, Max, Q
from django.utils import timezone

from ingest.labels import clean_path
from ingest.models import FileState, PendingKind, UploadBatch, UploadedFile
from ingest.storing import delete_unused_original

NOT_IMPORTED = [FileState.REJECTED, FileState.LEFT_OUT]  # for a cause that may be mended
PACE_SECONDS = 60  # the rate is that of the last minute


@dataclass(frozen=True)
class Cause:
    """Why files of a batch were rejected or left out."""

    state: str
    code: str
    sentence: str  # of one of them
    files: int
    retryable: int


def causes_of(batch: UploadBatch) -> list[Cause]:
    """The most frequent first."""
    rejected = batch.files.filter(state__in=NOT_IMPORTED).order_by()
    rows = rejected.values_list("state", "reason_code").annotate(
        Max("reason"), files=Count("pk"), again=Count("pk", filter=Q(is_retryable=True))
    )
    return sorted((Cause(*row) for row in rows), key=lambda cause: (-cause.files, cause.code))


@dataclass(frozen=True)
class Pace:
    """How fast a batch comes in."""

    files_per_second: float
    seconds_left: float | None  # None where nothing was finished lately

    @property
    def time_left(self) -> str:
        if self.seconds_left is None:
            return ""
        minutes = math.ceil(self.seconds_left / 60)
        if minutes <= 1:
            return "less than a minute left"
        return f"about {minutes} minutes left" if minutes < 120 else f"about {minutes // 60} hours left"


def pace_of(batch: UploadBatch, unfinished: int) -> Pace:
    """`unfinished`: how many files are queued, being read or still in the server's folder."""
    now = timezone.now()
    seconds = min(PACE_SECONDS, max(1.0, (now - batch.created_at).total_seconds()))
    done = batch.files.filter(finished_at__gt=now - timedelta(seconds=PACE_SECONDS)).count()
    return Pace(done / seconds, unfinished * seconds / done if done else None)


def cancel(batch: UploadBatch) -> int:
    """Reject what nobody has begun to read; returns how many files that were.

    They can be tried again, but those of a folder of the server whose bytes were not taken in yet.
    """
    rejected: dict[str, Any] = {
        "state": FileState.REJECTED,
        "reason_code": "cancelled",
        "reason": "The import was cancelled before this file was read.",
        "finished_at": timezone.now(),
    }
    with transaction.atomic():
        left = leave_the_rest(batch, rejected) if batch.source else 0
        return left + batch.files.filter(state=FileState.QUEUED).update(**rejected, is_retryable=True)


def leave_the_rest(batch: UploadBatch, rejected: dict[str, Any]) -> int:
    """Nothing more comes out of the server's folder; the ledger tells what did not."""
    locked = UploadBatch.objects.select_for_update().get(pk=batch.pk)
    files = locked.pending_files.unreceived().filter(kind=PendingKind.FILE)
    rows = [
        UploadedFile(batch=locked, path=clean_path(file.path), size_bytes=file.size_bytes, **rejected)
        for file in files
    ]
    UploadedFile.objects.bulk_create(rows, batch_size=1000)
    locked.pending_files.all().delete()
    locked.files_to_come = 0
    locked.save(update_fields=["files_to_come"])
    return len(rows)


def retry(batch: UploadBatch, reason_code: str = "", file: int | None = None) -> int:
    """Queue files again: all the rejected ones, those of one cause, or one; returns how many.

    Their ledger rows stay. Passed over are those whose bytes were never taken in, or are no longer kept, and
    slices that were left out, unless their cause or one of them is asked for.
    """
    rows = batch.files.filter(state__in=NOT_IMPORTED, is_retryable=True)
    if reason_code:
        rows = rows.filter(reason_code=reason_code)
    if file is not None:
        rows = rows.filter(pk=file)
    if not reason_code and file is None:
        rows = rows.filter(state=FileState.REJECTED)
    return rows.update(
        state=FileState.QUEUED,
        reason_code="",
        reason="",
        attempts=0,
        claimed_at=None,
        finished_at=None,
        is_retryable=False,
    )


def forget_rejected() -> None:
    """Delete the bytes of files that were rejected long ago (REJECTED_DAYS); the ledger keeps their rows."""
    cutoff = timezone.now() - timedelta(days=settings.REJECTED_DAYS)
    old = UploadedFile.objects.filter(is_retryable=True, finished_at__lt=cutoff)
    for pk, sha256 in old.values_list("pk", "sha256").iterator():
        with transaction.atomic():
            UploadedFile.objects.filter(pk=pk, is_retryable=True).update(is_retryable=False)
            transaction.on_commit(partial(delete_unused_original, sha256))
