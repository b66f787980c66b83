"""Model versions, the training runs that made them, and how well they did."""

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.files.base import ContentFile
from django.core.validators import MinValueValidator
from django.db import models, transaction
from django.db.models import Q
from django.utils import timezone

from ingest.bell import ring
from ingest.models import Dataset, DatasetVersion


class RunStatus(models.TextChoices):
    QUEUED = "queued", "queued"
    RUNNING = "running", "running"
    SUCCEEDED = "succeeded", "succeeded"
    FAILED = "failed", "failed"
    CANCELLED = "cancelled", "cancelled"


class TrainingRunQuerySet(models.QuerySet["TrainingRun"]):
    def unfinished(self) -> "TrainingRunQuerySet":
        """Runs that wait, are being trained, or whose worker was killed; the oldest first."""
        return self.filter(status__in=[RunStatus.QUEUED, RunStatus.RUNNING]).order_by("pk")


class TrainingRun(models.Model):
    """One training of the network: what was asked for, how far it is, how it ended."""

    recipe = models.CharField(
        max_length=16, choices=[("default", "default"), ("paper", "paper")], default="default"
    )
    epochs = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Empty: the recipe's own number.",
    )
    max_seconds = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Fit the number of epochs into this time. Empty: no limit.",
    )
    datasets = models.ManyToManyField(
        Dataset, blank=True, help_text="None chosen, and no frozen version: all data sets."
    )
    chosen_versions = models.ManyToManyField(
        DatasetVersion,
        blank=True,
        related_name="+",
        verbose_name="frozen versions",
        help_text="They are learnt from with their images and labels of then. Data sets chosen above "
        "are added as they are when the training begins, unless a version of them is chosen.",
    )
    dataset_versions = models.ManyToManyField(
        DatasetVersion, blank=True, editable=False, help_text="What was in its data sets when it began."
    )
    deleted_images = models.PositiveIntegerField(
        default=0, editable=False, help_text="Of the chosen versions, no longer there when it began."
    )
    device = models.CharField(
        max_length=8, choices=[("auto", "auto"), ("cpu", "cpu"), ("cuda", "cuda")], default="auto"
    )
    activate = models.BooleanField(
        default=False, help_text="Put the new version into service when it is ready."
    )
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    status = models.CharField(max_length=16, choices=RunStatus, default=RunStatus.QUEUED, editable=False)
    started_at = models.DateTimeField(null=True, editable=False)
    finished_at = models.DateTimeField(null=True, editable=False)
    progress: models.JSONField[Any, Any] = models.JSONField(
        default=dict,
        editable=False,
        help_text="epoch, epochs, step, steps, images_per_second, seconds_left, message",
    )
    history: models.JSONField[Any, Any] = models.JSONField(
        default=list,
        editable=False,
        help_text="Per epoch: train_loss, train_accuracy, val_loss, val_accuracy, seconds.",
    )
    error = models.CharField(max_length=500, blank=True, editable=False)

    objects = TrainingRunQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"training run {self.pk} ({self.recipe})"

    @property
    def fraction_done(self) -> float:
        """How much of the training is done, 0 to 1."""
        if self.status == RunStatus.SUCCEEDED:
            return 1.0
        epochs, steps = self.progress.get("epochs") or 1, self.progress.get("steps") or 1
        done = max(self.progress.get("epoch", 1) - 1, 0) + self.progress.get("step", 0) / steps
        return float(min(done / epochs, 1.0))

    @property
    def resume_dir(self) -> Path:
        """Where a killed run takes up again; scratch space of the training host."""
        return Path(settings.DATA_DIR) / "training" / str(self.pk)

    @property
    def is_finished(self) -> bool:
        return self.status not in {RunStatus.QUEUED, RunStatus.RUNNING}

    def hand_over(self) -> None:
        """Ring for the training worker."""
        ring("ml.train", self.pk)  # by name: web processes do not import the tasks

    def cancel(self) -> bool:
        """Stop the run, within a second or two when it is being trained. False: it had ended before."""
        cancelled = (
            TrainingRun.objects.unfinished()
            .filter(pk=self.pk)
            .update(status=RunStatus.CANCELLED, finished_at=timezone.now())
        )
        self.refresh_from_db()
        return bool(cancelled)


