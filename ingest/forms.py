"""What a person brings in with the browser."""

import json
from collections.abc import Sequence
from typing import Any

from django import forms
from django.conf import settings
from django.contrib.auth.models import AnonymousUser, User
from django.core.files.uploadedfile import UploadedFile as PostedFile

from ingest.archives import is_archive
from ingest.directories import FolderRefused
from ingest.labels import (
    MANIFEST_BYTES,
    MANIFEST_COLUMNS,
    MANIFEST_NAME,
    ManifestError,
    clean_path,
    read_manifest,
)
from ingest.models import Dataset, LabelSource, SliceChoice, UploadBatch
from ingest.receiving import (
    IncomingFile,
    TrashError,
    columns_for,
    manifest_among,
    open_batch,
    refuse_trashed,
)
from ingest.server_folders import ServerFolder, checked_folder
from ingest.slices import SliceRule


class ManyFilesInput(forms.ClearableFileInput):
    allow_multiple_selected = True


class ManyFilesField(forms.FileField):
    """Any number of files. Its value is their list; empty files are let through, to be told in the ledger."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(widget=ManyFilesInput(), allow_empty_file=True, max_length=None, **kwargs)

    def clean(self, data: Any, initial: Any = None) -> Any:
        return [super(ManyFilesField, self).clean(file) for file in data or []]


class ColumnsForm(forms.Form):
    """What the manifests of a data set call our columns. Empty: a common name is looked for."""

    prefix = "column"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for ours in MANIFEST_COLUMNS:
            widget = forms.TextInput({"list": "manifest-columns", "autocomplete": "off"})
            self.fields[ours] = forms.CharField(max_length=200, required=False, label=ours, widget=widget)

    def said(self) -> dict[str, str]:
        self.is_valid()
        return {ours: theirs for ours, theirs in self.cleaned_data.items() if theirs}


class BatchFields(forms.Form):
    """What is said of an import, however its files come."""

    dataset = forms.CharField(
        max_length=120, help_text="The name of a data set; a new name makes a new one.", label="Data set"
    )
    label_source = forms.ChoiceField(
        choices=LabelSource, initial=LabelSource.DICOM, label="Labels from", widget=forms.RadioSelect
    )
    makes_organs = forms.BooleanField(required=False, label="Make new organs of unknown names")
    slice_choice = forms.ChoiceField(
        choices=SliceChoice, initial=SliceChoice.INFORMATIVE, label="Slices of volumes", required=False
    )
    slice_step = forms.IntegerField(
        min_value=2, max_value=1000, initial=SliceRule.step, label="One of every", required=False
    )
    is_trusted = forms.BooleanField(
        required=False, label="No text that tells who a patient is, is burned into these pictures"
    )
    is_dry_run = forms.BooleanField(required=False, label="Dry run: only tell what would happen")

    def __init__(self, data: Any = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(data, *args, **kwargs)
        self.columns = ColumnsForm(data)

    @property
    def dataset_names(self) -> list[str]:
        return list(Dataset.objects.present().values_list("name", flat=True))

    def clean_dataset(self) -> str:
        name = str(self.cleaned_data["dataset"])
        try:
            refuse_trashed(name)
        except TrashError as error:
            raise forms.ValidationError(str(error)) from error
        return name

    def manifest_columns(self) -> dict[str, str]:
        return columns_for(self.cleaned_data.get("dataset", ""), self.columns.said())

    def batch(self, user: User | AnonymousUser, **more: Any) -> UploadBatch:
        """The new batch that a valid form describes."""
        said = self.cleaned_data
        flags = {name: said[name] for name in ("makes_organs", "is_trusted", "is_dry_run")}
        slices = {name: said[name] for name in ("slice_choice", "slice_step") if said[name]}
        return open_batch(
            said["dataset"],
            said["label_source"],
            user,
            manifest_columns=self.manifest_columns(),
            **flags,
            **slices,
            **more,
        )


class BatchForm(BatchFields):
    loose_files = ManyFilesField(
        required=False,
        label="Files, or an archive (zip, tar)",
        help_text="Tars may be compressed (gz, bz2, xz), and archives may hold archives. No passwords.",
    )
    folder = ManyFilesField(required=False, label="A folder")
    paths = forms.CharField(required=False, widget=forms.HiddenInput)
    server_folder = forms.CharField(required=False, label="A folder or bucket that the server can see")

    def __init__(self, *args: Any, user: User | AnonymousUser, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not settings.IMPORT_ROOTS or not user.has_perm("ingest.add_watchedfolder"):
            del self.fields["server_folder"]

    def clean_server_folder(self) -> ServerFolder | None:
        try:
            return checked_folder(text) if (text := self.cleaned_data["server_folder"]) else None
        except FolderRefused as refused:
            raise forms.ValidationError(str(refused)) from refused

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if cleaned.get("server_folder") or "server_folder" in self.errors:
            return cleaned
        posted: list[PostedFile] = [*cleaned.get("loose_files", []), *cleaned.get("folder", [])]
        if not posted:
            raise forms.ValidationError("Choose files, a folder or an archive.")
        cleaned["incoming"] = files = incoming_files(posted, self.posted_paths())
        try:
            cleaned["manifest"] = manifest_among(files, columns=self.manifest_columns())
        except ManifestError as error:
            raise forms.ValidationError(str(error)) from error
        needs_manifest = cleaned.get("label_source") == LabelSource.MANIFEST and not cleaned["manifest"]
        if needs_manifest and not all(is_archive(file.name or "", file) for file in posted):  # type: ignore[arg-type]
            raise forms.ValidationError("There is no manifest.csv among the files.")
        return cleaned

    def posted_paths(self) -> list[str]:
        """The files' paths inside the chosen folder, which browsers leave to a script to tell."""
        try:
            paths = json.loads(self.cleaned_data.get("paths") or "[]")
        except ValueError:
            return []
        return [str(path) for path in paths] if isinstance(paths, list) else []

    @property
    def roots(self) -> list[str]:
        return list(settings.IMPORT_ROOTS)


class SendingForm(BatchFields):
    """The beginning of an import whose files a script will send one by one, the manifest first of all."""

    announced = forms.IntegerField(min_value=1, max_value=10_000_000)
    only_archives = forms.BooleanField(required=False)
    manifest = forms.FileField(required=False, allow_empty_file=True)
    manifest_path = forms.CharField(required=False)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        posted = cleaned.get("manifest")
        if posted:
            path = cleaned["manifest_path"] = clean_path(cleaned.get("manifest_path") or MANIFEST_NAME)
            if posted.size > MANIFEST_BYTES:
                raise forms.ValidationError(f"The manifest is larger than {MANIFEST_BYTES // 2**20} MB.")
            try:
                cleaned["read_manifest"] = read_manifest(posted.read(), path, self.manifest_columns())
            except ManifestError as error:
                raise forms.ValidationError(str(error)) from error
        elif cleaned.get("label_source") == LabelSource.MANIFEST and not cleaned["only_archives"]:
            raise forms.ValidationError("There is no manifest.csv among the files.")
        return cleaned


def incoming_files(posted: Sequence[PostedFile], paths: Sequence[str]) -> list[IncomingFile]:
    """Posted files under the paths that were sent beside them, or their names where those do not fit."""
    names = paths if len(paths) == len(posted) else [file.name or "" for file in posted]
    return [IncomingFile(name, file.open) for name, file in zip(names, posted, strict=True)]  # type: ignore[arg-type]
