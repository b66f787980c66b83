"""What the ingest workers do."""

from celery import shared_task

from ingest.bell import ring
from ingest.importing import import_queued
from ingest.ledger import forget_rejected
from ingest.models import FileState, UploadedFile
from ingest.trash import empty_trash as empty

WORK_SECONDS = 20  # then to the back of the queue


@shared_task(name="ingest.import_queued_files")
def import_queued_files() -> None:
    """Import what is queued; any number of workers may do so side by side."""
    import_queued(seconds=WORK_SECONDS)
    if UploadedFile.objects.filter(state=FileState.QUEUED).exists():
        ring(import_queued_files)


@shared_task(name="ingest.forget_rejected_files")
def forget_rejected_files() -> None:
    """Delete the bytes of files that were rejected long ago."""
    forget_rejected()


@shared_task(name="ingest.empty_trash")
def empty_trash() -> None:
    """Delete data sets that were put into the trash long ago."""
    empty()
