"""The curators' page of files that were held back for their eye."""

from collections.abc import Mapping
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required, permission_required
from django.core.files.storage import default_storage
from django.core.paginator import Paginator
from django.http import FileResponse, Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from ingest.masking import Box
from ingest.models import Decision, QuarantinedFile
from ingest.quarantine import MOST_BOXES, decide, undecided
from ingest.storing import quarantine_name
from ingest.views import HtmxRequest, counted

FILES_PER_PAGE = 12


@require_GET
@login_required
@permission_required("ingest.view_quarantinedfile", raise_exception=True)
def quarantine(request: HtmxRequest) -> HttpResponse:
    return quarantine_page(request)


def quarantine_page(request: HtmxRequest, warning: str = "") -> HttpResponse:
    files = undecided().select_related("file__batch__dataset")
    page = Paginator(files, FILES_PER_PAGE).get_page(request.GET.get("page"))
    cards = [(each, [(box, as_style(box), in_words(box)) for box in each.boxes]) for each in page]
    context = {"page": page, "cards": cards, "warning": warning}
    template = "ingest/_quarantine.html" if request.htmx else "ingest/quarantine.html"
    return render(request, template, context)


def as_style(box: Box) -> str:
    left, top, right, bottom = (100 * edge for edge in box)
    return f"left:{left:.2f}%;top:{top:.2f}%;width:{right - left:.2f}%;height:{bottom - top:.2f}%"


def in_words(box: Box) -> str:
    """Where a box is, for who does not see it; quarantine.js says the same of one that is moved."""
    left, top, right, bottom = (100 * edge for edge in box)
    size = f"{right - left:.0f}% wide, {bottom - top:.0f}% high"
    return f"{left:.0f}% from the left, {top:.0f}% from the top, {size}"


@require_POST
@login_required
@permission_required("ingest.change_quarantinedfile", raise_exception=True)
def quarantine_decide(request: HtmxRequest) -> HttpResponse:
    """`decision`: "mask", "as_is" or "reject", of all files shown, or "mask 12" of that one alone."""
    decision, _, number = request.POST.get("decision", "").partition(" ")
    if decision not in Decision.values:
        return answer(request, "Choose what is to be done.")
    numbers = [number] if number else request.POST.getlist("file")
    boxes = {int(each): boxes_in(request.POST, each) for each in numbers if each.isdecimal()}
    if decision == Decision.MASK and not all(boxes.values()):
        return answer(request, "There is nothing to mask: draw a box, or import the file as it is.")
    decided = decide(Decision(decision), boxes, request.user)
    if not decided:
        return answer(request, "Somebody has decided on this already.")
    messages.success(request, f"{counted(decided).capitalize()} {Decision(decision).label}.")
    return answer(request)


def boxes_in(posted: Mapping[str, Any], number: str) -> list[list[float]]:
    """The boxes that are ticked for a file; what is no box is left out."""
    boxes = []
    for text in posted.getlist(f"box-{number}")[:MOST_BOXES]:  # type: ignore[attr-defined]
        try:
            left, top, right, bottom = (float(edge) for edge in text.split(","))
        except ValueError:
            continue
        if 0 <= left < right <= 1 and 0 <= top < bottom <= 1:
            boxes.append([left, top, right, bottom])
    return boxes


def answer(request: HtmxRequest, warning: str = "") -> HttpResponse:
    if request.htmx:
        return quarantine_page(request, warning)
    if warning:
        messages.warning(request, warning)
    return redirect("ingest:quarantine")


@never_cache
@require_GET
@login_required
@permission_required("ingest.view_quarantinedfile", raise_exception=True)
def quarantine_picture(request: HttpRequest, pk: int, frame: int) -> FileResponse:
    held = get_object_or_404(QuarantinedFile.objects.select_related("file"), pk=pk, decision="")
    try:
        picture = default_storage.open(quarantine_name(held.file.sha256, frame))
    except FileNotFoundError:
        raise Http404 from None
    return FileResponse(picture, content_type="image/jpeg")
