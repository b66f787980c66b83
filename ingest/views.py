"""The curators' pages: batches, a new one, and the ledger of what became of each file."""

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required, permission_required
from django.core.paginator import Page, Paginator
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST
from django_htmx.middleware import HtmxDetails

from ingest.bell import ring
from ingest.forms import BatchForm
from ingest.labels import Manifest
from ingest.ledger import NOT_IMPORTED, cancel, causes_of, pace_of, retry
from ingest.models import (
    FileState,
    Image,
    Modality,
    ModalityName,
    OrganClass,
    OrganName,
    PendingKind,
    UploadBatch,
)
from ingest.naming import (
    decide,
    decide_modality,
    undecided,
    undecided_modalities,
    waiting_modalities,
    waiting_names,
)
from ingest.pending import expect_files, stop_waiting
from ingest.quarantine import undecided as quarantined
from ingest.receiving import receive_all
from ingest.reports import csv_report
from ingest.server_folders import pending_folder

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
    context = {"page": page, **waiting_counts(), "quarantined": quarantined().count()}
    return render(request, "ingest/batch_list.html", context)


@require_http_methods(["GET", "POST"])
@login_required
@permission_required("ingest.add_uploadbatch", raise_exception=True)
def batch_create(request: HttpRequest) -> HttpResponse:
    """Without a script all files come in one request; with one, they are sent in parts: sending_views.py."""
    form = BatchForm(request.POST or None, request.FILES or None, user=request.user)
    if request.method == "POST" and form.is_valid():
        if folder := form.cleaned_data.get("server_folder"):
            batch = form.batch(request.user, source=str(folder))
            expect_files(batch, [pending_folder(batch, folder)])
        else:
            batch, manifest = form.batch(request.user), form.cleaned_data["manifest"]
            tell_unused_columns(request, manifest)
            for _row in receive_all(batch, form.cleaned_data["incoming"], manifest):
                pass
        ring("ingest.import_queued_files")
        return redirect("ingest:batch_detail", batch.pk)
    return render(request, "ingest/batch_create.html", {"form": form}, status=422 if form.errors else 200)


def tell_unused_columns(request: HttpRequest, manifest: Manifest | None) -> None:
    if manifest and manifest.unused:
        unused = ", ".join(manifest.unused)[:300]
        messages.info(request, f"Columns of the manifest that were not used: {unused}.")


@require_GET
@login_required
@permission_required("ingest.view_uploadbatch", raise_exception=True)
def batch_detail(request: HtmxRequest, pk: int) -> HttpResponse:
    """The ledger of a batch. htmx asks for its changing part once a second until all files are done."""
    batches = UploadBatch.objects.with_counts().select_related("dataset", "created_by")
    batch = get_object_or_404(batches, pk=pk)
    template = "ingest/_batch_ledger.html" if request.htmx else "ingest/batch_detail.html"
    asked = (request.GET.get(name, "") for name in ("state", "cause", "page"))
    return render(request, template, ledger_context(batch, *asked))


def ledger_context(batch: Any, state: str, cause: str, page_number: str) -> dict[str, Any]:
    """`batch` carries the counts of `with_counts`."""
    states = [(value, label, getattr(batch, f"files_{value}")) for value, label in FileState.choices]
    counts = {value: count for value, _label, count in states}
    files = batch.files.select_related("duplicate_of").order_by("id")
    if state in counts:
        files = files.filter(state=state)
    causes = causes_of(batch) if counts[FileState.REJECTED] or counts[FileState.LEFT_OUT] else []
    if cause in {each.code for each in causes}:
        files = files.filter(state__in=NOT_IMPORTED, reason_code=cause)
    else:
        cause = ""
    page: Page[Any] = Paginator(files, FILES_PER_PAGE).get_page(page_number)
    unfinished = counts[FileState.QUEUED] + counts[FileState.READING]
    is_open = batch.files_to_come > 0
    received = batch.pending_files.exclude(kind=PendingKind.MANIFEST).exclude(received_at=None)
    sent = received.count() if is_open else 0
    coming = batch.pending_files.unreceived()
    return {
        "batch": batch,
        "states": states,
        "state": state if state in counts else "",
        "causes": causes,
        "cause": cause,
        "retryable": sum(each.retryable for each in causes if each.state == FileState.REJECTED),
        "pace": pace_of(batch, unfinished + batch.files_to_come * bool(batch.source)) if unfinished else None,
        "page": page,
        "done": batch.files_total - unfinished,
        "is_finished": not unfinished and not is_open,
        "is_sent_by_a_person": is_open and not batch.source,
        "can_be_cancelled": counts[FileState.QUEUED] > 0 or (is_open and batch.source),
        "is_listed": is_open and coming.filter(kind=PendingKind.FOLDER).exists(),
        "sent": sent,
        "announced": batch.files_to_come + sent,
        **waiting_counts(batch),
        "quarantined": counts[FileState.QUARANTINED],
    }


