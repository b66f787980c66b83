"""One search: a query, a scope and filters in; a page of ranked hits and the facets out."""

import math
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np
from django.db.models import Count

from search.cases import MOST_RANKED, Case, page_of_cases
from search.filtering import (
    OrganNames,
    digest_of,
    images_filtered,
    modality_facets,
    newer_images,
    organ_facets,
    own_embeddings,
    recalled,
    remember,
    searched_organs,
    tally_of,
)
from search.matching import Match, match_of
from search.models import Embedding, Query, VersionIndex
from search.options import Collapse, Scope, SearchOptions
from search.ranking import EXACT_SCAN_ROWS, EmbeddingQuerySet, Path, Plan, Ranking
from search.replicas import read_beside

PAGE_SIZE = 24
LEAST_PROBABILITY = 1e-4  # of an organ in a blended ranking: nothing is impossible


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
    is_other_organ: bool  # than the likely one, or the two, of the query
    match: Match | None  # None until the version's index is fitted
    more_of_series: int  # other images of its series that the filters keep
    nearly_same: int  # images nearly the same that it stands for


@dataclass(frozen=True)
class ResultPage:
    hits: list[Hit]
    total: int  # images that the filters keep
    page: int  # from 1
    pages: int | None  # None where collapsing leaves it open until the last page
    has_next: bool
    organ_facets: list[tuple[str, int]]
    modality_facets: list[tuple[str, int]]
    searched_organs: list[str]  # empty: all
    newer: int  # images that came in since the query was answered, or asked again
    ranking_seconds: float
    plans: list[Plan]


def search(query: Query, options: SearchOptions, *, page: int = 1, page_size: int = PAGE_SIZE) -> ResultPage:
    """Rank the collection for an answered query.

    A page past the end is the last page. Facet counts respect the other filters, so that each number is what
    a click on it would find. All of it is read from one database, a replica where one has what the query
    needs. Raises ValueError when the query has not been answered.
    """
    if query.model_version_id is None:
        raise ValueError("The query has not been answered yet.")
    return read_beside(query, lambda: result_page(query, options, page, page_size))


def result_page(query: Query, options: SearchOptions, page: int, page_size: int) -> ResultPage:
    started = time.perf_counter()
    index = index_of(query)
    filtered = images_filtered(query, options)
    own = [] if options.own else own_embeddings(query)
    organs = OrganNames()
    tally = [row for row in tally_of(filtered, own, query, options) if row[0] in organs.names]  # still there
    searched = searched_organs(query, options)
    in_scope = {organs.ids.get(name, -1) for name in searched} or {organ for organ, _, _ in tally}
    kept: Counter[int] = Counter()
    for organ, modality, number in tally:
        if organ in in_scope and options.modality in ("", modality):
            kept[organ] += number
    found = filtered.exclude(pk__in=own) if own else filtered
    found = found.filter(organ__in=in_scope) if searched else found
    if options.modality:
        found = found.filter(modality=options.modality)
    ranker = Ranker(query, options, found, kept, index, organs.names)
    total = kept.total()
    cases, page, has_next = page_of_cases(ranker, options.collapse, index, page, page_size, total)
    plain = options.collapse == Collapse.NONE
    return ResultPage(
        hits=as_hits(cases, (page - 1) * page_size, query, found, index, options.collapse),
        total=total,
        page=page,
        pages=max(1, math.ceil(min(total, MOST_RANKED) / page_size)) if plain else None,
        has_next=has_next,
        organ_facets=organ_facets(tally, options, organs),
        modality_facets=modality_facets(tally, in_scope),
        searched_organs=searched,
        newer=newer_images(query),
        ranking_seconds=time.perf_counter() - started,
        plans=ranker.plans,
    )


def index_of(query: Query) -> VersionIndex:
    """What was fitted for the query's version; an empty one where nothing is yet."""
    found = VersionIndex.objects.filter(model_version=query.model_version_id).first()
    return found or VersionIndex(model_version=query.model_version)


def distance_between(query: Query, embedding: Embedding) -> float:
    """Euclidean, on FC1."""
    return float(np.linalg.norm(query.as_point().fc1 - embedding.as_point().fc1))


