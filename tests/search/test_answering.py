"""A query is read, described once, and fails with a sentence."""

from collections.abc import Iterator

import pytest
from django.core.files.storage import default_storage

from ingest.models import Modality
from ml.models import ModelVersion
from ml.serving import forget_describers
from search import answering, asking
from search.classes import merge_modalities
from search.models import Query, QueryStatus
from search.retrieval import Scope, SearchOptions, search
from tests.factories import (
    dicom_bytes,
    make_image,
    make_model_version,
    make_pixels,
    make_user,
    png_bytes,
)
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


@pytest.fixture
def brain_in_ct_chest_in_mr(db: None) -> Iterator[ModelVersion]:
    """What a version learnt in."""
    forget_describers()
    yield make_model_version(learnt_in={"brain": ["CT"], "chest": ["MR"]})
    forget_describers()


def answered(query: Query) -> Query:
    answering.answer(query)
    query.refresh_from_db()
    assert query.status == QueryStatus.ANSWERED
    return query


@pytest.mark.parametrize(
    ("modality", "organ"), [("CT", "brain"), ("MR", "chest")], ids=["only brains in it", "only chests in it"]
)
def test_the_modality_that_a_file_states_tells_of_the_organ(
    brain_in_ct_chest_in_mr: ModelVersion, modality: str, organ: str
) -> None:
    seen = dict(answered(asking.ask_with_file(dicom_bytes(seed=1, Modality="OT"), None)).organ_probabilities)
    query = answered(asking.ask_with_file(dicom_bytes(seed=1, Modality=modality), None))
    probability = dict(query.organ_probabilities)[organ]
    other = 1 - seen[organ]
    assert query.modality == modality
    assert probability == pytest.approx(seen[organ] / (seen[organ] + 0.01 * other), abs=1e-3)
    region = answered(asking.ask_with_region(query, [0.1, 0.1, 0.9, 0.9], None))
    again = answered(asking.ask_again(query, None))
    assert (region.modality, again.modality) == (modality, modality)
    assert again.organ_probabilities == query.organ_probabilities


def test_what_states_no_modality_is_seen_as_it_is(brain_in_ct_chest_in_mr: ModelVersion) -> None:
    other = answered(asking.ask_with_file(dicom_bytes(make_pixels(1), Modality="OT"), None))
    picture = answered(asking.ask_with_file(png_bytes(make_pixels(1)), None))
    assert (other.modality, picture.modality) == ("", "")
    for organ, probability in other.organ_probabilities:  # stored with 12 bits and with 8
        assert dict(picture.organ_probabilities)[organ] == pytest.approx(probability, abs=1e-3)


def test_each_of_several_images_has_its_own_modality(brain_in_ct_chest_in_mr: ModelVersion) -> None:
    files = [dicom_bytes(seed=seed, Modality=code) for seed, code in enumerate(["CT", "MR"])]
    whole = answered(asking.ask_with_several(files, None))
    alone = [dict(answered(asking.ask_with_file(file, None)).organ_probabilities) for file in files]
    for organ, probability in whole.organ_probabilities:
        assert probability == pytest.approx((alone[0][organ] + alone[1][organ]) / 2, abs=1e-4)


def test_an_image_of_the_collection_is_of_the_modality_of_its_label(
    brain_in_ct_chest_in_mr: ModelVersion,
) -> None:
    unlabelled, labelled = (make_image(1, modality=None), make_image(2, modality="MR"))
    seen, known = (answered(asking.ask_with_image(image, None)) for image in (unlabelled, labelled))
    assert (seen.modality, known.modality) == ("", "MR")
    assert dict(known.organ_probabilities)["chest"] > dict(seen.organ_probabilities)["chest"]


def test_a_modality_that_became_another_is_known_by_its_new_name(
    brain_in_ct_chest_in_mr: ModelVersion,
) -> None:
    for code in ("CT", "XA"):
        Modality.objects.create(code=code)
    merge_modalities(Modality.objects.get(code="CT"), Modality.objects.get(code="XA"), make_user("curator"))
    version = brain_in_ct_chest_in_mr
    assert answering.same_modality("XA", version) == answering.same_modality("CT", version) == ["CT"]
    assert answering.same_modality("US", version) == answering.same_modality("", version) == []


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
