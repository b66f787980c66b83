"""The ways to ask: with files, with a part of a picture, with marks on what was found."""

from uuid import UUID

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST
from django_htmx.http import HttpResponseClientRedirect

from ingest.models import Image
from search import answering
from search.answering import RefinementError
from search.asking_forms import NO_FILE, MarkForm, RegionForm, sort_out
from search.marking import mark, marks_of
from search.models import Query
from search.views import Request, render_home, requires, upload_context

NO_SUCH_QUERY = "The search that this was to be added to is gone."


@require_POST
@requires("search.add_query")
def query_create(request: Request) -> HttpResponse:
    """One query of all the files; those that cannot be taken are told on its page."""
    taken, refused = sort_out(request.FILES.getlist("file"))
    if not taken:
        return not_asked(request, refused[0][1] if refused else NO_FILE)
    try:
        query = answering.ask_with_several(
            [file.read() for file in taken],
            request.user,
            names=[file.name or "" for file in taken],
            refused=refused,
            beside=query_beside(request),
        )
    except RefinementError as error:
        return not_asked(request, str(error))
    url = address_of(query)
    return HttpResponseClientRedirect(url) if request.htmx else redirect(url)


def query_beside(request: Request) -> Query | None:
    """The query to which the files are to be added, where one is named. Raises RefinementError."""
    named = request.POST.get("beside")
    if not named:
        return None
    try:
        return Query.objects.get(pk=UUID(named))
    except (ValueError, Query.DoesNotExist):
        raise RefinementError(NO_SUCH_QUERY) from None


def not_asked(request: Request, sentence: str) -> HttpResponse:
    if request.htmx:
        context = upload_context(sentence, compact="compact" in request.POST)
        if beside := request.POST.get("query"):
            context["query"] = Query.objects.filter(pk=beside).first() if is_uuid(beside) else None
        return render(request, "search/_upload.html", context, status=422)
    return render_home(request, sentence, status=422)


def is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


@require_POST
@requires("search.add_query")
def query_region(request: Request, pk: UUID) -> HttpResponse:
    query = get_object_or_404(Query, pk=pk)
    form = RegionForm(request.POST)
    try:
        if not form.is_valid():
            raise RefinementError("Give all four edges of the part, each between 0 and 100 per cent.")
        return redirect(address_of(answering.ask_with_region(query, form.region(), request.user)))
    except RefinementError as error:
        messages.error(request, str(error))
        return redirect(address_of(query))


@require_POST
@requires("search.add_mark")
def query_mark(request: Request, pk: UUID) -> HttpResponse:
    query = get_object_or_404(Query, pk=pk)
    form = MarkForm(request.POST)
    if not form.is_valid():
        return HttpResponse("A mark names an image, and says yes, no or none.", status=422)
    image = get_object_or_404(Image, pk=form.cleaned_data["image"])
    mark(query, image, request.user, form.is_relevant())
    if request.htmx:
        context = {"query": query, "marks": marks_of(query, request.user), "image_id": image.pk}
        return render(request, "search/_marked.html", context)
    return redirect(way_back(request, query))


@require_POST
@requires("search.add_query")
def query_refine(request: Request, pk: UUID) -> HttpResponse:
    query = get_object_or_404(Query, pk=pk)
    try:
        return redirect(address_of(answering.ask_refined(query, request.user)))
    except RefinementError as error:
        messages.error(request, str(error))
        return redirect(address_of(query))


@require_POST
@requires("search.add_query")
def query_newest(request: Request, pk: UUID) -> HttpResponse:
    """Let the query's results be among all the images that there are now."""
    query = get_object_or_404(Query, pk=pk)
    if query.created_by_id != request.user.pk:  # nobody's results change under their eyes
        raise PermissionDenied
    query.see_newest()
    query.save(update_fields=["newest_embedding"])
    return redirect(way_back(request, query))


@require_POST
@requires("search.add_query")
def query_again(request: Request, pk: UUID) -> HttpResponse:
    """Ask again with the same pictures, by the model that is in service now."""
    query = get_object_or_404(Query, pk=pk)
    return redirect(address_of(answering.ask_again(query, request.user)))


def address_of(query: Query) -> str:
    return reverse("search:query_detail", args=[query.pk])


def way_back(request: Request, query: Query) -> str:
    """The page of the results that somebody came from."""
    came_from = request.POST.get("next", "")
    is_ours = url_has_allowed_host_and_scheme(came_from, allowed_hosts=None)
    return came_from if is_ours and came_from.startswith(address_of(query)) else address_of(query)
