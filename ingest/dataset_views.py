"""The curators' pages of data sets."""

import logging
from datetime import timedelta
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required, permission_required
from django.db import transaction
from django.db.models import Count, Prefetch
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from ingest.datasets import empty_datasets, export, parts_of, split_by_group, splits_of, zip_response
from ingest.forms import ColumnsForm
from ingest.models import Dataset, DatasetVersion, FileState, UploadBatch, UploadedFile
from ingest.trash import put_into_trash, restore
from ingest.versions import VersionError, export_version, freeze_as

logger = logging.getLogger(__name__)


class DatasetForm(forms.ModelForm[Dataset]):
    class Meta:
        model = Dataset
        fields = ["description", "licence", "source", "citation", "burned_in_text", "keeps_identifiers"]
        labels = {"burned_in_text": "Text burned into the pictures"}
        widgets = {"description": forms.Textarea({"rows": 3}), "citation": forms.Textarea({"rows": 3})}

    def __init__(self, user: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["burned_in_text"].required = False  # as it is, where nothing is said of it
        if not user.has_perm("ingest.keep_identifiers"):
            del self.fields["keeps_identifiers"]


class SlicesForm(forms.ModelForm[Dataset]):
    class Meta:
        model = Dataset
        fields = ["slice_choice", "slice_step"]


class SplitForm(forms.Form):
    test_percent = forms.IntegerField(min_value=1, max_value=90, initial=20)


@require_GET
@login_required
@permission_required("ingest.view_dataset", raise_exception=True)
def dataset_list(request: HttpRequest) -> HttpResponse:
    datasets = Dataset.objects.annotate(image_count=Count("images")).order_by("name")
    imports = Prefetch("batches", UploadBatch.objects.with_counts())
    empty = list(empty_datasets().order_by("name").prefetch_related(imports))
    filled = datasets.present().exclude(pk__in=[each.pk for each in empty])
    days = timedelta(days=settings.TRASH_DAYS)
    trashed = [(each, each.trashed_at + days) for each in datasets.trashed() if each.trashed_at]
    context = {"datasets": filled, "empty": empty, "trashed": trashed}
    return render(request, "ingest/dataset_list.html", context)


@require_http_methods(["GET", "POST"])
@login_required
@permission_required("ingest.change_dataset", raise_exception=True)
def dataset_detail(request: HttpRequest, pk: int) -> HttpResponse:
    """What is in a data set; what is told of it is changed here."""
    dataset = get_object_or_404(Dataset.objects.present(), pk=pk)
    form = DatasetForm(request.user, request.POST or None, instance=dataset)
    if request.method == "POST" and form.is_valid():
        form.instance.manifest_columns = ColumnsForm(request.POST).said()
        form.save()
        if "keeps_identifiers" in form.changed_data:
            keeps = "keeps" if dataset.keeps_identifiers else "no longer keeps"
            logger.warning("Data set %s %s identifiers; account %s.", pk, keeps, request.user.pk)
        messages.success(request, "Saved.")
        return redirect("ingest:dataset_detail", pk)
    return render_dataset(request, dataset, form, SplitForm(), 422 if form.errors else 200)


def render_dataset(
    request: HttpRequest,
    dataset: Dataset,
    form: Any,
    split_form: SplitForm,
    status: int,
    slices_form: SlicesForm | None = None,
) -> HttpResponse:
    names = {"train": "to learn from", "test": "held out for testing", "": "in no split"}
    context = {
        "dataset": dataset,
        "form": form,
        "split_form": split_form,
        "slices_form": slices_form or SlicesForm(instance=dataset),
        "left_out": UploadedFile.objects.filter(batch__dataset=dataset, state=FileState.LEFT_OUT).count(),
        "columns": ColumnsForm(initial=dataset.manifest_columns),
        "parts": parts_of(dataset),
        "splits": [(names[split], *numbers) for split, numbers in sorted(splits_of(dataset).items())],
        "images": dataset.images.count(),
        "versions": dataset.versions.select_related("created_by"),
        "trash_days": settings.TRASH_DAYS,
    }
    return render(request, "ingest/dataset_detail.html", context, status=status)


@require_POST
@login_required
@permission_required("ingest.change_image", raise_exception=True)
def dataset_split(request: HttpRequest, pk: int) -> HttpResponse:
    dataset = get_object_or_404(Dataset.objects.present(), pk=pk)
    form = SplitForm(request.POST)
    if not form.is_valid():
        return render_dataset(request, dataset, DatasetForm(request.user, instance=dataset), form, 422)
    split_by_group(dataset, form.cleaned_data["test_percent"] / 100, request.user)
    messages.success(request, "Split by patient. It can be undone in the admin, under label edits.")
    return redirect("ingest:dataset_detail", pk)


@require_POST
@login_required
@permission_required("ingest.change_dataset", raise_exception=True)
def dataset_slices(request: HttpRequest, pk: int) -> HttpResponse:
    """Choose which slices of volumes the data set takes, of files to come."""
    dataset = get_object_or_404(Dataset.objects.present(), pk=pk)
    form = SlicesForm(request.POST, instance=dataset)
    if not form.is_valid():
        dataset.refresh_from_db()
        return render_dataset(
            request, dataset, DatasetForm(request.user, instance=dataset), SplitForm(), 422, form
        )
    form.save()
    messages.success(request, "Saved. It counts for files to come, and for those that are tried again.")
    return redirect("ingest:dataset_detail", pk)


@require_GET
@login_required
@permission_required("ingest.change_dataset", raise_exception=True)
def dataset_export(request: HttpRequest, pk: int) -> StreamingHttpResponse:
    dataset = get_object_or_404(Dataset.objects.present(), pk=pk)
    return zip_response(export(dataset), dataset.name)


@require_POST
@login_required
@permission_required("ingest.change_dataset", raise_exception=True)
def dataset_freeze(request: HttpRequest, pk: int) -> HttpResponse:
    dataset = get_object_or_404(Dataset.objects.present(), pk=pk)
    last = dataset.versions.first()
    try:
        version = freeze_as(dataset, request.POST.get("name", ""), request.user)
    except VersionError as error:
        messages.warning(request, str(error))
        return redirect("ingest:dataset_detail", pk)
    if version != last:
        messages.success(request, f"Frozen as “{version.name}”: {version.images:,} images.")
    else:
        messages.info(request, f"Nothing has changed since the version “{version.name}”.")
    return redirect("ingest:dataset_detail", pk)


@require_GET
@login_required
@permission_required("ingest.change_dataset", raise_exception=True)
def version_export(request: HttpRequest, pk: int) -> StreamingHttpResponse:
    version = get_object_or_404(DatasetVersion, pk=pk)
    return zip_response(export_version(version), str(version))


@require_POST
@login_required
@permission_required("ingest.change_dataset", raise_exception=True)
def dataset_trash(request: HttpRequest, pk: int) -> HttpResponse:
    """Posted with `empty`, only a data set that still is."""
    with transaction.atomic():
        dataset = get_object_or_404(Dataset.objects.present().select_for_update(), pk=pk)
        if "empty" in request.POST and not empty_datasets().filter(pk=pk).exists():
            messages.warning(request, f"{dataset} is no longer empty, so it stays.")
            return redirect("ingest:dataset_list")
        put_into_trash(dataset, request.user)
    messages.success(request, f"{dataset} is in the trash, and in no search any more.")
    return redirect("ingest:dataset_list")


@require_POST
@login_required
@permission_required("ingest.change_dataset", raise_exception=True)
def dataset_restore(request: HttpRequest, pk: int) -> HttpResponse:
    dataset = get_object_or_404(Dataset.objects.trashed(), pk=pk)
    restore(dataset)
    messages.success(request, f"{dataset} is back.")
    return redirect("ingest:dataset_list")