class VersionStatus(models.TextChoices):
    TRAINED = "trained", "trained"
    PREPARING = "preparing", "preparing to serve"
    ACTIVE = "active", "active"
    RETIRED = "retired", "retired"


class ModelVersionQuerySet(models.QuerySet["ModelVersion"]):
    def active(self) -> "ModelVersion | None":
        return self.filter(status=VersionStatus.ACTIVE).first()

    def in_service(self) -> "ModelVersionQuerySet":
        """Versions that every image must be described by: the active one and those about to be."""
        return self.filter(status__in=[VersionStatus.ACTIVE, VersionStatus.PREPARING])


class ModelVersion(models.Model):
    """A trained network with its checkpoint. At most one is active: it answers the queries."""

    training_run = models.OneToOneField(
        TrainingRun, models.SET_NULL, null=True, blank=True, related_name="model_version"
    )
    recipe = models.CharField(max_length=16)
    checkpoint = models.CharField(max_length=200, help_text="Folder of the checkpoint in the file storage.")
    organs: models.JSONField[Any, Any] = models.JSONField(
        default=list, help_text="In the order of the network's outputs."
    )
    modalities: models.JSONField[Any, Any] = models.JSONField(
        default=list, help_text="In the order of the network's outputs."
    )
    metrics: models.JSONField[Any, Any] = models.JSONField(default=dict, blank=True)
    status = models.CharField(max_length=16, choices=VersionStatus, default=VersionStatus.TRAINED)
    created_at = models.DateTimeField(auto_now_add=True)
    activated_at = models.DateTimeField(null=True, blank=True)

    objects = ModelVersionQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        permissions = [("activate_modelversion", "Can put a model version into service")]
        constraints = [
            models.UniqueConstraint(
                fields=["status"], condition=Q(status="active"), name="one_active_model_version"
            )
        ]

    def __str__(self) -> str:
        return f"v{self.pk}"

    def request_activation(self) -> None:
        """Ask for this version to go into service: its index is completed first, then it is switched to.

        The last one asked for wins; an older request still being prepared is dropped.
        """
        with transaction.atomic():
            preparing = ModelVersion.objects.select_for_update().filter(status=VersionStatus.PREPARING)
            preparing.exclude(pk=self.pk).update(status=VersionStatus.RETIRED)
            ModelVersion.objects.filter(pk=self.pk).exclude(status=VersionStatus.ACTIVE).update(
                status=VersionStatus.PREPARING
            )
            ring("search.index_images")  # by name: `ml` does not import `search`
        self.refresh_from_db()


class Evaluation(models.Model):
    """How well a version classifies and retrieves the held-out images of a data set."""

    model_version = models.ForeignKey(ModelVersion, models.CASCADE, related_name="evaluations")
    datasets = models.ManyToManyField(Dataset, blank=True)
    queries = models.PositiveIntegerField(help_text="Number of query images.")
    collection = models.PositiveIntegerField(help_text="Number of images searched.")
    metrics: models.JSONField[Any, Any] = models.JSONField(default=dict)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"evaluation of v{self.model_version_id}"


class Comparison(models.Model):
    """A report of `manage.py compare_methods`; its page is in the file storage."""

    folder = models.CharField(max_length=500, unique=True, help_text="Where the command wrote all its files.")
    facts: models.JSONField[Any, Any] = models.JSONField(default=dict, help_text="Images, epochs, machine.")
    report = models.FileField(upload_to="comparisons", editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["-updated_at"]

    def __str__(self) -> str:
        return f"comparison {self.pk}"

    @classmethod
    def keep(cls, folder: Path, facts: dict[str, str]) -> "Comparison":
        """Store the report in `folder`, in place of an earlier one from there."""
        comparison, _ = cls.objects.get_or_create(folder=str(folder))
        earlier = comparison.report.name
        comparison.facts = facts
        comparison.report.save("comparison.html", ContentFile((folder / "index.html").read_bytes()))
        if earlier:
            comparison.report.storage.delete(earlier)
        return comparison
