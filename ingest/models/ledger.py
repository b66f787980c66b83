"""Batches, every file that came in with them and what became of it."""

from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Count, Q

from ingest.models.datasets import Dataset


class LabelSource(models.TextChoices):
    """Where the labels of a batch come from."""

    FOLDER = "folder", "folder names"
    MANIFEST = "manifest", "a manifest.csv"
    DICOM = "dicom", "DICOM tags"


class UploadBatchQuerySet(models.QuerySet["UploadBatch"]):
    def with_counts(self) -> "UploadBatchQuerySet":
        """Annotates files_total and one files_<state> for each state."""
        return self.annotate(
            files_total=Count("files"),
            **{f"files_{state}": Count("files", filter=Q(files__state=state)) for state in FileState.values},
        )


class UploadBatch(models.Model):
    """Files that came in together: one upload, one command, one request."""

    dataset = models.ForeignKey(Dataset, models.CASCADE, related_name="batches")
    label_source = models.CharField(max_length=16, choices=LabelSource, default=LabelSource.DICOM)
    makes_organs = models.BooleanField(
        default=False, help_text="Unknown organ names become classes, instead of waiting for a decision."
    )
    is_trusted = models.BooleanField(
        default=False, help_text="Whoever brought it in says that no text is burned into its pictures."
    )
    source = models.CharField(
        max_length=1024, blank=True, help_text="The folder of the server that the files come from."
    )
    is_dry_run = models.BooleanField(
        default=False, help_text="What would become of the files is told, and nothing is imported."
    )
    files_to_come = models.PositiveIntegerField(
        default=0, help_text="Files that are not in the ledger yet: being sent, or waiting to be taken in."
    )
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = UploadBatchQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "upload batches"

    def __str__(self) -> str:
        return f"batch {self.pk} into {self.dataset}"

    @property
    def is_of_watched_folder(self) -> bool:
        return bool(self.source) and self.created_by_id is None

    @property
    def is_finished(self) -> bool:
        return not self.files_to_come and not self.files.unfinished().exists()


class FileState(models.TextChoices):
    QUEUED = "queued", "queued"
    READING = "reading", "reading"
    IMPORTED = "imported", "imported"
    DUPLICATE = "duplicate", "duplicate"
    LEFT_OUT = "left_out", "left out"
    REJECTED = "rejected", "rejected"
    QUARANTINED = "quarantined", "quarantined"
    CHECKED = "checked", "would be imported"  # of a dry run


AWAITED = [FileState.QUEUED, FileState.READING, FileState.QUARANTINED]  # their bytes are still needed


class UploadedFileQuerySet(models.QuerySet["UploadedFile"]):
    def unfinished(self) -> "UploadedFileQuerySet":
        return self.filter(state__in=[FileState.QUEUED, FileState.READING])

    def ended(self) -> "UploadedFileQuerySet":
        return self.exclude(state__in=[FileState.QUEUED, FileState.READING])

    def needing_bytes(self) -> "UploadedFileQuerySet":
        """Still to be read or decided on, or to be tried again."""
        return self.filter(Q(state__in=AWAITED) | Q(is_retryable=True))


class UploadedFile(models.Model):
    """One file of a batch and what became of it."""

    batch = models.ForeignKey(UploadBatch, models.CASCADE, related_name="files")
    path = models.CharField(max_length=1024, help_text="The file's path inside what was uploaded.")
    path_key = models.CharField(
        max_length=32, blank=True, help_text="Keyed hash of the path as it came: it may lose words."
    )
    size_bytes = models.BigIntegerField(default=0)
    sha256 = models.CharField(max_length=64, blank=True)
    state = models.CharField(max_length=16, choices=FileState, default=FileState.QUEUED)
    reason_code = models.SlugField(max_length=64, blank=True)
    reason = models.CharField(max_length=500, blank=True)
    organ_name = models.CharField(max_length=64, blank=True, help_text="Label that came with the file.")
    modality_code = models.CharField(max_length=16, blank=True, help_text="Label that came with the file.")
    group_key = models.CharField(max_length=32, blank=True, help_text="Keyed hash of the manifest's group.")
    split = models.CharField(max_length=8, blank=True)
    is_retryable = models.BooleanField(
        default=False, help_text="Rejected, and its bytes are kept so that it can be tried again."
    )
    attempts = models.PositiveSmallIntegerField(default=0)
    claimed_at = models.DateTimeField(
        null=True, blank=True, help_text="Empty again when it ended and what came in was tidied away."
    )
    finished_at = models.DateTimeField(null=True, blank=True)
    duplicate_of = models.ForeignKey(
        "Image", models.SET_NULL, null=True, blank=True, related_name="duplicate_files"
    )

    objects = UploadedFileQuerySet.as_manager()

    class Meta:
        ordering = ["id"]
        indexes = [
            models.Index(fields=["batch", "state"]),
            models.Index(
                fields=["id"], name="uploadedfile_unfinished", condition=Q(state__in=["queued", "reading"])
            ),
            models.Index(
                fields=["sha256"],
                name="uploadedfile_awaited",
                condition=Q(state__in=["queued", "reading", "quarantined"]) | Q(is_retryable=True),
            ),
            models.Index(fields=["batch", "finished_at"], name="uploadedfile_finished"),
            models.Index(
                fields=["claimed_at"], name="uploadedfile_claimed", condition=Q(claimed_at__isnull=False)
            ),
            models.Index(fields=["sha256"], name="uploadedfile_merged", condition=Q(reason_code="merged")),
        ]

    def __str__(self) -> str:
        return f"file {self.pk} of batch {self.batch_id}"


class Decision(models.TextChoices):
    """What a person has decided on a file that was held back."""

    MASK = "mask", "masked and imported"
    AS_IS = "as_is", "imported as it is"
    REJECT = "reject", "rejected"


class QuarantinedFile(models.Model):
    """A file that was held back for a curator's eye, and what was decided by whom."""

    file = models.OneToOneField(UploadedFile, models.CASCADE, related_name="quarantine")
    frame_numbers: models.JSONField[Any, Any] = models.JSONField(
        default=list, help_text="Of the frames that would be imported."
    )
    boxes: models.JSONField[Any, Any] = models.JSONField(
        default=list,
        help_text="Left, top, right, bottom, 0 to 1: where text was found, or what was masked.",
    )
    created_at = models.DateTimeField(auto_now_add=True)
    decision = models.CharField(max_length=8, choices=Decision, blank=True)
    decided_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    decided_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["id"]
        indexes = [models.Index(fields=["id"], name="quarantined_undecided", condition=Q(decision=""))]

    def __str__(self) -> str:
        return f"quarantine of file {self.file_id}"
