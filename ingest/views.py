"""The curators' pages: batches, a new one, and the ledger of what became of each file."""

from typing import Any

from django.contrib.auth.decorators import login_required, permission_required
from django.core.paginator import Page, Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_http_methods
from django_htmx.middleware import HtmxDetails

from ingest.bell import ring
from ingest.forms import BatchForm
from ingest.models import FileState, UploadBatch
from ingest.receiving import open_batch, receive_all

FILES_PER_PAGE = 100
BATCHES_PER_PAGE = 25


class HtmxRequest(HttpRequest):
    htmx: HtmxDetails


@require_GET
@login_required
@permission_required("ingest.view_uploadbatch", raise_exception=True)
def batch_list(request: HttpRequest) -> HttpResponse:
    batches = UploadBatch.objects.with_counts().select_related("dataset", "created_by").order_by("-id")
    page = Paginator(batches, BATCHES_PER_PAGE).get_page(request.GET.get("page"))
    return render(request, "ingest/batch_list.html", {"page": page})


@require_http_methods(["GET", "POST"])
@login_required
@permission_required("ingest.add_uploadbatch", raise_exception=True)
def batch_create(request: HttpRequest) -> HttpResponse:
    form = BatchForm(request.POST or None, request.FILES or None)
    if request.method == "POST" and form.is_valid():
        batch = open_batch(form.cleaned_data["dataset"], form.cleaned_data["label_source"], request.user)
        for _row in receive_all(batch, form.cleaned_data["incoming"], form.cleaned_data["manifest"]):
            pass
        ring("ingest.import_queued_files")
        return redirect("ingest:batch_detail", batch.pk)
    return render(request, "ingest/batch_create.html", {"form": form}, status=422 if form.errors else 200)


@require_GET
@login_required
@permission_required("ingest.view_uploadbatch", raise_exception=True)
def batch_detail(request: HtmxRequest, pk: int) -> HttpResponse:
    """The ledger of a batch. htmx asks for its changing part once a second until all files are done."""
    batches = UploadBatch.objects.with_counts().select_related("dataset", "created_by")
    batch = get_object_or_404(batches, pk=pk)
    template = "ingest/_batch_ledger.html" if request.htmx else "ingest/batch_detail.html"
    return render(
        request, template, ledger_context(batch, request.GET.get("state", ""), request.GET.get("page"))
    )


def ledger_context(batch: Any, state: str, page_number: str | None) -> dict[str, Any]:
    """`batch` carries the counts of `with_counts`."""
    states = [(value, label, getattr(batch, f"files_{value}")) for value, label in FileState.choices]
    counts = {value: count for value, _label, count in states}
    files = batch.files.select_related("duplicate_of").order_by("id")
    if state in counts:
        files = files.filter(state=state)
    page: Page[Any] = Paginator(files, FILES_PER_PAGE).get_page(page_number)
    unfinished = counts[FileState.QUEUED] + counts[FileState.READING]
    return {
        "batch": batch,
        "states": states,
        "state": state if state in counts else "",
        "page": page,
        "done": batch.files_total - unfinished,
        "is_finished": not unfinished,
    }
