"""The next batch is read while this one is finished; every image still gets its own picture."""

import threading

import numpy as np
import pytest
from django.core.files.storage import default_storage

from ingest.models import Image
from ingest.renditions import read_rendition
from ml.models import ModelVersion
from search import indexing, reading_ahead
from search.models import Embedding
from search.reading_ahead import RenditionReader
from tests.factories import make_image, make_model_version
from tests.search.test_indexing import index_all


@pytest.fixture
def reader() -> RenditionReader:
    return RenditionReader()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The files that are read, each with the thread that reads it."""
    seen: list[tuple[str, str]] = []

    def noting(file: object) -> np.ndarray:
        seen.append((str(file), threading.current_thread().name.split("_")[0]))
        return read_rendition(file)

    monkeypatch.setattr(reading_ahead, "read_rendition", noting)
    return seen


def expected(images: list[Image]) -> np.ndarray:
    return np.stack([read_rendition(image.rendition) for image in images])


def test_renditions_come_in_the_order_asked_for(db: None, reader: RenditionReader) -> None:
    images = [make_image(seed) for seed in range(6)]
    reader.read_ahead([images[4], images[1]])
    asked = [images[n] for n in (5, 1, 4, 0)]
    assert np.array_equal(reader.read(asked), expected(asked))


def test_what_was_read_ahead_is_not_read_again(
    db: None, reader: RenditionReader, reads: list[tuple[str, str]]
) -> None:
    images = [make_image(seed) for seed in range(4)]
    reader.read_ahead(images[:3])
    reader.read_ahead(images[1:])
    reader.read(images)
    assert sorted(name for name, _ in reads) == sorted(str(image.rendition) for image in images)
    assert {thread for _, thread in reads} == {"renditions"}
    reader.read(images[:1])  # given out once
    assert len(reads) == 5


def test_what_nobody_comes_for_is_forgotten(
    db: None, reader: RenditionReader, monkeypatch: pytest.MonkeyPatch, reads: list[tuple[str, str]]
) -> None:
    monkeypatch.setattr(reading_ahead, "MOST_AHEAD", 2)
    images = [make_image(seed) for seed in range(4)]
    reader.read_ahead(images[:2])
    reader.read_ahead(images[2:])
    assert list(reader._coming) == [image.pk for image in images[2:]]
    assert np.array_equal(reader.read(images), expected(images))


def test_a_file_that_is_gone_fails_the_batch_that_needs_it(db: None, reader: RenditionReader) -> None:
    images = [make_image(seed) for seed in range(2)]
    default_storage.delete(images[1].rendition.name)
    reader.read_ahead(images)
    assert np.array_equal(reader.read(images[:1]), expected(images[:1]))
    with pytest.raises(FileNotFoundError):
        reader.read(images[1:])


def test_indexing_reads_the_next_batch_ahead(
    model_version: ModelVersion, monkeypatch: pytest.MonkeyPatch, reads: list[tuple[str, str]]
) -> None:
    monkeypatch.setattr(indexing, "BATCH_SIZE", 2)
    monkeypatch.setattr(indexing, "reader", RenditionReader())
    images = [make_image(organ=organ) for organ in ("brain", "chest", "brain", "chest", "brain")]
    assert indexing.index_next_batch()
    assert set(indexing.reader._coming) == {image.pk for image in images[2:4]}
    assert Embedding.objects.count() == 2
    index_all()
    assert Embedding.objects.count() == 5
    assert sorted(name for name, _ in reads) == sorted(str(image.rendition) for image in images)


def test_an_image_is_described_as_itself_whatever_was_read_ahead(
    model_version: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two versions in service, at different places in the collection."""
    monkeypatch.setattr(indexing, "BATCH_SIZE", 2)
    for seed in range(5):
        make_image(seed, organ=("brain", "chest")[seed % 2])
    index_all()
    make_model_version("preparing", seed=1)
    for seed in range(5, 9):
        make_image(seed, organ=("brain", "chest")[seed % 2])
    index_all()
    assert Embedding.objects.count() == 18
    from ml.serving import describer_for

    for embedding in Embedding.objects.select_related("image"):
        seen = describer_for(embedding.model_version_id).describe(expected([embedding.image]))
        stored = np.array(embedding.fc1)
        assert np.allclose(stored, seen.fc1[0], rtol=2e-3, atol=2e-3)
