"""The curators' page of images that may be one: pairs side by side, merged or kept apart."""

from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import Count
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from ingest.labelling import LABELS
from ingest.models import DuplicatePair, FileState, Image, Likeness, UploadedFile
from search.merging import MergeError, contradictions, has_known_patient, keep_apart, merge
from search.views import Request, requires

PAIRS_PER_PAGE = 10
FILES_PER_PAGE = 50
BYTES = "bytes"  # the third kind: files that are no second image


@require_safe
@requires("ingest.change_image")
def duplicates(request: Request) -> HttpResponse:
    """Pairs of one kind, the newest first; or the files whose bytes were in the collection already."""
    numbers = dict(DuplicatePair.objects.open().order_by().values_list("likeness").annotate(Count("pk")))
    kind = request.GET.get("kind", "")
    if kind not in (*Likeness.values, BYTES):
        kind = next((each for each in Likeness.values if numbers.get(each)), Likeness.PIXELS)
    context: dict[str, Any] = {"kinds": [(each, numbers.get(each, 0)) for each in Likeness], "kind": kind}
    page_number = request.GET.get("page")
    if kind == BYTES:
        files = UploadedFile.objects.filter(state=FileState.DUPLICATE).select_related("batch__dataset")
        context["page"] = Paginator(files.order_by("-pk"), FILES_PER_PAGE).get_page(page_number)
    else:
        sides = [
            f"{side}__{of}" for side in ("first", "second") for of in ("organ", "dataset", "uploaded_file")
        ]
        pairs = DuplicatePair.objects.open().filter(likeness=kind).select_related(*sides).order_by("-pk")
        page = Paginator(pairs, PAIRS_PER_PAGE).get_page(page_number)
        context |= {"page": page, "pairs": [as_shown(pair) for pair in page]}
    return render(request, "search/duplicates.html", context)


def as_shown(pair: DuplicatePair) -> dict[str, Any]:
    return {
        "pair": pair,
        "sides": [
            (name, image, has_known_patient(image))
            for name, image in (("first", pair.first), ("second", pair.second))
        ],
        "contradictions": [
            (name, in_words(pair.first, name), in_words(pair.second, name))
            for name in contradictions(pair.first, pair.second)
        ],
    }


def in_words(image: Image, name: str) -> str:
    return str(image.organ if name == "organ" else getattr(image, LABELS[name]))


@require_POST
@requires("ingest.change_image")
def duplicate_answer(request: Request, pk: int) -> HttpResponse:
    """What a pair is: "first" or "second", the one that stays, or "different"."""
    pair = get_object_or_404(DuplicatePair.objects.open(), pk=pk)
    answer = request.POST.get("answer", "")
    if answer == "different":
        keep_apart(pair, request.user)
        messages.success(request, f"Images {pair.first_id} and {pair.second_id} stay two.")
    elif answer in ("first", "second"):
        try:
            kept = merge(pair, getattr(pair, f"{answer}_id"), request.POST, request.user)
            messages.success(request, f"Image {kept.pk} stays for both.")
        except MergeError as error:
            messages.warning(request, str(error))
    return redirect(f"{reverse('curation:duplicates')}?kind={pair.likeness}")
