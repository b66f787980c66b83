"""Random collections, queries, options and pages: the search answers as tests/search/reference.py does."""

import random
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search import ranking
from search.models import Embedding, Query
from search.options import AGE_BANDS, Collapse, Scope, SearchOptions
from search.retrieval import ResultPage, search
from tests import factories
from tests.search import reference
from tests.search.random_collection import (
    DATASETS,
    MIDNIGHT,
    MODALITIES,
    ORGANS,
    SEXES,
    VIEWS,
    WORDS,
    Collection,
)


@pytest.fixture(scope="module", params=[1, 2])
def collection(request: Any, lasting_rows: Any) -> Iterator[Collection]:
    with lasting_rows.unblock():
        made = Collection(request.param)
    yield made
    with lasting_rows.unblock():
        factories.remove_all_rows()


def one_or_any(values: list[Any]) -> st.SearchStrategy[Any]:
    """Mostly no filter: with one of each hardly anything would be kept."""
    return st.one_of(st.just(""), st.just(""), st.sampled_from(values))


def few_words() -> st.SearchStrategy[str]:
    word = st.sampled_from([*WORDS, *[f"-{word}" for word in WORDS], "Thorax", "nowhere"])
    return st.one_of(st.just(""), st.just(""), st.lists(word, min_size=1, max_size=2).map(" ".join))


def some_day() -> st.SearchStrategy[date | None]:
    days = [MIDNIGHT.date() + timedelta(days=number) for number in range(-2, 4)]
    return st.one_of(st.none(), st.none(), st.sampled_from(days))


options_asked = st.builds(
    SearchOptions,
    scope=st.sampled_from(Scope),
    organ=one_or_any([*ORGANS, "unheard-of"]),
    modality=one_or_any([*MODALITIES, "US"]),
    dataset=one_or_any([*DATASETS, "none"]),
    view=one_or_any(VIEWS),
    sex=one_or_any(SEXES),
    age=one_or_any(list(AGE_BANDS)),
    words=few_words(),
    imported_from=some_day(),
    imported_to=some_day(),
    series_of=st.none(),
    own=st.booleans(),
    collapse=st.sampled_from(Collapse),
)
quickly = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("proposed", [ranking.SCAN_CANDIDATES, (1, 20, 1_000)])
@quickly
@given(options=options_asked, seed=st.integers(0, 10**9), page_size=st.sampled_from([1, 3, 7, 24, 200]))
def test_every_page_is_the_references(
    collection: Collection,
    db: None,
    proposed: tuple[int, int, int],
    options: SearchOptions,
    seed: int,
    page_size: int,
) -> None:
    """With few candidates proposed, the search has to find out by itself how far it must look."""
    asked, query = collection.ask(seed)
    expected = reference.answer(collection.rows, asked, options)
    page_size = max(page_size, len(expected.cases) // 6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "SCAN_CANDIDATES", proposed)
        pages = walk(query, options, page_size)
        beyond = search(query, options, page=len(pages) + 3, page_size=page_size)
    for number, page in enumerate(pages, 1):
        assert page.page == number
        assert (page.total, page.searched_organs) == (expected.total, expected.searched)
        assert dict(page.organ_facets) == expected.organs
        assert dict(page.modality_facets) == expected.modalities
        assert len(page.hits) == page_size or not page.has_next
        if options.collapse == Collapse.NONE:
            assert page.pages == len(pages)
    hits = [hit for page in pages for hit in page.hits]
    assert [hit.image_id for hit in hits] == [case.row.image_id for case in expected.cases]
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    for hit, case in zip(hits, expected.cases, strict=True):
        assert hit.distance == round(case.distance, 4)
        assert (hit.organ, hit.modality) == (case.row.organ, case.row.modality or "")
        assert hit.dataset == case.row.dataset
        assert hit.more_of_series == case.more_of_series
        assert hit.nearly_same <= case.nearly_same  # of those ranked so far
    assert (beyond.page, beyond.hits, beyond.has_next) == (len(pages), pages[-1].hits, False)


@pytest.mark.parametrize("proposed", [(20, 400, 1_000), (1, 20, 1_000)])
@settings(quickly, max_examples=150)
@given(
    scope=st.sampled_from(Scope),
    organ=one_or_any(ORGANS),
    modality=one_or_any(MODALITIES),
    seed=st.integers(0, 10**9),
    page_size=st.integers(1, 6),
)
def test_a_short_first_page_is_the_references(
    collection: Collection,
    db: None,
    proposed: tuple[int, int, int],
    scope: Scope,
    organ: str,
    modality: str,
    seed: int,
    page_size: int,
) -> None:
    """Where few are wanted of many, little is looked at: a bound drawn too narrowly shows here."""
    asked, query = collection.ask(seed)
    options = SearchOptions(scope=scope, organ=organ, modality=modality, own=True, collapse=Collapse.NONE)
    expected = reference.answer(collection.rows, asked, options).cases[:page_size]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "SCAN_CANDIDATES", proposed)
        patch.setattr(ranking, "SCAN_RANKED", (1, 1, 1_000))
        found = search(query, options, page_size=page_size)
    assert [hit.image_id for hit in found.hits] == [case.row.image_id for case in expected]


def walk(query: Query, options: SearchOptions, page_size: int) -> list[ResultPage]:
    pages = [search(query, options, page_size=page_size)]
    while pages[-1].has_next:
        pages.append(search(query, options, page=len(pages) + 1, page_size=page_size))
    return pages


@quickly
@given(seed=st.integers(0, 10**9), collapse=st.sampled_from(Collapse), own=st.booleans())
def test_the_images_of_a_series_are_those_that_it_stands_for(
    collection: Collection, db: None, seed: int, collapse: Collapse, own: bool
) -> None:
    """What "+12 slices of this series" opens: the same filters, and the series of that image."""
    asked, query = collection.ask(seed)
    image = random.Random(seed).choice(collection.rows).image_id
    options = SearchOptions(series_of=image, collapse=collapse, own=own)
    expected = reference.answer(collection.rows, asked, options)
    found = search(query, options, page_size=100)
    assert [hit.image_id for hit in found.hits] == [case.row.image_id for case in expected.cases]
    assert found.total == expected.total


def test_the_collections_have_what_is_to_be_tested(collection: Collection, db: None) -> None:
    """Or the properties above would hold of nothing."""
    rows = collection.rows
    assert Embedding.objects.count() > len(rows) == Embedding.objects.for_version(collection.version).count()
    assert len({row.fc1.tobytes() for row in rows}) < 0.9 * len(rows)
    assert {row.modality for row in rows} == {*MODALITIES, None}
    assert {row.organ for row in rows} == set(ORGANS)
    assert len({row.series for row in rows}) < len(rows) / 2
    by_image = sorted(rows, key=lambda row: row.image_id)
    assert [row.id for row in by_image] != [row.id for row in rows]
