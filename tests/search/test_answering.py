"""A query is read, described once, and fails with a sentence."""

import pytest
from django.core.files.storage import default_storage

from ml.models import ModelVersion
from search import answering, asking
from search.models import Query, QueryStatus
from search.retrieval import Scope, SearchOptions, search
from tests.factories import dicom_bytes, make_image, make_user, png_bytes
from tests.search.test_indexing import index_all


@pytest.mark.parametrize("content", [png_bytes(seed=1), dicom_bytes(seed=1)], ids=["png", "dicom"])
def test_uploaded_file_is_described(model_version: ModelVersion, content: bytes) -> None:
    query = asking.ask_with_file(content, make_user("clinician"))
    answering.answer(query)
    query.refresh_from_db()
    assert query.status == QueryStatus.ANSWERED
    assert query.predicted_organ in model_version.organs
    assert sum(p for _, p in query.organ_probabilities) == pytest.approx(1, abs=1e-3)
    assert sum(p for _, p in query.modality_probabilities) == pytest.approx(1, abs=1e-3)
    assert default_storage.exists(query.preview.name)
    assert query.model_version == model_version


def test_answered_query_is_left_as_it_is(model_version: ModelVersion) -> None:
    query = asking.ask_with_file(png_bytes(), None)
    answering.answer(query)
    before = query.network_seconds
    answering.answer(query)
    query.refresh_from_db()
    assert query.network_seconds == before


@pytest.mark.parametrize("content", [b"<html>no image</html>", dicom_bytes()[:400]])
def test_unreadable_file_fails_with_a_sentence(model_version: ModelVersion, content: bytes) -> None:
    query = asking.ask_with_file(content, None)
    answering.answer(query)
    query.refresh_from_db()
    assert query.status == QueryStatus.FAILED
    assert query.error.endswith(".")


def test_query_without_a_model_says_so(db: None) -> None:
    query = asking.ask_with_file(png_bytes(), None)
    answering.answer(query)
    assert query.error == answering.NO_MODEL


def test_file_of_the_collection_finds_itself_first(model_version: ModelVersion) -> None:
    images = [make_image(seed, organ=organ) for seed, organ in enumerate(["brain", "chest", "brain"], 1)]
    index_all()
    query = Query.objects.create(image=None, **_uploaded(png_bytes(seed=3)))
    answering.answer(query)
    page = search(query, SearchOptions(scope=Scope.ALL))
    assert page.hits[0].image_id == images[2].pk
    assert page.hits[0].distance < page.hits[1].distance / 10
    assert [hit.rank for hit in page.hits] == [1, 2, 3]


def _uploaded(content: bytes) -> dict[str, str]:
    query = asking.ask_with_file(content, None)
    values = {"upload": query.upload.name, "sha256": query.sha256}
    query.delete()
    return values


def test_image_of_the_collection_is_left_out_of_its_own_results(model_version: ModelVersion) -> None:
    images = [make_image() for _ in range(3)]
    index_all()
    query = asking.ask_with_image(images[0], None)
    answering.answer(query)
    page = search(query, SearchOptions(scope=Scope.ALL))
    assert sorted(hit.image_id for hit in page.hits) == [images[1].pk, images[2].pk]


def test_scope_and_filters(model_version: ModelVersion) -> None:
    for number in range(8):
        make_image(organ=["brain", "chest"][number % 2], modality=["CT", "CT", "MR", "MR"][number % 4])
    index_all()
    query = asking.ask_with_file(png_bytes(seed=77), None)
    answering.answer(query)
    own = search(query, SearchOptions(scope=Scope.PREDICTED))
    assert {hit.organ for hit in own.hits} == set(query.likely_organs) == set(own.searched_organs)
    assert own.total == 4 * len(query.likely_organs)
    everything = search(query, SearchOptions(scope=Scope.ALL))
    assert everything.total == 8
    assert {hit.is_other_organ for hit in everything.hits} == {True, False}
    assert everything.organ_facets == [("brain", 4), ("chest", 4)]
    chosen = search(query, SearchOptions(organ="chest", modality="MR"))
    assert {(hit.organ, hit.modality) for hit in chosen.hits} == {("chest", "MR")}
    assert search(query, SearchOptions(scope=Scope.ALL), page=2, page_size=3).hits[0].rank == 4
    assert search(query, SearchOptions(scope=Scope.ALL), page=99, page_size=3).page == 3
