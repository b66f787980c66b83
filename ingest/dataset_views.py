"""The curators' pages of data sets."""

import logging
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required, permission_required
from django.db.models import Count
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.text import slugify
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from ingest.datasets import export, parts_of, split_by_group, splits_of
from ingest.models import Dataset

logger = logging.getLogger(__name__)


class DatasetForm(forms.ModelForm[Dataset]):
    class Meta:
        model = Dataset
        fields = ["description", "licence", "source", "citation", "burned_in_text", "keeps_identifiers"]
        widgets = {"description": forms.Textarea({"rows": 3}), "citation": forms.Textarea({"rows": 3})}

    def __init__(self, user: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["burned_in_text"].required = False  # as it is, where nothing is said of it
        if not user.has_perm("ingest.keep_identifiers"):
            del self.fields["keeps_identifiers"]


class SplitForm(forms.Form):
    test_percent = forms.IntegerField(min_value=1, max_value=90, initial=20)


@require_GET
@login_required
@permission_required("ingest.view_dataset", raise_exception=True)
def dataset_list(request: HttpRequest) -> HttpResponse:
    datasets = Dataset.objects.annotate(image_count=Count("images")).order_by("name")
    return render(request, "ingest/dataset_list.html", {"datasets": datasets})


@require_http_methods(["GET", "POST"])
@login_required
@permission_required("ingest.change_dataset", raise_exception=True)
def dataset_detail(request: HttpRequest, pk: int) -> HttpResponse:
    """What is in a data set; what is told of it is changed here."""
    dataset = get_object_or_404(Dataset, pk=pk)
    form = DatasetForm(request.user, request.POST or None, instance=dataset)
    if request.method == "POST" and form.is_valid():
        form.save()
        if "keeps_identifiers" in form.changed_data:
            keeps = "keeps" if dataset.keeps_identifiers else "no longer keeps"
            logger.warning("Data set %s %s identifiers; account %s.", pk, keeps, request.user.pk)
        messages.success(request, "Saved.")
        return redirect("ingest:dataset_detail", pk)
    return render_dataset(request, dataset, form, SplitForm(), 422 if form.errors else 200)


def render_dataset(
    request: HttpRequest, dataset: Dataset, form: Any, split_form: SplitForm, status: int
) -> HttpResponse:
    names = {"train": "to learn from", "test": "held out for testing", "": "in no split"}
    context = {
        "dataset": dataset,
        "form": form,
        "split_form": split_form,
        "parts": parts_of(dataset),
        "splits": [(names[split], *numbers) for split, numbers in sorted(splits_of(dataset).items())],
        "images": dataset.images.count(),
    }
    return render(request, "ingest/dataset_detail.html", context, status=status)


@require_POST
@login_required
@permission_required("ingest.change_image", raise_exception=True)
def dataset_split(request: HttpRequest, pk: int) -> HttpResponse:
    dataset = get_object_or_404(Dataset, pk=pk)
    form = SplitForm(request.POST)
    if not form.is_valid():
        return render_dataset(request, dataset, DatasetForm(request.user, instance=dataset), form, 422)
    split_by_group(dataset, form.cleaned_data["test_percent"] / 100, request.user)
    messages.success(request, "Split by patient. It can be undone in the admin, under label edits.")
    return redirect("ingest:dataset_detail", pk)


@require_GET
@login_required
@permission_required("ingest.change_dataset", raise_exception=True)
def dataset_export(request: HttpRequest, pk: int) -> StreamingHttpResponse:
    dataset = get_object_or_404(Dataset, pk=pk)
    name = slugify(dataset.name) or f"dataset-{dataset.pk}"
    return StreamingHttpResponse(
        export(dataset),
        content_type="application/zip",
        headers={"Content-Disposition": f'attachment; filename="{name}.zip"'},
    )
