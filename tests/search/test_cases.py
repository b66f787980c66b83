"""Results collapse to cases, the same ones whatever page is read."""

from typing import Any

import numpy as np
import pytest

from ingest.models import Image
from ml.models import ModelVersion
from search import cases
from search.cases import collapsed, page_of_cases
from search.models import Query, VersionIndex
from search.options import Collapse, Scope, SearchOptions
from search.ranking import Ranking
from search.retrieval import search
from tests import factories


def make_case_images(version: ModelVersion, series: str, patients: str, places: list[float]) -> list[int]:
    """Ids of embeddings at these places of one line; a letter for each image's series and patient, "-" for
    no series."""
    images = factories.make_bare_images(len(places))
    fc1 = np.zeros((len(places), 4096), np.float32)
    fc1[:, 0] = places
    for image, a_series, patient in zip(images, series, patients, strict=True):
        image.series_key, image.group_key = a_series.replace("-", ""), patient
    Image.objects.bulk_create(images)
    return [embedding.pk for embedding in factories.make_embeddings(images, version, fc1)]


def ranking_of(ids: list[int]) -> Ranking:
    return Ranking(ids, [float(place) for place in range(len(ids))])


@pytest.mark.parametrize(
    ("collapse", "heads"),
    [
        (Collapse.NONE, [0, 1, 2, 3, 4, 5, 6]),
        (Collapse.SERIES, [0, 2, 3, 5, 6]),  # images without a series stand for themselves
        (Collapse.PATIENT, [0, 3, 5]),
    ],
)
def test_the_nearest_stands_for_its_like(
    model_version: ModelVersion, collapse: Collapse, heads: list[int]
) -> None:
    ids = make_case_images(model_version, "aab-ac-", "pppqprp", [1, 2, 3, 4, 5, 6, 7])
    found = collapsed(ranking_of(ids), collapse, None)
    assert [case.embedding_id for case in found] == [ids[place] for place in heads]
    assert [case.distance for case in found] == heads


def test_images_nearly_the_same_are_counted_with_the_nearest_like_them(model_version: ModelVersion) -> None:
    ids = make_case_images(model_version, "abcdef", "pqrstu", [10, 13, 10.5, 13, 12, 11])
    found = collapsed(ranking_of(ids), Collapse.SERIES, 1.0)
    # 10.5 is near 10, the second 13 equal to the first; 12 and 11 are just not nearer than 1 to any.
    assert [(ids.index(case.embedding_id), case.nearly_same) for case in found] == [
        (0, 1),
        (1, 1),
        (4, 0),
        (5, 0),
    ]
    everything = collapsed(ranking_of(ids), Collapse.NONE, 1.0)
    assert [case.embedding_id for case in everything] == ids


@pytest.mark.parametrize("collapse", [Collapse.SERIES, Collapse.PATIENT])
def test_what_was_deleted_since_is_left_out(model_version: ModelVersion, collapse: Collapse) -> None:
    ids = make_case_images(model_version, "abc", "pqr", [1, 2, 3])
    assert [case.embedding_id for case in collapsed(ranking_of([*ids, 10**9]), collapse, 0.1)] == ids


class Asker:
    """A ranking of images that counts how many were wanted each time."""

    def __init__(self, ids: list[int]) -> None:
        self.ids, self.wanted = ids, list[int]()

    def __call__(self, wanted: int) -> Ranking:
        self.wanted.append(wanted)
        return ranking_of(self.ids[:wanted])


def page_of(rank: Any, page: int, page_size: int, total: int, collapse: Collapse = Collapse.SERIES) -> Any:
    found, page, has_next = page_of_cases(rank, collapse, VersionIndex(), page, page_size, total)
    return [case.embedding_id for case in found], page, has_next


def test_a_page_is_filled_however_much_collapses(model_version: ModelVersion) -> None:
    series = "a" * 30 + "b" * 30 + "cde"
    ids = make_case_images(model_version, series, series, list(range(63)))
    heads = [ids[0], ids[30], ids[60], ids[61], ids[62]]
    asker = Asker(ids)
    assert page_of(asker, 1, 2, 63) == (heads[:2], 1, True)
    assert asker.wanted == [3, 9, 27, 63]
    assert page_of(asker, 2, 2, 63) == (heads[2:4], 2, True)
    assert page_of(asker, 3, 2, 63) == (heads[4:], 3, False)
    assert page_of(asker, 99, 2, 63) == (heads[4:], 3, False)
    assert page_of(asker, 1, 5, 63) == (heads, 1, False)


def test_nothing_found_is_one_empty_page(db: None) -> None:
    assert page_of(Asker([]), 1, 24, 0) == ([], 1, False)
    assert page_of(Asker([]), 7, 24, 0) == ([], 1, False)


def test_paging_ends_where_nobody_reads_on(
    model_version: ModelVersion, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("cases", "retrieval"):
        monkeypatch.setattr(f"search.{module}.MOST_RANKED", 10)
    ids = make_case_images(model_version, "-" * 15, "p" * 15, list(range(1, 16)))
    options = SearchOptions(scope=Scope.ALL, collapse=Collapse.NONE)
    last = search(query, options, page=9, page_size=4)
    assert (last.total, last.page, last.pages, last.has_next) == (15, 3, 3, False)
    assert [hit.rank for hit in last.hits] == [9, 10]
    asker = Asker(ids)
    assert page_of(asker, 3, 4, 15)[1:] == (3, False)
    assert max(asker.wanted) == cases.MOST_RANKED
