"""The ledger as a queue: rows are claimed by an UPDATE, locked while they are read, and queued again when
their reader dies."""

from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from itertools import accumulate

from django.db import DatabaseError, InterfaceError, OperationalError, connection, transaction
from django.db.models import F, Q
from django.utils import timezone

from ingest.keeping import MISSING_BYTES
from ingest.models import FileState, UploadBatch, UploadedFile, UploadedFileQuerySet
from ingest.storing import delete_unused_original, delete_unused_originals

CLAIM_FILES, CLAIM_BYTES = 16, 2**24  # at most, of one claim
CLAIM_TIMEOUT = timedelta(minutes=1)  # a living reader holds its row locked, however long it takes
MAX_ATTEMPTS = 3
TIDIED_AT_ONCE = 500  # files that killed workers left
OBJECT_STORAGE_PACKAGES = {"botocore", "boto3", "s3transfer"}  # whose errors are no OSErrors
LOCK = "SELECT FROM ingest_uploadedfile WHERE id = %s AND state = %s AND attempts = %s FOR NO KEY UPDATE"


def claim_files(batch: UploadBatch | None = None, most: int = CLAIM_FILES) -> list[UploadedFile]:
    """Take the oldest queued files that nobody else is taking; committed before they are read.

    Small ones together, which saves the database work. One that was tried before is taken alone: if it kills
    its reader, no other file is blamed.
    """
    queued = UploadedFile.objects.filter(state=FileState.QUEUED, **({"batch": batch} if batch else {}))
    with transaction.atomic():
        oldest = queued.order_by("id").select_for_update(skip_locked=True, no_key=True, of=("self",))
        rows = together(list(oldest.select_related("batch__dataset")[:most]))
        now = timezone.now()
        UploadedFile.objects.filter(pk__in=[row.pk for row in rows]).update(
            state=FileState.READING, claimed_at=now, attempts=F("attempts") + 1
        )
    for row in rows:
        row.state, row.claimed_at, row.attempts = FileState.READING, now, row.attempts + 1
    return rows


def together(rows: list[UploadedFile]) -> list[UploadedFile]:
    """Of the rows those that one claim may have: the first, and small ones that are new like it."""
    if not rows or rows[0].attempts:
        return rows[:1]
    new = [row for row in rows if not row.attempts]
    sizes = accumulate(row.size_bytes for row in new)
    return new[:1] + [row for row, size in zip(new, sizes, strict=True) if size <= CLAIM_BYTES][1:]


def held_by(row: UploadedFile) -> UploadedFileQuerySet:
    """The row, unless it was taken up by another worker since it was claimed."""
    return UploadedFile.objects.filter(pk=row.pk, state=FileState.READING, attempts=row.attempts)


def lock(row: UploadedFile) -> bool:
    """Lock a claimed row until the transaction ends: so a slow reader is told from a dead one.

    False: another worker has taken it up.
    """
    with connection.cursor() as cursor:  # as `held_by` says; for every file, so without building a query
        cursor.execute(LOCK, [row.pk, FileState.READING, row.attempts])
        return cursor.fetchone() is not None


def stuck_files() -> UploadedFileQuerySet:
    """Rows that a killed worker was reading, locked: to be asked within a transaction."""
    overdue = Q(claimed_at=None) | Q(claimed_at__lt=timezone.now() - CLAIM_TIMEOUT)
    reading = UploadedFile.objects.filter(overdue, state=FileState.READING)
    return reading.select_for_update(skip_locked=True, no_key=True)


def tidy(rows: Iterable[UploadedFile]) -> None:
    """Delete what came in of those files that ended, unless it is what is kept, or is still waited for.

    A claim's files are tidied together at its end, and that is noted: for a worker that was killed before,
    another one does it (`release_stuck_files`).
    """
    rows = list(rows)
    delete_unused_originals({row.sha256 for row in rows})
    UploadedFile.objects.ended().filter(pk__in=[row.pk for row in rows]).update(claimed_at=None)


def untidied_files() -> UploadedFileQuerySet:
    """Rows that ended in a claim that did not come to its end, a while ago."""
    return UploadedFile.objects.ended().filter(claimed_at__lt=timezone.now() - CLAIM_TIMEOUT)


def release_stuck_files() -> None:
    """Queue again what a killed worker was reading, give up on what has killed several, and tidy after it."""
    if left := untidied_files()[:TIDIED_AT_ONCE]:
        tidy(left)
    with transaction.atomic():
        stuck = list(stuck_files().values_list("pk", "attempts"))
        again = [pk for pk, attempts in stuck if attempts < MAX_ATTEMPTS]
        UploadedFile.objects.filter(pk__in=again).update(state=FileState.QUEUED)
        for row in UploadedFile.objects.filter(pk__in=[pk for pk, _ in stuck]).exclude(pk__in=again):
            reject(row, "crashed_reader", "Reading this file stopped the reader several times.")


def is_trouble_of_the_machine(error: Exception) -> bool:
    """A database, disk or object storage that fails, rather than a file that cannot be read."""
    is_of_storage = type(error).__module__.partition(".")[0] in OBJECT_STORAGE_PACKAGES
    is_of_disk = isinstance(error, OSError) and error.errno is not None
    return is_of_storage or is_of_disk or isinstance(error, OperationalError | InterfaceError)


def queue_again(row: UploadedFile) -> None:
    """As if the file had not been claimed. Where even this fails, `release_stuck_files` does it later."""
    with suppress(DatabaseError):
        held_by(row).update(state=FileState.QUEUED, attempts=F("attempts") - 1)


def reject(row: UploadedFile, code: str, sentence: str, state: str = FileState.REJECTED) -> None:
    """Its bytes are kept a while: what rejected it may be mended (see ingest/ledger.py). Not of a dry run."""
    is_dry_run = row.batch.is_dry_run
    held_by(row).update(
        path=row.path,
        state=state,
        reason_code=code,
        reason=sentence[:500],
        finished_at=timezone.now(),
        is_retryable=code != MISSING_BYTES and not is_dry_run,
    )
    if is_dry_run:
        transaction.on_commit(partial(delete_unused_original, row.sha256))