def waiting_counts(batch: UploadBatch | None = None) -> dict[str, int]:
    """How many names wait for a decision; of a batch, those that its images came with."""
    organs, modalities = undecided(), undecided_modalities()
    if batch:
        images = Image.objects.filter(uploaded_file__batch=batch).order_by()
        organs = organs.filter(name__in=images.filter(organ=None).values("incoming_organ"))
        modalities = modalities.filter(name__in=images.filter(modality=None).values("incoming_modality"))
    return {"undecided": organs.count(), "undecided_modalities": modalities.count()}


@require_POST
@login_required
@permission_required("ingest.add_uploadbatch", raise_exception=True)
def batch_cancel(request: HttpRequest, pk: int) -> HttpResponse:
    cancelled = cancel(get_object_or_404(UploadBatch, pk=pk))
    messages.success(request, f"Cancelled: {counted(cancelled)} will not be read.")
    return redirect("ingest:batch_detail", pk)


@require_POST
@login_required
@permission_required("ingest.add_uploadbatch", raise_exception=True)
def batch_finish(request: HttpRequest, pk: int) -> HttpResponse:
    """Go on without the files that were not sent."""
    missing = stop_waiting(get_object_or_404(UploadBatch, pk=pk, source=""))
    messages.success(request, f"The import is complete without {counted(missing)} that did not come.")
    return redirect("ingest:batch_detail", pk)


@require_POST
@login_required
@permission_required("ingest.add_uploadbatch", raise_exception=True)
def batch_retry(request: HttpRequest, pk: int) -> HttpResponse:
    """Try files again: all the rejected ones, those of a `cause`, or one `file`."""
    batch = get_object_or_404(UploadBatch, pk=pk)
    file = request.POST.get("file", "")
    again = retry(batch, request.POST.get("cause", ""), int(file) if file.isdecimal() else None)
    if again:
        ring("ingest.import_queued_files")
        messages.success(request, f"{counted(again)} will be tried again.")
    else:
        messages.warning(request, "None of these files can be tried again: their bytes are no longer kept.")
    return redirect("ingest:batch_detail", pk)


@require_GET
@login_required
@permission_required("ingest.view_uploadbatch", raise_exception=True)
def batch_report(request: HttpRequest, pk: int) -> StreamingHttpResponse:
    return csv_report(get_object_or_404(UploadBatch, pk=pk))


def counted(files: int) -> str:
    return f"{files:,} file{'' if files == 1 else 's'}"


@require_http_methods(["GET", "POST"])
@login_required
@permission_required("ingest.add_organclass", raise_exception=True)
def names(request: HttpRequest) -> HttpResponse:
    """Organ names that wait for a decision. "class" makes a class of that name; "organ" takes another."""
    if request.method == "GET":
        context = {
            "names": waiting_names(),
            "organs": OrganClass.objects.all(),
            "modality_names": waiting_modalities(),
            "modalities": Modality.objects.all(),
        }
        return render(request, "ingest/names.html", context)
    meaning = request.POST.get("meaning", "")
    chosen = undecided().filter(name__in=request.POST.getlist("name"))
    other = OrganClass.objects.filter(name=request.POST.get("organ", "")).first()
    if meaning == "organ" and other is None:
        messages.warning(request, "Choose an organ of the list.")
    elif meaning in ("class", "organ", "none"):
        for name in chosen:
            decide_as(name, meaning, other, request)
    return redirect("ingest:names")


def decide_as(name: OrganName, meaning: str, other: OrganClass | None, request: HttpRequest) -> None:
    if meaning == "class":
        other, _created = OrganClass.objects.get_or_create(name=name.name)
    decide(name, other if meaning != "none" else None, request.user)
    means = f"means {other}" if other and meaning != "none" else "names no organ"
    messages.success(request, f"From now on {name} {means}.")


@require_POST
@login_required
@permission_required("ingest.add_organclass", raise_exception=True)
def modality_name(request: HttpRequest) -> HttpResponse:
    """As `names`, of a code that is no modality's yet."""
    name: ModalityName = get_object_or_404(undecided_modalities(), name=request.POST.get("name", ""))
    meaning = request.POST.get("meaning", "")
    modality = Modality.objects.filter(code=request.POST.get("modality", "")).first()
    if meaning == "class":
        modality, _created = Modality.objects.get_or_create(code=name.name)
    if meaning == "none" or (meaning in ("class", "modality") and modality):
        decide_modality(name, None if meaning == "none" else modality, request.user)
        means = "names no modality" if meaning == "none" else f"means {modality}"
        messages.success(request, f"From now on {name} {means}.")
    else:
        messages.warning(request, "Choose a modality of the list.")
    return redirect("ingest:names")
