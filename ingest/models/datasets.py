"""Data sets, and their frozen versions."""

from typing import Any

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from ingest.slices import ALL, EVERY_NTH, INFORMATIVE, SliceRule


class SliceChoice(models.TextChoices):
    """Which slices of a volume become images (ingest/slices.py)."""

    INFORMATIVE = INFORMATIVE, "informative ones"
    EVERY_NTH = EVERY_NTH, "one of every few"
    ALL = ALL, "all"


class BurnedInText(models.TextChoices):
    """How files of a data set are checked for text burned into their pictures."""

    CHECK = "check", "hold back DICOM files that are likely to have it"
    DETECT = "detect", "hold back these, and every picture in which text is found"
    TRUSTED = "trusted", "hold nothing back: the files are free of it"


class DatasetQuerySet(models.QuerySet["Dataset"]):
    def present(self) -> "DatasetQuerySet":
        """Those that are not in the trash."""
        return self.filter(trashed_at=None)

    def trashed(self) -> "DatasetQuerySet":
        return self.filter(trashed_at__isnull=False)


class Dataset(models.Model):
    """A named collection of images that came in together or belong together."""

    name = models.CharField(max_length=120, unique=True)
    description = models.TextField(blank=True)
    licence = models.CharField(max_length=120, blank=True, help_text="Such as CC BY 4.0.")
    source = models.URLField(blank=True, help_text="Where it comes from.")
    citation = models.TextField(blank=True, help_text="How its makers want to be cited.")
    slice_choice = models.CharField(
        "slices of volumes", max_length=16, choices=SliceChoice, default=SliceChoice.INFORMATIVE
    )
    slice_step = models.PositiveSmallIntegerField(
        "one of every",
        default=SliceRule.step,
        validators=[MinValueValidator(2), MaxValueValidator(1000)],
        help_text="Of so many slices one is taken, where one of every few is.",
    )
    burned_in_text = models.CharField(max_length=8, choices=BurnedInText, default=BurnedInText.CHECK)
    keeps_identifiers = models.BooleanField(
        default=False,
        help_text="Files that come in from now on are kept as they are: DICOM with the patients' names, "
        "pictures with what is noted beside their pixels (EXIF, GPS, comments), "
        "paths with the words in them.",
    )
    manifest_columns: models.JSONField[Any, Any] = models.JSONField(
        default=dict, blank=True, help_text="What its manifests call our columns: {ours: theirs}."
    )
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    trashed_at = models.DateTimeField(null=True, blank=True, editable=False)
    trashed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, editable=False, related_name="+"
    )

    objects = DatasetQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        permissions = [("keep_identifiers", "Can let data sets keep what identifies patients")]

    def __str__(self) -> str:
        return self.name

    @property
    def slice_rule(self) -> SliceRule:
        return SliceRule(self.slice_choice, self.slice_step, settings.MAX_FRAMES_PER_FILE)


class DatasetVersionQuerySet(models.QuerySet["DatasetVersion"]):
    def present(self) -> "DatasetVersionQuerySet":
        """Those of data sets that are there and not in the trash."""
        return self.filter(dataset__isnull=False, dataset__trashed_at=None)


class DatasetVersion(models.Model):
    """What was in a data set at one time, for good: its images and their labels, listed in a stored file."""

    dataset = models.ForeignKey(
        Dataset, models.SET_NULL, null=True, related_name="versions", help_text="Empty: deleted since."
    )
    dataset_name = models.CharField(max_length=120, help_text="When it was frozen.")
    name = models.CharField(max_length=64)
    images = models.PositiveIntegerField()
    sha256 = models.CharField(max_length=64, help_text="Of the list, before it is compressed.")
    listing = models.FileField(max_length=200, help_text="The list: CSV, compressed by gzip.")
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = DatasetVersionQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["dataset", "name"], name="one_dataset_version_of_a_name"),
        ]

    def __str__(self) -> str:
        return f"{self.dataset_name}, {self.name}"
