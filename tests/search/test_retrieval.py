"""A search holds still for its reader, and says truly what it is about. See also test_properties.py."""

from typing import Any

import numpy as np
import pytest

from ingest.models import Image, OrganClass
from ml.models import ModelVersion
from search import filtering
from search.matching import Match
from search.models import Query, VersionIndex
from search.options import Collapse, Scope, SearchOptions
from search.ranking import Path
from search.retrieval import ResultPage, search, server_timing
from tests import factories

ALL = SearchOptions(scope=Scope.ALL, collapse=Collapse.NONE)


def add_images(version: ModelVersion, places: list[float]) -> list[int]:
    """Ids of images at these distances of the origin."""
    images = factories.make_bare_images(len(places))
    organ = OrganClass.objects.get_or_create(name="brain")[0]
    for image in images:
        image.organ = organ
    Image.objects.bulk_create(images)
    fc1 = np.zeros((len(places), 4096), np.float32)
    fc1[:, 0] = places
    factories.make_embeddings(images, version, fc1)
    return [image.pk for image in images]


def shown_by(page: ResultPage) -> list[int]:
    return [hit.image_id for hit in page.hits]


@pytest.mark.parametrize("scope", Scope)
@pytest.mark.parametrize("collapse", Collapse)
def test_pages_hold_still_while_images_come_in(
    model_version: ModelVersion, query: Query, scope: Scope, collapse: Collapse
) -> None:
    images = add_images(model_version, [float(place) for place in range(1, 41)])
    query.see_newest()
    query.save()
    options = SearchOptions(scope=scope, collapse=collapse)
    shown: list[int] = []
    for number in range(1, 6):
        page = search(query, options, page=number, page_size=8)
        assert (page.total, page.newer, page.has_next) == (40, 3 * (number - 1), number < 5)
        assert dict(page.organ_facets) == {"brain": 40}
        shown += shown_by(page)
        add_images(model_version, [0.5, number + 0.25, 100])
    assert shown == images
    query.see_newest()
    found = search(query, options, page_size=8)
    assert (found.total, found.newer) == (55, 0)
    assert len({*shown_by(found)} & {*images}) < 8


def test_deleted_images_leave_no_hole(model_version: ModelVersion, query: Query) -> None:
    images = add_images(model_version, [float(place) for place in range(1, 21)])
    assert shown_by(search(query, ALL, page_size=5)) == images[:5]
    Image.objects.filter(pk__in=[images[1], images[7]]).delete()
    left = [pk for pk in images if pk not in (images[1], images[7])]
    pages = [search(query, ALL, page=number, page_size=5) for number in range(1, 5)]
    assert [pk for page in pages for pk in shown_by(page)] == left
    assert [len(page.hits) for page in pages] == [5, 5, 5, 3]
    assert pages[0].total == 18


def test_a_relabelled_image_is_found_under_its_new_label(
    collection: list[Image], query: Query, model_version: ModelVersion
) -> None:
    chest = SearchOptions(organ="chest", collapse=Collapse.NONE)
    assert shown_by(search(query, chest)) == [collection[place].pk for place in (1, 3, 5)]
    Image.objects.filter(pk=collection[0].pk).update(organ=collection[1].organ)
    found = search(query, chest)
    assert shown_by(found) == [collection[place].pk for place in (0, 1, 3, 5)]
    assert found.organ_facets == [("brain", 2), ("chest", 4)]


def test_a_page_beyond_the_last_is_the_last(collection: list[Image], query: Query) -> None:
    last = search(query, ALL, page=2, page_size=4)
    beyond = search(query, ALL, page=50, page_size=4)
    assert (beyond.page, beyond.pages, beyond.has_next, beyond.hits) == (2, 2, False, last.hits)
    assert [hit.rank for hit in beyond.hits] == [5, 6]


def test_nothing_kept_is_an_empty_page(collection: list[Image], query: Query) -> None:
    for options in (
        SearchOptions(organ="never heard of"),
        SearchOptions(dataset="never heard of"),
        SearchOptions(scope=Scope.ALL, words="unspoken"),
        SearchOptions(series_of=10**9),
    ):
        found = search(query, options, page=3)
        assert (found.hits, found.total, found.page, found.has_next) == ([], 0, 1, False)


