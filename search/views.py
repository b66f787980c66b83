"""The clinician's pages: ask with an image, see what is like it."""

from collections.abc import Callable
from typing import Any, TypeVar
from uuid import UUID

from django.conf import settings
from django.contrib.auth import views as auth_views
from django.contrib.auth.decorators import login_required, permission_required
from django.core.paginator import Paginator
from django.db import DatabaseError, connection
from django.http import FileResponse, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe
from django.views.decorators.vary import vary_on_headers
from django_htmx.http import HttpResponseClientRefresh
from django_htmx.middleware import HtmxDetails

from ingest.deidentifying import METHODS
from ingest.models import Dataset, Image
from search import asking
from search.activity import current_activity
from search.asking_forms import RegionForm
from search.forms import VIEWS, SearchForm
from search.images import history_of, neighbours_of, readable_tags, seen_by_active_version
from search.marking import marking_context
from search.models import Query, QueryStatus
from search.previews import preview_response
from search.ranking import Plan
from search.retrieval import PAGE_SIZE, ResultPage, search, server_timing

WAIT_SECONDS = 2.0  # for the answer, before the page says that it is being worked on
POLL_WAIT_SECONDS = 0.3
RECENT_QUERIES = 12
NEIGHBOURS = 24


class Request(HttpRequest):
    """As the middleware makes it."""

    htmx: HtmxDetails


View = TypeVar("View", bound=Callable[..., HttpResponse | FileResponse])


def requires(permission: str) -> Callable[[View], View]:
    """Anonymous visitors sign in first; people without the permission get the 403 page."""
    return lambda view: login_required(permission_required(permission, raise_exception=True)(view))


class SignInView(auth_views.LoginView):
    redirect_authenticated_user = True

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """A refreshed part of a page whose session has ended loads the whole page, and so asks to sign in."""
        if "HX-Request" in request.headers:
            refresh: HttpResponse = HttpResponseClientRefresh()
            return refresh
        return super().get(request, *args, **kwargs)


@require_safe
def healthz(request: Request) -> HttpResponse:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        return HttpResponse("the database is down", status=503, content_type="text/plain")
    return HttpResponse("ok", content_type="text/plain")


@require_safe
@requires("search.view_query")
def home(request: Request) -> HttpResponse:
    return render_home(request)


def render_home(request: Request, error: str = "", status: int = 200) -> HttpResponse:
    mine = Query.objects.asked_by(request.user.pk).defer("fc1", "projection")[:RECENT_QUERIES]
    context = {"activity": current_activity(), "recent_queries": mine, **upload_context(error)}
    return render(request, "search/home.html", context, status=status)


def upload_context(error: str = "", compact: bool = False) -> dict[str, Any]:
    return {
        "upload_error": error,
        "upload_limit_bytes": settings.MAX_UPLOAD_BYTES,
        "most_images": asking.MOST_IMAGES,
        "compact": compact,
    }


@require_safe
@requires("search.view_query")
@vary_on_headers("HX-Request")
def status(request: Request) -> HttpResponse:
    template = "search/_status.html" if request.htmx else "search/status.html"
    return render(request, template, {"activity": current_activity()})


@require_safe
@requires("search.view_query")
@vary_on_headers("HX-Request")
def query_detail(request: Request, pk: UUID) -> HttpResponse:
    query = get_object_or_404(Query.objects.select_related("model_version", "image", "parent"), pk=pk)
    query.wait(POLL_WAIT_SECONDS if request.htmx else WAIT_SECONDS)
    context = {"query": query, "region_form": RegionForm(), **upload_context()}
    if query.status == QueryStatus.ANSWERED and not query.has_lost_embeddings():
        context |= results_context(request, query)
    response = render(request, query_template(request), context)
    if "result" in context:
        response["Server-Timing"] = server_timing(query, context["result"])
    return response


def query_template(request: Request) -> str:
    """The page, or the part of it that htmx asks for."""
    parts = {"results": "search/_results.html", "query": "search/_query.html"}
    return parts.get(request.htmx.target or "", "search/query_detail.html")


def results_context(request: Request, query: Query) -> dict[str, Any]:
    form = SearchForm(request.GET)
    options = form.options()
    result = search(query, options, page=form.page_number(), page_size=PAGE_SIZE)
    return {
        "form": form,
        "options": options,
        "result": result,
        **marking_context(query, request.user, request.get_full_path()),
        "page_range": numbers_of_pages(result),
        "datasets": list(Dataset.objects.present().values_list("name", flat=True)),
        "views": VIEWS,
        "plans": explained(request, form, result),
    }


def numbers_of_pages(result: ResultPage) -> list[int | str]:
    """Empty where it is open how many there are."""
    if result.pages is None:
        return []
    pages = Paginator(range(result.pages), 1)
    return list(pages.get_elided_page_range(result.page, on_each_side=2, on_ends=1))


def explained(request: Request, form: SearchForm, result: ResultPage) -> list[Plan]:
    """How the ranking was found, for those who look after it and ask."""
    may_see = request.user.has_perm("ml.activate_modelversion")
    return result.plans if may_see and form.known().get("explain") else []


@require_safe
@requires("search.view_query")
def query_preview(request: Request, pk: UUID) -> FileResponse:
    return preview_response(get_object_or_404(Query.objects.only("preview"), pk=pk).preview)


@require_safe
@requires("ingest.view_image")
def image_preview(request: Request, pk: int) -> FileResponse:
    return preview_response(get_object_or_404(Image.objects.present().only("preview"), pk=pk).preview)


@require_safe
@requires("ingest.view_image")
def image_detail(request: Request, pk: int) -> HttpResponse:
    image = get_object_or_404(
        Image.objects.present().select_related("organ", "modality", "dataset", "uploaded_file__batch"),
        pk=pk,
    )
    neighbours = neighbours_of(image)
    context = {
        "image": image,
        "tags": readable_tags(image),
        "deidentified": [METHODS[code] for code in image.deidentification.split()],
        "seen": seen_by_active_version(image),
        "history": history_of(image) if request.user.has_perm("ingest.view_labeledit") else [],
        "imported_by": image.uploaded_file.batch if image.uploaded_file else None,
        "neighbours": neighbours[:NEIGHBOURS],
        "neighbours_total": neighbours.count(),
    }
    return render(request, "search/image_detail.html", context)


@require_POST
@requires("search.add_query")
def image_search(request: Request, pk: int) -> HttpResponse:
    image = get_object_or_404(Image.objects.present(), pk=pk)
    return redirect("search:query_detail", asking.ask_with_image(image, request.user).pk)
