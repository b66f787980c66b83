"""Cases, not slices: what stands for its like in a ranking, and which page of them."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from search.models import PROJECTION_DIMENSIONS, Embedding, VersionIndex, as_array
from search.options import Collapse
from search.ranking import Ranking

MOST_RANKED = 10_000  # images that one can page through; nobody reads on, and each costs a look at its FC1


@dataclass
class Case:
    """A ranked image and those that it stands for."""

    embedding_id: int
    distance: float
    series: str
    nearly_same: int = 0


def page_of_cases(
    rank: Callable[[int], Ranking],
    collapse: Collapse,
    index: VersionIndex,
    page: int,
    page_size: int,
    total: int,
) -> tuple[list[Case], int, bool]:
    """The cases of a page, the page that there is, and whether another follows."""
    most = min(total, MOST_RANKED)
    page = min(page, max(1, math.ceil(most / page_size)))
    end = page * page_size
    wanted = min(end + 1, most)
    while True:
        ranking = rank(wanted)
        cases = collapsed(ranking, collapse, index.near_duplicate)
        if len(cases) > end or wanted >= most:
            break
        wanted = min(3 * wanted, most)
    page = min(page, max(1, math.ceil(len(cases) / page_size)))
    first = (page - 1) * page_size
    return cases[first : first + page_size], page, len(cases) > first + page_size


def collapsed(ranking: Ranking, collapse: Collapse, near_duplicate: float | None) -> list[Case]:
    """In their order, those that stand for themselves: the first of each series or patient, and of images
    nearly the same. What stands for others is decided from the top, so every page sees the same cases."""
    ranked = list(zip(ranking.ids, ranking.distances, strict=True))
    if collapse == Collapse.NONE:
        return [Case(pk, distance, "") for pk, distance in ranked]
    rows = Embedding.objects.filter(pk__in=ranking.ids).values_list(
        "pk", "image__series_key", "image__group_key", "projection"
    )
    known = {pk: (series, group, as_array(projection)) for pk, series, group, projection in rows}
    cases: list[Case] = []
    heads = np.empty((len(ranked), PROJECTION_DIMENSIONS), np.float32)
    seen: set[str] = set()
    for pk, distance in ranked:
        if pk not in known:  # deleted since
            continue
        series, group, projection = known[pk]
        key = group if collapse == Collapse.PATIENT else series
        if key and key in seen:
            continue
        seen.add(key)
        if near_duplicate and cases:
            apart = np.linalg.norm(heads[: len(cases)] - projection, axis=1)
            if (nearest := int(apart.argmin())) is not None and apart[nearest] < near_duplicate:
                cases[nearest].nearly_same += 1
                continue
        heads[len(cases)] = projection
        cases.append(Case(pk, distance, series))
    return cases
