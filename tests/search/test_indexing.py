"""Images get an embedding of every version in service; a prepared version is switched to.

What searching under a version rests on is built beside the searches: tests/search/test_builds.py.
"""

import pytest

from ingest.models import Image
from ml.models import ModelVersion, VersionStatus
from search import answering, asking, indexing, retrieval
from search.models import Embedding, Query, VersionIndex
from search.options import Collapse, Scope, SearchOptions
from tests.factories import make_image, make_model_version


def index_all() -> None:
    """What the inference and upkeep workers do until nothing is left to be done."""
    while indexing.index_next_batch():
        pass
    indexing.prepare_versions()


def test_every_image_is_described_once(model_version: ModelVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexing, "BATCH_SIZE", 2)
    images = [make_image(organ=organ) for organ in ("brain", "chest", None, "brain", "chest")]
    index_all()
    index_all()
    assert sorted(Embedding.objects.values_list("image_id", flat=True)) == [image.pk for image in images]
    embedding = Embedding.objects.first()
    assert embedding is not None
    assert len(list(embedding.fc1)) == 4096
    assert len(list(embedding.projection)) == 512
    assert embedding.predicted_organ.name in model_version.organs
    assert 0.5 <= embedding.organ_probability <= 1


def test_others_begin_with_the_next_batch_before_this_one_is_described(
    model_version: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "BATCH_SIZE", 2)
    make_model_version(VersionStatus.PREPARING, seed=1)
    for _ in range(3):
        make_image()
    described: list[int] = []
    for _ in range(2):
        indexing.index_next_batch(on_more=lambda: described.append(Embedding.objects.count()))
    assert described == [0]
    assert Embedding.objects.count() == 6


def test_image_that_was_left_behind_is_described_in_the_end(
    model_version: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one whose describer was killed, or that was committed after later ones."""
    monkeypatch.setattr(indexing, "BATCH_SIZE", 2)
    images = [make_image() for _ in range(4)]
    index_all()
    Embedding.objects.filter(image=images[0]).delete()
    late = [make_image() for _ in range(3)]
    monkeypatch.setitem(indexing._began_at, model_version.pk, images[2].pk)
    index_all()
    assert set(Embedding.objects.values_list("image", flat=True)) == {image.pk for image in images + late}


def test_prepared_version_is_switched_to_when_its_index_is_complete(model_version: ModelVersion) -> None:
    image = make_image()
    index_all()
    new = make_model_version(VersionStatus.TRAINED, seed=1)
    new.request_activation()
    assert ModelVersion.objects.active() == model_version
    while indexing.index_next_batch():
        pass
    # It has seen every image; what its searches rest on is not there yet.
    assert ModelVersion.objects.active() == model_version
    indexing.prepare_versions()
    assert ModelVersion.objects.active() == new
    assert VersionIndex.objects.get(model_version=new).images == 1
    model_version.refresh_from_db()
    assert model_version.status == VersionStatus.RETIRED
    assert set(image.embeddings.values_list("model_version_id", flat=True)) == {model_version.pk, new.pk}


def test_earlier_version_is_brought_back_with_images_that_came_since(model_version: ModelVersion) -> None:
    make_image()
    index_all()
    new = make_model_version(VersionStatus.PREPARING, seed=1)
    index_all()
    late = make_image()
    index_all()
    assert not late.embeddings.filter(model_version=model_version).exists()
    model_version.refresh_from_db()
    model_version.request_activation()
    index_all()
    assert ModelVersion.objects.active() == model_version
    assert late.embeddings.filter(model_version=model_version).exists()
    new.refresh_from_db()
    assert new.status == VersionStatus.RETIRED


def test_last_request_wins(model_version: ModelVersion) -> None:
    first, second = (make_model_version(VersionStatus.TRAINED, seed) for seed in (1, 2))
    make_image()
    first.request_activation()
    second.request_activation()
    index_all()
    assert ModelVersion.objects.active() == second


def test_asking_for_the_active_version_changes_nothing(model_version: ModelVersion) -> None:
    model_version.request_activation()
    assert model_version.status == VersionStatus.ACTIVE


def test_version_that_lacks_an_image_is_not_switched_to(model_version: ModelVersion) -> None:
    make_image()
    new = make_model_version(VersionStatus.PREPARING, seed=1)
    indexing.prepare_versions()
    assert ModelVersion.objects.active() == model_version
    index_all()
    assert ModelVersion.objects.active() == new


def test_version_that_is_no_longer_asked_for_is_not_switched_to(model_version: ModelVersion) -> None:
    retired = make_model_version(VersionStatus.RETIRED, seed=1)
    indexing.switch_to(retired)
    assert ModelVersion.objects.active() == model_version


def test_searches_are_answered_by_the_old_version_while_the_new_one_is_prepared(
    model_version: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "BATCH_SIZE", 1)
    images = [make_image() for _ in range(3)]
    index_all()
    new = make_model_version(VersionStatus.PREPARING, seed=1)
    assert indexing.index_next_batch()  # one image of three
    during = answered_query(images[0])
    assert during.model_version == model_version
    assert shown(during) == {image.pk for image in images[1:]}
    index_all()
    # A query stays with the version that answered it; a new one is the new version's.
    assert shown(during) == {image.pk for image in images[1:]}
    after = answered_query(images[0])
    assert after.model_version == new
    assert shown(after) == {image.pk for image in images[1:]}


def answered_query(image: Image) -> Query:
    query = asking.ask_with_image(image, None)
    answering.answer(query)
    query.refresh_from_db()
    assert query.status == "answered"
    return query


def shown(query: Query) -> set[int]:
    options = SearchOptions(scope=Scope.ALL, collapse=Collapse.NONE)
    return {hit.image_id for hit in retrieval.search(query, options).hits}


def test_index_is_fitted_anew_when_the_collection_has_grown(model_version: ModelVersion) -> None:
    for _ in range(4):
        make_image()
    index_all()
    index = VersionIndex.objects.get(model_version=model_version)
    assert index.images == 4
    make_image()
    index_all()
    index.refresh_from_db()
    assert index.images == 4  # a quarter more changes little
    make_image()
    index_all()
    index.refresh_from_db()
    assert index.images == 6
