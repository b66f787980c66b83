"""The page that shows why an image is like a query."""

from typing import Any
from uuid import UUID

from django.http import FileResponse, Http404, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_safe

from search.explaining import ask_why, explained_picture, results_named
from search.images import seen_by
from search.matching import match_of
from search.models import Embedding, Explanation, Query, QueryStatus
from search.previews import preview_response
from search.retrieval import distance_between, index_of
from search.views import Request, requires

MAPS = {"query": "query_map", "image": "image_map"}


@require_safe
@requires("ingest.view_image")
@requires("search.view_query")
def explanation(request: Request, pk: UUID, image_pk: int) -> HttpResponse:
    query, embedding = answered_and_found(pk, image_pk)
    distance = distance_between(query, embedding)
    context: dict[str, Any] = {
        "query": query,
        "picture": explained_picture(query),
        "image": embedding.image,
        "seen": seen_by(embedding.image, embedding.model_version),
        "explanation": ask_why(query, embedding.image),
        "distance": distance,
        "match": match_of(distance, index_of(query)),
    }
    template = "search/_explanation.html" if request.htmx else "search/explanation.html"
    return render(request, template, context)


@require_safe
@requires("ingest.view_image")
@requires("search.view_query")
def explanation_map(request: Request, pk: UUID, image_pk: int, which: str) -> FileResponse:
    found = get_object_or_404(Explanation, query=pk, image=image_pk)
    return preview_response(getattr(found, MAPS[which]))


def answered_and_found(pk: UUID, image_pk: int) -> tuple[Query, Embedding]:
    """The query and what its version sees in the image. Raises Http404."""
    query = get_object_or_404(Query.objects.select_related("model_version"), pk=pk)
    if query.status != QueryStatus.ANSWERED:
        raise Http404("The query has no results.")
    return query, get_object_or_404(results_named(query, image_pk))
