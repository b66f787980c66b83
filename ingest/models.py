"""The collection: data sets, their images and labels, and the ledger of every file that came in."""

from typing import Any

from django.conf import settings
from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.search import SearchVectorField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Case, Count, F, Func, Q, Value, When
from django.db.models.fields.json import KT

from ingest.slices import ALL, EVERY_NTH, INFORMATIVE, SliceRule


class OrganClass(models.Model):
    """A body organ, the label that the network learns (the paper's class)."""

    name = models.SlugField(max_length=64, unique=True)
    description = models.TextField(blank=True, help_text="What belongs to it and what does not.")

    class Meta:
        ordering = ["name"]
        verbose_name = "organ"

    def __str__(self) -> str:
        return self.name


class IncomingName(models.Model):
    """A name that came with files: what it means is decided once (ingest/naming.py)."""

    name: Any
    is_ignored: Any
    created_at = models.DateTimeField(auto_now_add=True)
    decided_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    decided_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        abstract = True
        ordering = ["name"]

    def __str__(self) -> str:
        return str(self.name)


class OrganName(IncomingName):
    """A name that came with files and is no class's: what it means is decided once (ingest/naming.py)."""

    name = models.SlugField(max_length=64, unique=True)
    organ = models.ForeignKey(OrganClass, models.SET_NULL, null=True, blank=True, related_name="other_names")
    is_ignored = models.BooleanField(default=False, help_text="It names no organ of the collection.")
    former_key = models.BigIntegerField(
        null=True, editable=False, help_text="Of the class that had this name until it was merged."
    )


class Modality(models.Model):
    """An imaging modality under its DICOM code (PS3.3 C.7.3.1.1.1): CT, MR, DX, US, ..."""

    code = models.CharField(max_length=16, primary_key=True)
    name = models.CharField(max_length=64, blank=True)
    description = models.TextField(blank=True, help_text="What belongs to it and what does not.")

    class Meta:
        ordering = ["code"]
        verbose_name_plural = "modalities"

    def __str__(self) -> str:
        return self.code


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


class ModalityName(IncomingName):
    """A code that came with files and is no modality's: what it means is decided once (ingest/naming.py)."""

    name = models.CharField(max_length=16, unique=True, help_text="Letters and digits, in capitals.")
    modality = models.ForeignKey(Modality, models.SET_NULL, null=True, blank=True, related_name="other_names")
    is_ignored = models.BooleanField(default=False, help_text="It names no modality of the collection.")


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
        help_text="DICOM files that come in from now on are kept as they are, with the patients' names.",
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

    def needing_bytes(self) -> "UploadedFileQuerySet":
        """Still to be read or decided on, or to be tried again."""
        return self.filter(Q(state__in=AWAITED) | Q(is_retryable=True))


class UploadedFile(models.Model):
    """One file of a batch and what became of it."""

    batch = models.ForeignKey(UploadBatch, models.CASCADE, related_name="files")
    path = models.CharField(max_length=1024, help_text="The file's path inside what was uploaded.")
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
    claimed_at = models.DateTimeField(null=True, blank=True)
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


def images_in_collection() -> Count:
    """Of an organ or a modality: its images that are not in the trash."""
    return Count("images", filter=Q(images__dataset__trashed_at=None))


class LabelOrigin(models.TextChoices):
    """Where people label."""

    REVIEW = "review", "the review"
    NAME = "name", "a decision on its name"
    ADMIN = "admin", "the admin"
    SPLIT = "split", "a split by patient"
    MERGE = "merge", "a merge of classes"
    DUPLICATE = "duplicate", "a merge of duplicates"


class LabelEdit(models.Model):
    """One act of labelling by a person: of one image or of many. Undone as one."""

    origin = models.CharField(max_length=16, choices=LabelOrigin)
    summary = models.CharField(max_length=200, help_text="The labels given, in words.")
    merged: models.JSONField[Any, Any] = models.JSONField(
        default=dict, editable=False, help_text="Of a merge: the class that it took away (ingest/merged.py)."
    )
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="label_edits"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    undone_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    undone_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"label edit {self.pk}"


class LabelChange(models.Model):
    """What an edit made of one label of one image; the same before and after: a person has confirmed it."""

    edit = models.ForeignKey(LabelEdit, models.CASCADE, related_name="changes")
    image = models.ForeignKey(Image, models.CASCADE, related_name="label_changes")
    attribute = models.CharField(max_length=16, help_text="organ, modality or split")
    before = models.CharField(max_length=64, blank=True, help_text="An organ's key, a code; empty for none.")
    after = models.CharField(max_length=64, blank=True)

    def __str__(self) -> str:
        return f"{self.attribute} of image {self.image_id}"
