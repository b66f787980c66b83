"""The images of the collection, and which of them may be one."""

from typing import Any

from django.conf import settings
from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.search import SearchVectorField
from django.db import models
from django.db.models import Case, Count, F, Func, Q, Value, When
from django.db.models.fields.json import KT

from ingest.models.classes import Modality, OrganClass
from ingest.models.datasets import Dataset
from ingest.models.ledger import UploadedFile


class Split(models.TextChoices):
    TRAIN = "train", "train"
    TEST = "test", "test"


class ImageQuerySet(models.QuerySet["Image"]):
    def present(self) -> "ImageQuerySet":
        """Those whose data set is not in the trash."""
        return self.filter(dataset__trashed_at=None)

    def labelled(self) -> "ImageQuerySet":
        return self.filter(organ__isnull=False)

    def for_training(self) -> "ImageQuerySet":
        """Labelled images that are not held out for testing."""
        return self.present().labelled().exclude(split=Split.TEST)


def words_of_image() -> Func:
    """The words of what a file says about its image, as PostgreSQL searches them; no language's endings."""
    return Func(
        F("body_part_examined"),
        F("tags"),
        template="(to_tsvector('simple'::regconfig, %(expressions)s))",
        arg_joiner=") || to_tsvector('simple'::regconfig, ",
    )


def age_in_years() -> Case:
    """Whole years of PatientAge (PS3.5 6.2, AS: 063Y, 018M, 006W, 003D); null where there is none."""
    age = KT("tags__PatientAge")
    number = Func(age, template=r"substring(%(expressions)s from '^\d+')::integer")
    return Case(
        When(tags__PatientAge__regex=r"^\d{1,3}Y$", then=number),
        When(tags__PatientAge__regex=r"^\d{1,3}M$", then=number / Value(12)),
        When(tags__PatientAge__regex=r"^\d{1,3}[WD]$", then=Value(0)),
        output_field=models.IntegerField(),
    )