class Ranker:
    """Ranks for one query; asked for more, it begins anew. `plans` says what was done the last time.

    What came from the index is remembered while somebody pages through it: the index may answer a wider
    question, or a later one, a little otherwise; no page may repeat or leave out an image because of that.
    """

    def __init__(
        self,
        query: Query,
        options: SearchOptions,
        found: EmbeddingQuerySet,
        kept: Counter[int],
        index: VersionIndex,
        names: dict[int, str],
    ) -> None:
        self.point = query.as_point()
        self.found, self.kept, self.index, self.names = found, kept, index, names
        blended = options.scope == Scope.BLENDED and len(kept) > 1
        self.penalties = penalties_of(query, index, names) if blended else None
        self.key = f"ranking:{query.pk}:{digest_of(query, options, but=())}"
        self.plans: list[Plan] = []

    def __call__(self, wanted: int) -> Ranking:
        may_differ = self.index.has_ivfflat and self.kept.total() > EXACT_SCAN_ROWS
        shown = self.shown_before() if may_differ else None
        if shown and len(shown.ids) >= wanted:
            ranking = Ranking(shown.ids[:wanted], shown.distances[:wanted], [Plan(Path.REMEMBERED, wanted)])
        else:
            ranking = self.rank(wanted)
            if shown:
                ranking = continued(shown, ranking, wanted)
            if may_differ:
                remember(self.key, ranking)
        self.plans = ranking.plans
        return ranking

    def shown_before(self) -> Ranking | None:
        """What is remembered, without what was deleted or relabelled since: that must leave no hole."""
        shown: Ranking | None = recalled(self.key)
        if shown is None:
            return None
        left = set(self.found.filter(pk__in=shown.ids).values_list("pk", flat=True))
        pairs = [pair for pair in zip(shown.ids, shown.distances, strict=True) if pair[0] in left]
        return Ranking([pk for pk, _ in pairs], [distance for _, distance in pairs])

    def rank(self, wanted: int) -> Ranking:
        if self.penalties is None:
            return self.found.nearest_to(
                self.point, wanted, kept=self.kept.total(), indexed=self.index.indexed
            )
        return self.found.blended(
            self.point,
            wanted,
            kept=self.kept,
            penalties=self.penalties,
            names=self.names,
            indexed=self.index.indexed,
        )


def continued(shown: Ranking, wider: Ranking, wanted: int) -> Ranking:
    """What was shown stays where it is; what a wider ranking adds follows."""
    known = set(shown.ids)
    added = [pair for pair in zip(wider.ids, wider.distances, strict=True) if pair[0] not in known]
    ids = [*shown.ids, *[pk for pk, _ in added]]
    distances = [*shown.distances, *[distance for _, distance in added]]
    return Ranking(ids[:wanted], distances[:wanted], wider.plans)


def penalties_of(query: Query, index: VersionIndex, names: dict[int, str]) -> dict[int, float]:
    """By organ id, what is added to the squared distance: the less likely the organ, the more."""
    probabilities = dict(query.organ_probabilities)
    return {
        pk: -index.blend_weight * math.log(max(probabilities.get(name, 0.0), LEAST_PROBABILITY))
        for pk, name in names.items()
    }


def as_hits(
    cases: list[Case],
    first: int,
    query: Query,
    found: EmbeddingQuerySet,
    index: VersionIndex,
    collapse: Collapse,
) -> list[Hit]:
    embeddings = found.with_images([case.embedding_id for case in cases])
    of_series: dict[str, int] = {}
    if collapse != Collapse.NONE and (series := [case.series for case in cases if case.series]):
        of_series = dict(
            found.filter(image__series_key__in=series)
            .values_list("image__series_key")
            .annotate(number=Count("pk"))
            .order_by()
        )
    return [
        as_hit(
            embeddings[case.embedding_id], rank, case, query, index, max(0, of_series.get(case.series, 1) - 1)
        )
        for rank, case in enumerate(cases, first + 1)
        if case.embedding_id in embeddings
    ]


def as_hit(
    embedding: Embedding, rank: int, case: Case, query: Query, index: VersionIndex, more_of_series: int
) -> Hit:
    image = embedding.image
    organ = image.organ.name if image.organ else embedding.predicted_organ.name
    return Hit(
        rank=rank,
        image_id=image.pk,
        distance=round(case.distance, 4),
        organ=organ,
        organ_is_predicted=image.organ is None,
        modality=image.modality_id or embedding.predicted_modality_id or "",
        modality_is_predicted=image.modality_id is None,
        dataset=image.dataset.name,
        file=image.source_path,
        is_other_organ=organ not in query.likely_organs,
        match=match_of(case.distance, index),
        more_of_series=more_of_series,
        nearly_same=case.nearly_same,
    )


def server_timing(query: Query, result: ResultPage) -> str:
    """Where an answer's time went, in milliseconds: the Server-Timing header (W3C) that browsers show."""
    parts = {
        "decoding": query.reading_seconds,
        "network": query.network_seconds,
        "ranking": result.ranking_seconds,
    }
    return ", ".join(f"{name};dur={1000 * (seconds or 0):.1f}" for name, seconds in parts.items())
