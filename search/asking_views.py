"""The ways to ask: with files, with a part of a picture, with marks on what was found."""

from uuid import UUID

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST
from django_htmx.http import HttpResponseClientRedirect

from ingest.models import Image
from search import asking
from search.addresses import address_of, filters_of, way_back
from search.asking import RefinementError
from search.asking_forms import MarkForm, RegionForm, sort_out, why_none
from search.marking import mark, marking_context
from search.models import Query
from search.views import Request, render_home, requires, upload_context

NO_SUCH_QUERY = "The search that this was to be added to is gone."
NO_EDGES = "Give all four edges of the part, each between 0 and 100 per cent."


@require_POST
@requires("search.add_query")
def query_create(request: Request) -> HttpResponse:
    """One query of all the files; those that cannot be taken are told on its page."""
    taken, refused = sort_out(request.FILES.getlist("file"))
    if not taken:
        return not_asked(request, why_none(refused))
    try:
        query = asking.ask_with_several(
            [file.read() for file in taken],
            request.user,
            names=[file.name or "" for file in taken],
            refused=refused,
            beside=query_beside(request),
        )
    except RefinementError as error:
        return not_asked(request, str(error))
    return go_to(request, query)


def go_to(request: Request, query: Query) -> HttpResponse:
    url = address_of(query)
    return HttpResponseClientRedirect(url) if request.htmx else redirect(url)


def query_beside(request: Request) -> Query | None:
    """The query to which the files are to be added, where one is named. Raises RefinementError."""
    named = request.POST.get("beside", "")
    beside = query_named(named)
    if named and not beside:
        raise RefinementError(NO_SUCH_QUERY)
    return beside


def not_asked(request: Request, sentence: str) -> HttpResponse:
    if not request.htmx:
        return render_home(request, sentence, status=422)
    context = {
        **upload_context(sentence, compact="compact" in request.POST),
        "query": query_named(request.POST.get("query", "")),
        "is_beside": "beside" in request.POST,
    }
    return render(request, "search/_upload.html", context, status=422)


def query_named(text: str) -> Query | None:
    try:
        return Query.objects.filter(pk=UUID(text)).first()
    except ValueError:
        return None


@require_POST
@requires("search.add_query")
def query_region(request: Request, pk: UUID) -> HttpResponse:
    query = get_object_or_404(Query, pk=pk)
    form = RegionForm(request.POST)
    try:
        if not form.is_valid():
            raise RefinementError(NO_EDGES)
        return go_to(request, asking.ask_with_region(query, form.region(), request.user))
    except RefinementError as error:
        context = {"query": query, "region_form": form, "region_error": str(error)}
        template = "search/_region.html" if request.htmx else "search/query_region.html"
        return render(request, template, context, status=422)


@require_POST
@requires("search.add_mark")
def query_mark(request: Request, pk: UUID) -> HttpResponse:
    query = get_object_or_404(Query, pk=pk)
    form = MarkForm(request.POST)
    if not form.is_valid():
        return HttpResponse("A mark names an image, and says yes, no or none.", status=422)
    image = get_object_or_404(Image, pk=form.cleaned_data["image"])
    mark(query, image, request.user, form.is_relevant())
    page = way_back(request.POST.get("next", ""), query)
    if not request.htmx:
        return redirect(page)
    context = {"query": query, "image_id": image.pk, **marking_context(query, request.user, page)}
    return render(request, "search/_marked.html", context)


@require_POST
@requires("search.add_query")
def query_refine(request: Request, pk: UUID) -> HttpResponse:
    query = get_object_or_404(Query, pk=pk)
    page = way_back(request.POST.get("next", ""), query)
    try:
        refined = asking.ask_refined(query, request.user)
    except RefinementError as error:
        messages.error(request, str(error))
        return redirect(page)
    return redirect(address_of(refined) + filters_of(page))


@require_POST
@requires("search.add_query")
def query_newest(request: Request, pk: UUID) -> HttpResponse:
    """Let the query's results be among all the images that there are now."""
    query = get_object_or_404(Query, pk=pk)
    if not query.was_asked_by(request.user):  # nobody's results change under their eyes
        raise PermissionDenied
    query.go_on_to_newest()
    return redirect(way_back(request.POST.get("next", ""), query))


@require_POST
@requires("search.add_query")
def query_again(request: Request, pk: UUID) -> HttpResponse:
    """Ask again with the same pictures, by the model that is in service now."""
    query = get_object_or_404(Query, pk=pk)
    return redirect(address_of(asking.ask_again(query, request.user)))