def test_an_unsure_prediction_searches_both_likely_organs(collection: list[Image], query: Query) -> None:
    predicted = SearchOptions(scope=Scope.PREDICTED)
    assert search(query, predicted).searched_organs == ["brain"]
    query.organ_probabilities = [["brain", 0.69], ["chest", 0.3], ["knee", 0.01]]
    found = search(query, predicted)
    assert found.searched_organs == ["brain", "chest"]
    assert found.total == 6
    assert not any(hit.is_other_organ for hit in found.hits)


def test_the_blend_lets_a_likely_organ_count_as_nearer(
    collection: list[Image], query: Query, model_version: ModelVersion
) -> None:
    """Brains lie at 1, 3, 5, chests at 2, 4, 6; to the network it is a brain, three to one."""
    blended = SearchOptions(scope=Scope.BLENDED, collapse=Collapse.NONE)
    near = [image.pk for image in collection]
    assert shown_by(search(query, blended)) == near  # nothing is fitted yet
    index = VersionIndex.objects.create(model_version=model_version, blend_weight=6 / np.log(3))
    # A chest's squared distance counts 6 more than a brain's: 1, 9, 25 and 10, 22, 42.
    assert [near.index(pk) for pk in shown_by(search(query, blended))] == [0, 2, 1, 3, 4, 5]
    index.blend_weight = 1000
    index.save()
    assert [near.index(pk) for pk in shown_by(search(query, blended))] == [0, 2, 4, 1, 3, 5]
    assert [hit.distance for hit in search(query, blended).hits] == [1, 3, 5, 2, 4, 6]


def test_an_organ_deleted_since_it_was_counted_is_left_out(
    collection: list[Image], query: Query, monkeypatch: pytest.MonkeyPatch, empty_cache: None
) -> None:
    """Counts of a large collection are remembered; what they count may be gone."""
    monkeypatch.setattr(filtering, "EXACT_SCAN_ROWS", 1)
    assert search(query, ALL).organ_facets == [("brain", 3), ("chest", 3)]
    Image.objects.filter(organ__name="chest").delete()
    OrganClass.objects.filter(name="chest").delete()
    for scope in Scope:
        found = search(query, SearchOptions(scope=scope, collapse=Collapse.NONE))
        assert (found.organ_facets, found.total) == ([("brain", 3)], 3)
        assert len(found.hits) == 3


def test_a_distance_has_its_match(collection: list[Image], query: Query, model_version: ModelVersion) -> None:
    assert search(query, ALL).hits[0].match is None
    VersionIndex.objects.create(
        model_version=model_version,
        same_organ=[float(p) / 10 for p in range(101)],
        other_organ=[4 + float(p) / 10 for p in range(101)],
    )
    hits = search(query, ALL).hits
    assert hits[0].match == Match(nearer_than_same=90, other_as_near=0)
    assert [hit.match.word if hit.match else "" for hit in hits] == ["strong"] * 4 + ["weak"] * 2


def test_a_query_that_is_not_answered_cannot_be_ranked(db: None) -> None:
    with pytest.raises(ValueError, match="not been answered"):
        search(Query(), ALL)


def test_what_was_done_is_told(collection: list[Image], query: Query) -> None:
    query.reading_seconds, query.network_seconds = 0.002, 0.03
    found = search(query, SearchOptions())
    assert [(plan.path, plan.kept, plan.organ) for plan in found.plans] == [
        (Path.EXACT, 3, "brain"),
        (Path.EXACT, 3, "chest"),
    ]
    assert server_timing(query, found).startswith("decoding;dur=2.0, network;dur=30.0, ranking;dur=")


def test_a_search_goes_on_without_the_cache(
    collection: list[Image], query: Query, monkeypatch: Any, settings: Any
) -> None:
    monkeypatch.setattr(filtering, "EXACT_SCAN_ROWS", 1)
    away = {**settings.CACHES["default"], "LOCATION": "redis://localhost:1/0"}
    settings.CACHES = {"default": away}
    assert shown_by(search(query, ALL)) == [image.pk for image in collection]
