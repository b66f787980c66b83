"""What the REST API says of batches, their files, and the labels of the collection."""

from typing import Any

from rest_framework import serializers

from ingest.labels import MANIFEST_BYTES, MANIFEST_COLUMNS, MANIFEST_NAME, ManifestError, read_manifest
from ingest.models import (
    Dataset,
    DatasetVersion,
    FileState,
    LabelSource,
    Modality,
    OrganClass,
    SliceChoice,
    UploadBatch,
    UploadedFile,
)
from ingest.receiving import TrashError, columns_for, refuse_trashed
from ingest.versions import NAME_LENGTH


class BatchSerializer(serializers.ModelSerializer[UploadBatch]):
    dataset = serializers.CharField(source="dataset.name", max_length=120, help_text="Made if there is none.")
    label_source = serializers.ChoiceField(choices=LabelSource.choices, default=LabelSource.DICOM)
    makes_organs = serializers.BooleanField(
        default=False, help_text="Unknown organ names become classes, instead of waiting for a decision."
    )
    is_trusted = serializers.BooleanField(
        default=False,
        help_text="No text that tells who a patient is, is burned into the pictures: none is held back.",
    )
    manifest_columns = serializers.DictField(
        source="dataset.manifest_columns",
        child=serializers.CharField(max_length=200),
        required=False,
        help_text="What manifests call our columns, {ours: theirs}; kept with the data set.",
    )
    slice_choice = serializers.ChoiceField(
        source="dataset.slice_choice",
        choices=SliceChoice.choices,
        required=False,
        help_text="Which slices of volumes the data set takes; one that is there keeps its own choice.",
    )
    slice_step = serializers.IntegerField(
        source="dataset.slice_step", min_value=2, max_value=1000, required=False
    )
    is_dry_run = serializers.BooleanField(
        default=False,
        help_text="Nothing is imported; what would become of each file is told.",
    )
    files_to_come = serializers.IntegerField(
        min_value=0,
        max_value=10_000_000,
        default=0,
        help_text="How many files will be sent in parts; then, how many are not in the ledger yet.",
    )
    manifest = serializers.FileField(
        write_only=True, required=False, help_text="A manifest.csv that labels files sent in parts."
    )
    manifest_path = serializers.CharField(
        write_only=True,
        default=MANIFEST_NAME,
        help_text="Its path: its own paths are relative to its folder.",
    )
    state = serializers.SerializerMethodField(help_text="empty, importing or finished")
    files = serializers.SerializerMethodField(help_text="Number of files, in all and by state.")

    class Meta:
        model = UploadBatch
        fields = [
            "id",
            "dataset",
            "label_source",
            "makes_organs",
            "is_trusted",
            "manifest_columns",
            "slice_choice",
            "slice_step",
            "is_dry_run",
            "files_to_come",
            "manifest",
            "manifest_path",
            "created_at",
            "state",
            "files",
        ]

    def validate_dataset(self, name: str) -> str:
        try:
            refuse_trashed(name)
        except TrashError as error:
            raise serializers.ValidationError(str(error)) from error
        return name

    def validate_manifest_columns(self, columns: dict[str, str]) -> dict[str, str]:
        if unknown := columns.keys() - MANIFEST_COLUMNS.keys():
            raise serializers.ValidationError(f"There is no column {', '.join(sorted(unknown))}.")
        return columns

    def validate_manifest(self, file: Any) -> Any:
        if file.size > MANIFEST_BYTES:
            raise serializers.ValidationError(f"The manifest is larger than {MANIFEST_BYTES // 2**20} MB.")
        return file

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """The manifest is one that can be read with the columns of its data set, and labels files to come."""
        if manifest := attrs.get("manifest"):
            dataset = attrs["dataset"]
            columns = columns_for(dataset["name"], dataset.get("manifest_columns") or {})
            try:
                read_manifest(manifest.read(), MANIFEST_NAME, columns)
            except ManifestError as error:
                raise serializers.ValidationError({"manifest": str(error)}) from error
            if not attrs["files_to_come"]:
                sentence = "Tell how many files it labels, or post it beside them."
                raise serializers.ValidationError({"files_to_come": sentence})
        return attrs

    def get_state(self, batch: Any) -> str:
        if batch.files_to_come:
            return "importing"
        if not batch.files_total:
            return "empty"
        return "importing" if batch.files_queued or batch.files_reading else "finished"

    def get_files(self, batch: Any) -> dict[str, int]:
        return {name: getattr(batch, f"files_{name}") for name in ["total", *FileState.values]}