class Image(models.Model):
    """One 2D picture of the collection: a picture file, or one frame of a DICOM object.

    `organ` and `modality` are labels (ground truth or the file's own claim), never predictions.
    """

    dataset = models.ForeignKey(Dataset, models.CASCADE, related_name="images")
    uploaded_file = models.ForeignKey(
        UploadedFile, models.SET_NULL, null=True, blank=True, related_name="images"
    )
    sha256 = models.CharField(max_length=64, help_text="Of the file's bytes as they came in.")
    frame_number = models.PositiveIntegerField(default=1, help_text="From 1, as in DICOM.")
    number_of_frames = models.PositiveIntegerField(default=1)
    source_path = models.CharField(max_length=1024, help_text="The file's path inside what was uploaded.")
    original = models.FileField(max_length=200, help_text="The file as it is kept: de-identified.")
    rendition = models.FileField(max_length=200, help_text="256x256 8-bit grey, what the network sees.")
    preview = models.FileField(max_length=200, help_text="For people; keeps the aspect.")

    organ = models.ForeignKey(OrganClass, models.PROTECT, null=True, blank=True, related_name="images")
    modality = models.ForeignKey(Modality, models.PROTECT, null=True, blank=True, related_name="images")
    incoming_organ = models.CharField(
        max_length=64, blank=True, help_text="The organ's name as it came with the file, as a slug."
    )
    incoming_modality = models.CharField(
        max_length=16, blank=True, help_text="The modality as it came with the file, in capitals."
    )
    body_part_examined = models.CharField(max_length=64, blank=True, help_text="The file's own claim.")
    split = models.CharField(max_length=8, choices=Split, blank=True)

    patient_key = models.CharField(max_length=32, blank=True, db_index=True, help_text="Keyed hash.")
    study_key = models.CharField(max_length=32, blank=True, help_text="Keyed hash.")
    series_key = models.CharField(max_length=32, blank=True, help_text="Keyed hash.")
    group_key = models.CharField(
        max_length=32, db_index=True, help_text="Images of one patient or volume share it. Keyed hash."
    )

    file_format = models.CharField(max_length=16)
    transfer_syntax_uid = models.CharField(max_length=64, blank=True)
    rows = models.PositiveIntegerField()
    columns = models.PositiveIntegerField()
    pixel_hash = models.CharField(
        max_length=64, blank=True, help_text="SHA-256 of the grey pixels as they are shown, and their size."
    )
    bits_stored = models.PositiveSmallIntegerField()
    tags: models.JSONField[Any, Any] = models.JSONField(
        default=dict, blank=True, help_text="Permitted DICOM attributes by keyword."
    )
    assumptions: models.JSONField[Any, Any] = models.JSONField(
        default=list, blank=True, help_text="What was missing or wrong in the file, and what was assumed."
    )
    deidentification = models.CharField(
        max_length=64, blank=True, help_text="What was done with the file: codes of DICOM's CID 7050."
    )
    created_at = models.DateTimeField(auto_now_add=True)

    # What searches filter by. The database makes these of `tags`.
    patient_sex = models.GeneratedField(
        expression=KT("tags__PatientSex"), output_field=models.TextField(null=True), db_persist=True
    )
    patient_age_years = models.GeneratedField(
        expression=age_in_years(), output_field=models.IntegerField(null=True), db_persist=True
    )
    view_position = models.GeneratedField(
        expression=KT("tags__ViewPosition"), output_field=models.TextField(null=True), db_persist=True
    )
    words = models.GeneratedField(
        expression=words_of_image(), output_field=SearchVectorField(null=True), db_persist=True
    )

    objects = ImageQuerySet.as_manager()

    class Meta:
        ordering = ["id"]
        indexes = [
            models.Index(fields=["series_key"], name="image_series", condition=~Q(series_key="")),
            models.Index(fields=["incoming_organ"], name="image_unlabelled", condition=Q(organ=None)),
            models.Index(fields=["original"], name="image_original"),
            models.Index(
                fields=["incoming_modality"], name="image_without_modality", condition=Q(modality=None)
            ),
            models.Index(fields=["pixel_hash"], name="image_pixels"),
            GinIndex(fields=["words"], name="image_words"),
        ]
        constraints = [
            models.UniqueConstraint(fields=["sha256", "frame_number"], name="image_once_per_bytes"),
        ]

    def __str__(self) -> str:
        return f"image {self.pk}"


def images_in_collection() -> Count:
    """Of an organ or a modality: its images that are not in the trash."""
    return Count("images", filter=Q(images__dataset__trashed_at=None))


class Likeness(models.TextChoices):
    """How two images of different files are the same. Files of the same bytes are one image."""

    PIXELS = "pixels", "same pixels"
    NEAR = "near", "nearly the same"


class DuplicatePairQuerySet(models.QuerySet["DuplicatePair"]):
    def open(self) -> "DuplicatePairQuerySet":
        """Those nobody has decided on, of images that are not in the trash."""
        return self.filter(
            is_different=False, first__dataset__trashed_at=None, second__dataset__trashed_at=None
        )


class DuplicatePair(models.Model):
    """Two images that may be one, or that a person has said to be different."""

    first = models.ForeignKey(Image, models.CASCADE, related_name="+", help_text="The older one.")
    second = models.ForeignKey(Image, models.CASCADE, related_name="+")
    likeness = models.CharField(max_length=8, choices=Likeness)
    is_different = models.BooleanField(default=False, help_text="A person says so; it does not come again.")
    found_at = models.DateTimeField(auto_now_add=True)
    decided_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    decided_at = models.DateTimeField(null=True, blank=True)

    objects = DuplicatePairQuerySet.as_manager()

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(fields=["first", "second"], name="pair_once"),
            models.CheckConstraint(condition=Q(first__lt=F("second")), name="pair_in_order"),
        ]
        indexes = [models.Index(fields=["likeness", "id"], name="pair_open", condition=Q(is_different=False))]

    def __str__(self) -> str:
        return f"images {self.first_id} and {self.second_id}"
