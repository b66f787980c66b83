"""What people send to the search: a file, and how they want its results."""

from typing import Any

from django import forms
from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.template.defaultfilters import filesizeformat

from ingest.models import Dataset, Modality, OrganClass
from search.options import Scope, SearchOptions


class QueryForm(forms.Form):
    file = forms.FileField(
        max_length=None,
        error_messages={
            "required": "Choose an image to search with.",
            "missing": "Choose an image to search with.",
            "invalid": "The file did not arrive whole. Please send it again.",
            "empty": "This file is empty.",
        },
    )

    def clean_file(self) -> UploadedFile:
        file: UploadedFile = self.cleaned_data["file"]
        if (file.size or 0) > settings.MAX_UPLOAD_BYTES:
            limit = filesizeformat(settings.MAX_UPLOAD_BYTES)
            raise forms.ValidationError(f"This file is larger than {limit}, the most that is taken.")
        return file

    @property
    def sentence(self) -> str:
        """What is wrong with the file; empty when nothing is."""
        return " ".join(str(message) for messages in self.errors.values() for message in messages)


class SearchForm(forms.Form):
    """The query string of a result page. A value that is not known is ignored."""

    scope = forms.ChoiceField(choices=[(scope.value, scope.value) for scope in Scope], required=False)
    organ = forms.ModelChoiceField(OrganClass.objects.all(), to_field_name="name", required=False)
    modality = forms.ModelChoiceField(Modality.objects.all(), required=False)
    dataset = forms.ModelChoiceField(Dataset.objects.all(), to_field_name="name", required=False)
    page = forms.IntegerField(min_value=1, max_value=1_000_000, required=False)

    def known(self) -> dict[str, Any]:
        """The values that are valid and not empty."""
        self.is_valid()
        return {name: value for name, value in self.cleaned_data.items() if value}

    def options(self) -> SearchOptions:
        known = self.known()
        return SearchOptions(
            scope=Scope(known.get("scope", Scope.PREDICTED)),
            organ=str(known.get("organ", "")),
            modality=str(known.get("modality", "")),
            dataset=str(known.get("dataset", "")),
        )

    def page_number(self) -> int:
        return int(self.known().get("page", 1))