class FileSerializer(serializers.ModelSerializer[UploadedFile]):
    image_ids: Any = serializers.PrimaryKeyRelatedField(source="images", many=True, read_only=True)

    class Meta:
        model = UploadedFile
        fields = [
            "id", "path", "size_bytes", "sha256", "state", "reason_code", "reason", "is_retryable",
            "organ_name", "modality_code", "split", "duplicate_of", "image_ids",
        ]  # fmt: skip
        read_only_fields = fields


class RetrySerializer(serializers.Serializer[Any]):
    reason_code = serializers.CharField(required=False, help_text="Only files rejected for this reason.")
    file = serializers.IntegerField(required=False, help_text="Only the file of this number.")


class FilesUploadSerializer(serializers.Serializer[Any]):
    """Multipart. Labels stand in the order of the files: one for each, one for all, or none."""

    file = serializers.ListField(child=serializers.FileField(allow_empty_file=True), allow_empty=False)
    path = serializers.ListField(child=serializers.CharField(allow_blank=True), required=False)
    organ = serializers.ListField(child=serializers.CharField(allow_blank=True), required=False)
    modality = serializers.ListField(child=serializers.CharField(allow_blank=True), required=False)
    group_id = serializers.ListField(child=serializers.CharField(allow_blank=True), required=False)
    split = serializers.ListField(
        child=serializers.ChoiceField(choices=["train", "test"], allow_blank=True), required=False
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Every field as long as `file`."""
        count = len(attrs["file"])
        for name in ("organ", "modality", "group_id", "split"):
            values = attrs.get(name) or [""]
            if len(values) not in (1, count):
                raise serializers.ValidationError(
                    {name: f"Send one for each of the {count} files, or one for all."}
                )
            attrs[name] = values * count if len(values) == 1 else values
        if len(attrs.setdefault("path", [file.name for file in attrs["file"]])) != count:
            raise serializers.ValidationError({"path": f"Send one for each of the {count} files."})
        return attrs


class OrganSerializer(serializers.ModelSerializer[OrganClass]):
    images = serializers.IntegerField(source="image_count", read_only=True)

    class Meta:
        model = OrganClass
        fields = ["name", "images"]


class ModalitySerializer(serializers.ModelSerializer[Modality]):
    images = serializers.IntegerField(source="image_count", read_only=True)

    class Meta:
        model = Modality
        fields = ["code", "name", "images"]


class DatasetSerializer(serializers.ModelSerializer[Dataset]):
    images = serializers.IntegerField(source="image_count", read_only=True)

    class Meta:
        model = Dataset
        fields = ["id", "name", "description", "created_at", "images", "slice_choice", "slice_step"]
        read_only_fields = ["name", "description", "created_at"]


class DatasetVersionSerializer(serializers.ModelSerializer[DatasetVersion]):
    dataset: Any = serializers.SlugRelatedField(slug_field="name", read_only=True)

    class Meta:
        model = DatasetVersion
        fields = ["id", "dataset", "name", "images", "sha256", "created_at"]


class FreezeSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(
        max_length=NAME_LENGTH, help_text="One that no other version of the data set has."
    )


class UploadSerializer(serializers.Serializer[Any]):
    url = serializers.CharField()
    path = serializers.CharField()
    size = serializers.IntegerField()
    modified = serializers.IntegerField()
    offset = serializers.IntegerField(help_text="How many bytes have come.")
    is_sent = serializers.BooleanField()


class UploadsSerializer(serializers.Serializer[Any]):
    files_to_come = serializers.IntegerField(help_text="Files that are not in the ledger yet.")
    files_to_send = serializers.IntegerField(help_text="Of these, how many have not come completely.")
    files = UploadSerializer(many=True)
