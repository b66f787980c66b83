"""One search: a query, a scope and filters in; a page of ranked hits and the facets out."""

import math
import time
from dataclasses import dataclass
from enum import StrEnum

from search.models import Embedding, Query

PAGE_SIZE = 24


class Scope(StrEnum):
    """The paper's two ways to search."""

    PREDICTED = "predicted"  # within the organ that the network predicts for the query
    ALL = "all"  # the whole collection


@dataclass(frozen=True)
class SearchOptions:
    """What to search. A chosen organ takes the place of the predicted one."""

    scope: Scope = Scope.PREDICTED
    organ: str = ""
    modality: str = ""
    dataset: str = ""


@dataclass(frozen=True)
class Hit:
    """One ranked image. `organ` and `modality` are its labels, or predictions where it has none."""

    rank: int  # from 1
    image_id: int
    distance: float  # Euclidean, on FC1; smaller is nearer
    organ: str
    organ_is_predicted: bool
    modality: str
    modality_is_predicted: bool
    dataset: str
    file: str
    is_other_organ: bool  # than the one predicted for the query


@dataclass(frozen=True)
class ResultPage:
    hits: list[Hit]
    total: int
    page: int  # from 1
    pages: int
    organ_facets: list[tuple[str, int]]
    modality_facets: list[tuple[str, int]]
    ranking_seconds: float


def search(query: Query, options: SearchOptions, *, page: int = 1, page_size: int = PAGE_SIZE) -> ResultPage:
    """Rank the collection for an answered query.

    A page past the end is the last page. Facet counts respect the other filters, so that each number is
    what a click on it would find.
    """
    if query.model_version is None:
        raise ValueError("The query has not been answered yet.")
    started = time.perf_counter()
    collection = Embedding.objects.for_version(query.model_version).in_dataset(options.dataset)
    if query.image_id:
        collection = collection.exclude(image_id=query.image_id)
    organ = options.organ or (query.predicted_organ if options.scope == Scope.PREDICTED else "")
    found = collection.of_organ(organ).of_modality(options.modality)
    total = found.count()
    pages = max(1, math.ceil(total / page_size))
    page = min(max(page, 1), pages)
    first = (page - 1) * page_size
    nearest = found.nearest_to(query.fc1, query.projection, offset=first, limit=page_size)
    return ResultPage(
        hits=[as_hit(embedding, rank, query) for rank, embedding in enumerate(nearest, first + 1)],
        total=total,
        page=page,
        pages=pages,
        organ_facets=collection.of_modality(options.modality).count_by("organ_name"),
        modality_facets=collection.of_organ(organ).count_by("modality_code"),
        ranking_seconds=time.perf_counter() - started,
    )


def server_timing(query: Query, result: ResultPage) -> str:
    """Where an answer's time went, in milliseconds: the Server-Timing header (W3C) that browsers show."""
    parts = {
        "decoding": query.reading_seconds,
        "network": query.network_seconds,
        "ranking": result.ranking_seconds,
    }
    return ", ".join(f"{name};dur={1000 * (seconds or 0):.1f}" for name, seconds in parts.items())


def as_hit(embedding: Embedding, rank: int, query: Query) -> Hit:
    image = embedding.image
    organ = image.organ.name if image.organ else embedding.predicted_organ.name
    return Hit(
        rank=rank,
        image_id=image.pk,
        distance=round(embedding.distance, 4),
        organ=organ,
        organ_is_predicted=image.organ is None,
        modality=image.modality_id or embedding.predicted_modality_id or "",
        modality_is_predicted=image.modality_id is None,
        dataset=image.dataset.name,
        file=image.source_path,
        is_other_organ=organ != query.predicted_organ,
    )
