"""Model versions and training runs as JSON."""

from typing import Any

from rest_framework import serializers

from ingest.models import Dataset, DatasetVersion
from ml.models import ModelVersion, TrainingRun
from ml.training_images import TrainingError, enough_to_learn_from


class ModelVersionSerializer(serializers.ModelSerializer[ModelVersion]):
    name = serializers.CharField(source="__str__", read_only=True)

    class Meta:
        model = ModelVersion
        fields = [
            "id", "name", "status", "recipe", "organs", "modalities", "metrics",
            "training_run", "created_at", "activated_at",
        ]  # fmt: skip
        read_only_fields = fields


class TrainingRunSerializer(serializers.ModelSerializer[TrainingRun]):
    datasets = serializers.SlugRelatedField(
        slug_field="name",
        queryset=Dataset.objects.present(),
        many=True,
        required=False,
        help_text="Names of data sets. None: all of them.",
    )
    chosen_versions = serializers.PrimaryKeyRelatedField(
        queryset=DatasetVersion.objects.present(),
        many=True,
        required=False,
        help_text="Frozen versions to learn from, with the labels of then: ids of dataset-versions.",
    )
    dataset_versions = serializers.StringRelatedField[Any](
        many=True, read_only=True, help_text="What was in its data sets when it began."
    )
    created_by = serializers.SlugRelatedField[Any](slug_field="username", read_only=True)
    fraction_done = serializers.FloatField(read_only=True)
    model_version = serializers.PrimaryKeyRelatedField[Any](read_only=True, allow_null=True)

    class Meta:
        model = TrainingRun
        fields = [
            "id", "recipe", "epochs", "max_seconds", "datasets", "chosen_versions", "dataset_versions",
            "deleted_images", "device", "activate",
            "status", "progress", "fraction_done", "history", "error", "model_version",
            "created_by", "created_at", "started_at", "finished_at",
        ]  # fmt: skip
        read_only_fields = [
            "deleted_images",
            "status",
            "progress",
            "history",
            "error",
            "created_at",
            "started_at",
            "finished_at",
        ]

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        try:
            enough_to_learn_from(attrs.get("datasets", []), attrs.get("chosen_versions", []))
        except TrainingError as error:
            raise serializers.ValidationError(str(error)) from error
        return attrs
