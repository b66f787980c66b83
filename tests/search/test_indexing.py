"""Images get an embedding of every version in service; a prepared version is switched to."""

import pytest

from ml.models import ModelVersion, VersionStatus
from search import indexing
from search.models import Embedding
from tests.factories import make_image, make_model_version


def index_all() -> None:
    while indexing.index_next_batch():
        pass


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


def test_prepared_version_is_switched_to_when_its_index_is_complete(model_version: ModelVersion) -> None:
    image = make_image()
    index_all()
    new = make_model_version(VersionStatus.TRAINED, seed=1)
    new.request_activation()
    assert ModelVersion.objects.active() == model_version
    index_all()
    assert ModelVersion.objects.active() == new
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
