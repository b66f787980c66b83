"""Starting a training."""

from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from ingest.models import Dataset, DatasetVersion
from ml.models import TrainingRun
from ml.training_images import TrainingError, enough_to_learn_from


class TrainingRunForm(forms.ModelForm[TrainingRun]):
    class Meta:
        model = TrainingRun
        fields = ["recipe", "datasets", "chosen_versions", "epochs", "max_seconds", "device", "activate"]
        widgets = {"datasets": forms.CheckboxSelectMultiple}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "datasets" in self.fields:
            self.fields["datasets"].queryset = Dataset.objects.present()  # type: ignore[attr-defined]
            versions: Any = self.fields["chosen_versions"]
            versions.queryset = DatasetVersion.objects.present()
            versions.label_from_instance = in_words

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        try:
            enough_to_learn_from(cleaned.get("datasets") or [], cleaned.get("chosen_versions") or [])
        except TrainingError as error:
            raise ValidationError(str(error)) from error
        return cleaned


def in_words(version: DatasetVersion) -> str:
    return f"{version} ({version.images:,} images, {version.created_at:%Y-%m-%d})"
