"""What the ingest workers do."""

from celery import shared_task

from ingest.bell import ring
from ingest.importing import import_queued
from ingest.ledger import forget_rejected
from ingest.models import FileState, UploadedFile
from ingest.pending import forget_unfinished, receive_pending
from ingest.sweeping import sweep
from ingest.trash import empty_trash as empty
from ingest.watching import look_at_all

WORK_SECONDS = 20  # then to the back of the queue


@shared_task(name="ingest.import_queued_files")
def import_queued_files() -> None:
    """Take in what has come and import what is queued; any number of workers may do so side by side."""
    receive_pending(seconds=WORK_SECONDS)
    import_queued(seconds=WORK_SECONDS)
    if UploadedFile.objects.filter(state=FileState.QUEUED).exists():
        ring(import_queued_files)


@shared_task(name="ingest.forget_rejected_files")
def forget_rejected_files() -> None:
    """Delete the bytes of files that were rejected long ago."""
    forget_rejected()


@shared_task(name="ingest.sweep_storage")
def sweep_storage() -> None:
    """Delete what killed processes left of files that are done with."""
    sweep()


@shared_task(name="ingest.empty_trash")
def empty_trash() -> None:
    """Delete data sets that were put into the trash long ago."""
    empty()


@shared_task(name="ingest.forget_unfinished_uploads")
def forget_unfinished_uploads() -> None:
    """Give up on what nobody has gone on sending for days."""
    forget_unfinished()


@shared_task(name="ingest.look_at_watched_folders")
def look_at_watched_folders() -> None:
    """Take in what has come to lie in the watched folders."""
    if look_at_all():
        ring(import_queued_files)
