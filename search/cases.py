"""Cases, not slices: what stands for its like in a ranking, and which page of them."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.fitting import distances_between
from search.models import Embedding, VersionIndex, as_array
from search.options import Collapse
from search.ranking import Ranking

BLOCK = 256  # cases compared with those before them at a time
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
    projections = []
    seen: set[str] = set()
    for pk, distance in ranked:
        if pk not in known:  # deleted since
            continue
        series, group, projection = known[pk]
        key = group if collapse == Collapse.PATIENT else series
        if key and key in seen:
            continue
        seen.add(key)
        cases.append(Case(pk, distance, series))
        projections.append(projection)
    return without_near_duplicates(cases, projections, near_duplicate) if near_duplicate else cases


def without_near_duplicates(
    cases: list[Case], projections: list[NDArray[np.float32]], nearer_than: float
) -> list[Case]:
    """Those that are not nearly the same as one before them, which stands for them and counts them."""
    heads: list[int] = []
    for start in range(0, len(cases), BLOCK):
        block = np.stack(projections[start : start + BLOCK])
        inside = distances_between(block, block)
        earlier = distances_between(
            block, np.array([projections[head] for head in heads]).reshape(-1, block.shape[1])
        )
        new: list[int] = []
        for number in range(len(block)):
            apart = np.concatenate([earlier[number], inside[number, new]])
            if apart.size and apart.min() < nearer_than:
                nearest = int(apart.argmin())
                head = heads[nearest] if nearest < len(heads) else start + new[nearest - len(heads)]
                cases[head].nearly_same += 1
            else:
                new.append(number)
        heads += [start + number for number in new]
    return [cases[head] for head in heads]
