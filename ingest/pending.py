"""Files on their way into the ledger: each is a row from the start, and is taken in exactly once.

Any number of workers may do so at once, and what a killed one left half taken in is gone on with.
"""

import logging
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from functools import lru_cache, partial
from io import BytesIO
from itertools import count
from time import monotonic
from typing import IO

from django.db import DatabaseError, connection, transaction
from django.db.models import F
from django.utils import timezone

from ingest.claiming import is_trouble_of_the_machine
from ingest.labels import MANIFEST_BYTES, Manifest, clean_path, read_manifest
from ingest.models import PendingFile, PendingKind, UploadBatch, UploadedFile
from ingest.pseudonyms import keyed_hash
from ingest.receiving import IncomingFile, receive_each, reject_missing, reject_too_large, reject_unread
from ingest.resumable import abandoned_batches, delete_parts, joined_parts, store_manifest
from ingest.server_folders import list_folder, opened_below_root

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3


def receive_pending(seconds: float | None = None) -> None:
    """Take in what has come completely, the oldest first, until none is left or the time is over."""
    started, last = monotonic(), 0
    while seconds is None or monotonic() - started < seconds:
        file = PendingFile.objects.complete().filter(pk__gt=last).order_by("pk").first()
        if file is None:
            return
        last = file.pk
        try:
            receive(file.pk)
        except DatabaseError:
            raise
        except Exception as error:
            # Messages may quote the file; where it happened is enough.
            frames = "".join(traceback.format_tb(error.__traceback__))
            logger.error("Pending file %s was not taken in: %s\n%s", last, type(error).__name__, frames)


def receive(pk: int) -> None:
    """Take a complete file into the ledger, unless another process does. An archive becomes many rows.

    Trouble of the machine (database, disk) is raised and does not count; whatever else stops this several
    times rejects the file.
    """
    with held(pk) as is_mine:
        file = PendingFile.objects.complete().filter(pk=pk).select_related("batch__dataset").first()
        if file is None or not is_mine:
            return
        PendingFile.objects.filter(pk=pk).update(attempts=F("attempts") + 1)
        try:
            if file.attempts >= MAX_ATTEMPTS:
                sentence = "Taking this file in failed several times."
                reject_unread(UploadedFile(batch=file.batch, path=file.path), "crashed_reader", sentence)
                finish(file)
            elif file.kind == PendingKind.FOLDER:
                receive_folder(file)
            else:
                receive_rows(file)
        except Exception as error:
            if is_trouble_of_the_machine(error):
                PendingFile.objects.filter(pk=pk).update(attempts=F("attempts") - 1)
            raise


@contextmanager
def held(pk: int) -> Iterator[bool]:
    """Whether this process alone has the file. The lock ends with the database session."""
    key = f"pending file {pk}"
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", [key])
        is_mine = bool(cursor.fetchone()[0])
    try:
        yield is_mine
    finally:
        if is_mine:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [key])


def receive_rows(file: PendingFile) -> None:
    """Rows come in the same order each time: those that a killed process made are not made again."""
    incoming = IncomingFile(file.path, partial(opened, file))
    manifest = manifest_of(file.batch_id)
    rows = receive_each(file.batch, [incoming], manifest, None, is_alone=is_alone(file))
    for number in count():
        with transaction.atomic():
            if next(rows, None) is None:
                break
            rest = PendingFile.objects.filter(pk=file.pk)
            if number < file.received_rows or not rest.update(received_rows=number + 1):  # or cancelled
                transaction.set_rollback(True)
    finish(file)


def receive_folder(folder: PendingFile) -> None:
    """A folder of the server becomes a pending file for each file in it."""
    files, manifest = list_folder(folder)
    with transaction.atomic():
        UploadBatch.objects.select_for_update().get(pk=folder.batch_id)
        if not PendingFile.objects.filter(pk=folder.pk).exists():
            return  # cancelled
        if manifest:
            store_manifest(folder.batch, manifest.path, BytesIO(manifest.content), len(manifest.content))
        expect_files(folder.batch, files)
        finish(folder)


