"""Files on their way into the ledger, and folders that are watched for them."""

from django.db import models
from django.db.models import F, Q

from ingest.models.datasets import Dataset
from ingest.models.ledger import LabelSource, UploadBatch


class PendingKind(models.TextChoices):
    SENT = "sent", "sent from a browser, in parts"
    FILE = "file", "a file of the server"
    FOLDER = "folder", "a folder of the server, to be listed"
    MANIFEST = "manifest", "the manifest of the others"


class PendingFileQuerySet(models.QuerySet["PendingFile"]):
    def unreceived(self) -> "PendingFileQuerySet":
        return self.filter(received_at=None)

    def complete(self) -> "PendingFileQuerySet":
        """All bytes are there, and wait to be taken in."""
        return self.unreceived().filter(~Q(kind=PendingKind.SENT) | Q(received_bytes=F("size_bytes")))


class PendingFile(models.Model):
    """A file on its way into the ledger, which it enters once (ingest/pending.py).

    Rows stay until the last of their batch is taken in, so that a sender can ask what has come.
    """

    batch = models.ForeignKey(UploadBatch, models.CASCADE, related_name="pending_files")
    kind = models.CharField(max_length=8, choices=PendingKind, default=PendingKind.SENT)
    path = models.CharField(max_length=1024, help_text="The file's path inside what was sent.")
    server_path = models.TextField(blank=True, help_text="Quoted as in a URL: it need not be UTF-8.")
    key = models.CharField(max_length=64, blank=True, help_text="The sender's own name for it.")
    size_bytes = models.BigIntegerField(default=0)
    modified = models.BigIntegerField(
        default=0, help_text="When the file was changed, in its own clock's unit: tells its versions apart."
    )
    received_bytes = models.BigIntegerField(default=0)
    received_rows = models.PositiveIntegerField(default=0, help_text="Of an archive, members taken in.")
    attempts = models.PositiveSmallIntegerField(default=0)
    received_at = models.DateTimeField(null=True, blank=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = PendingFileQuerySet.as_manager()

    class Meta:
        ordering = ["id"]
        indexes = [
            models.Index(fields=["id"], name="pendingfile_unreceived", condition=Q(received_at=None)),
            models.Index(fields=["batch", "received_at"], name="pendingfile_batch"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["batch", "key"], name="pendingfile_once_per_key", condition=~Q(key="")
            ),
        ]

    def __str__(self) -> str:
        return f"pending file {self.pk} of batch {self.batch_id}"

    @property
    def is_complete(self) -> bool:
        return self.kind != PendingKind.SENT or self.received_bytes == self.size_bytes


class WatchedFolder(models.Model):
    """A folder of the server whose new files are taken in by themselves (ingest/watching.py)."""

    path = models.CharField(
        max_length=1024, unique=True, help_text="Below one of the roots of CBMIR_IMPORT_ROOTS."
    )
    dataset = models.ForeignKey(Dataset, models.CASCADE, related_name="watched_folders")
    label_source = models.CharField(
        max_length=16,
        choices=LabelSource,
        default=LabelSource.DICOM,
        verbose_name="labels from",
    )
    makes_organs = models.BooleanField(default=False, verbose_name="make new organs of unknown names")
    is_active = models.BooleanField(default=True, verbose_name="active")
    looked_at = models.DateTimeField(null=True, blank=True)
    problem = models.CharField(
        max_length=500, blank=True, help_text="Why the last look found nothing, or what waits."
    )

    class Meta:
        ordering = ["path"]

    def __str__(self) -> str:
        return self.path


class WatchedFile(models.Model):
    """A file of a watched folder as it was at the last look; kept for ever, so that it comes in once."""

    folder = models.ForeignKey(WatchedFolder, models.CASCADE, related_name="files")
    path_digest = models.CharField(max_length=64, help_text="SHA-256 of the path inside the folder.")
    size_bytes = models.BigIntegerField()
    modified = models.BigIntegerField(help_text="In nanoseconds.")
    taken_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["folder", "path_digest"], name="watchedfile_once")]

    def __str__(self) -> str:
        return f"watched file {self.pk}"
