"""The curators' review: one page that answers are posted to."""

from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe
from django.views.decorators.vary import vary_on_headers

from ingest.labelling import undo
from ingest.models import Image, LabelEdit, LabelOrigin, OrganClass
from ml.models import ModelVersion
from search import reviewing
from search.reviewing import Why
from search.views import Request, requires

SKIPPED = "review_skipped"  # in the session: images that a person has put off
MOST_SKIPPED = 1_000


@require_safe
@requires("ingest.change_image")
@vary_on_headers("HX-Request")
def review(request: Request) -> HttpResponse:
    return review_page(request, why_of(request.GET.get("why", "")))


def review_page(request: Request, why: Why | None) -> HttpResponse:
    """`why`: the first reason that images wait for, where none is asked for."""
    version = ModelVersion.objects.active()
    counts = reviewing.counted(version)
    why = why or next((each for each in Why if counts[each]), Why.CONTRADICTS)
    context = {
        "version": version,
        "why": why,
        "counts": [(each, number, number > reviewing.MOST_COUNTED) for each, number in counts.items()],
        "cards": reviewing.to_review(version, why, request.session.get(SKIPPED, [])),
        "skipped": len(request.session.get(SKIPPED, [])),
        "reviewed_today": reviewing.reviewed_today(request.user),
        "organs": OrganClass.objects.all(),
        "last_edit": last_edit(request),
    }
    return render(request, "search/_review.html" if request.htmx else "search/review.html", context)


def last_edit(request: Request) -> LabelEdit | None:
    """What this person has said last in the review, to be undone."""
    edits = LabelEdit.objects.filter(created_by=request.user.pk, origin=LabelOrigin.REVIEW)
    last = edits.first()
    return last if last and last.undone_at is None else None


@require_POST
@requires("ingest.change_image")
def review_answer(request: Request) -> HttpResponse:
    """An answer on an image, on those of its series, or on all that are shown; then what comes next."""
    why = why_of(request.POST.get("why", "")) or Why.CONTRADICTS
    answer = request.POST.get("answer", "")
    numbers = [int(number) for number in request.POST.getlist("image") if number.isdecimal()]
    if answer == "unskip":
        request.session.pop(SKIPPED, None)
    elif answer == "skip":
        request.session[SKIPPED] = [*request.session.get(SKIPPED, []), *numbers][-MOST_SKIPPED:]
    elif error := answered(request, answer, why, numbers):
        messages.warning(request, error)
    if request.htmx:
        return review_page(request, why)
    return redirect(f"{reverse('search:review')}?why={why}")


def answered(request: Request, answer: str, why: Why, numbers: list[int]) -> str:
    """Label as the answer says; a sentence where it cannot be used."""
    version = ModelVersion.objects.active()
    images = Image.objects.present().filter(pk__in=numbers)
    if "series" in request.POST and (first := images.first()):
        meant = reviewing.images_meant(version, why, first, whole_series=True)
    else:
        meant = list(images.values_list("pk", flat=True))
    if answer == "accept":
        edit = reviewing.accept(version, meant, request.user)
    elif answer == "keep":
        edit = reviewing.keep(meant, request.user)
    elif organ := OrganClass.objects.filter(name=request.POST.get("organ", "")).first():
        edit = reviewing.say({organ.pk: meant}, request.user) if meant else None
    else:
        return "Choose an organ of the list."
    return "" if edit else "These images are no longer there, or have no label to keep."


@require_POST
@requires("ingest.change_image")
def review_undo(request: Request, pk: int) -> HttpResponse:
    """Take back what this person has said."""
    undo(get_object_or_404(LabelEdit, pk=pk, created_by=request.user.pk), request.user)
    why = why_of(request.POST.get("why", ""))
    if request.htmx:
        return review_page(request, why)
    return redirect(f"{reverse('search:review')}?why={why or ''}")


def why_of(name: Any) -> Why | None:
    return Why(name) if name in Why.values else None