def expect_files(batch: UploadBatch, files: list[PendingFile]) -> None:
    """More files of a batch, that wait to be taken in."""
    with transaction.atomic():
        PendingFile.objects.bulk_create(files, batch_size=1000)
        UploadBatch.objects.filter(pk=batch.pk).update(files_to_come=F("files_to_come") + len(files))


def is_alone(file: PendingFile) -> bool:
    """Whether it is the only file of its batch, a manifest aside."""
    others = file.batch.pending_files.exclude(kind=PendingKind.MANIFEST).exclude(pk=file.pk)
    return file.batch.files_to_come == 1 and not file.batch.source and not others.exists()


def opened(file: PendingFile) -> AbstractContextManager[IO[bytes]]:
    return joined_parts(file) if file.kind == PendingKind.SENT else opened_below_root(file)


def manifest_of(batch_id: int) -> Manifest | None:
    """The manifest that came with the batch, if one did."""
    manifest = PendingFile.objects.filter(batch=batch_id, kind=PendingKind.MANIFEST).first()
    return manifest_in(manifest.pk, manifest.updated_at) if manifest else None


@lru_cache(maxsize=4)
def manifest_in(pk: int, _updated_at: datetime) -> Manifest:
    """Kept, because each file of its batch asks for it. It was readable when it came."""
    file = PendingFile.objects.select_related("batch__dataset").get(pk=pk)
    columns = file.batch.dataset.manifest_columns
    with joined_parts(file) as stream:
        return read_manifest(stream.read(MANIFEST_BYTES), clean_path(file.path), columns)


def finish(file: PendingFile) -> None:
    """The file is in the ledger; with the last one its batch is complete."""
    with transaction.atomic():
        batch = UploadBatch.objects.select_for_update().get(pk=file.batch_id)
        if not PendingFile.objects.unreceived().filter(pk=file.pk).update(received_at=timezone.now()):
            return
        batch.files_to_come = max(0, batch.files_to_come - 1)
        batch.save(update_fields=["files_to_come"])
        if not batch.files_to_come:
            close(batch)
        transaction.on_commit(partial(delete_parts, file.pk, file.received_bytes))


def close(batch: UploadBatch) -> None:
    """Nothing more comes: tell what the manifest names and did not come, and forget the ways in.

    What a watched folder's manifest names came before, or comes later. A file that was read meanwhile may
    have lost words of its path, and is known by that path's hash.
    """
    if not batch.is_of_watched_folder and (manifest := manifest_of(batch.pk)):
        ended = set(batch.files.values_list("path", flat=True))
        present = ended | set(map(clean_path, batch.pending_files.values_list("path", flat=True)))
        keys = set(batch.files.values_list("path_key", flat=True))
        present |= {path for path in manifest.claims.keys() - present if keyed_hash(path) in keys}
        for _row in reject_missing(batch, manifest, ended, present):
            pass
    batch.pending_files.all().delete()


def refuse_too_large(file: PendingFile) -> None:
    """Tell the ledger of a file that is larger than the limit, in place of taking its bytes."""
    row = UploadedFile(batch=file.batch, path=clean_path(file.path), size_bytes=file.size_bytes)
    with transaction.atomic():
        reject_too_large(row)
        finish(file)


def forget_unfinished() -> None:
    """Give up on what nobody has gone on sending for CBMIR_UPLOAD_DAYS; what had come of it is deleted."""
    for batch in abandoned_batches():
        stop_waiting(batch)


def stop_waiting(batch: UploadBatch) -> int:
    """Go on without what has not come completely; returns how many files those are.

    The ledger tells those of which something has come.
    """
    with transaction.atomic():
        batch = UploadBatch.objects.select_for_update().get(pk=batch.pk)
        complete = batch.pending_files.complete()
        missing = batch.files_to_come - complete.count()
        for file in batch.pending_files.unreceived().exclude(pk__in=complete.values("pk")):
            row = UploadedFile(batch=batch, path=clean_path(file.path), size_bytes=file.size_bytes)
            reject_unread(row, "not_sent", "The file was not sent to its end.")
            file.delete()
        batch.files_to_come -= missing
        batch.save(update_fields=["files_to_come"])
        if missing and not batch.files_to_come:
            close(batch)
    return missing
