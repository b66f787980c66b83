"""A small collection that is searched, and an answered query; rows that a whole module shares."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from django.core.cache import cache
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.db import connection

from ingest.models import Image
from ml.models import ModelVersion
from search import ivfflat, ranking
from search.models import Query, QueryStatus
from tests import factories


@pytest.fixture
def collection(model_version: ModelVersion) -> list[Image]:
    """Six images, at distance 1 to 6 from the origin of FC1: brain, chest, brain, ..."""
    images = []
    for number in range(1, 7):
        image = factories.make_image(seed=number, organ="brain" if number % 2 else "chest")
        fc1 = np.zeros(4096, np.float32)
        fc1[0] = number
        factories.make_embedding(image, model_version, fc1)
        images.append(image)
    return images


@pytest.fixture
def few_are_many(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A dozen images count as so many that they need an IVFFlat index. None is left behind."""
    monkeypatch.setattr(ivfflat, "LEAST_ROWS", 2)
    monkeypatch.setattr(ranking, "EXACT_SCAN_ROWS", 2)
    yield
    with connection.cursor() as cursor:
        cursor.execute("SELECT relname FROM pg_class WHERE relkind = 'i' AND relname ~ '^embedding_ivfflat_'")
        for (name,) in cursor.fetchall():
            ivfflat.drop_index(name)


@pytest.fixture
def query(model_version: ModelVersion) -> Query:
    """An answered query at the origin of FC1, a brain to the network."""
    return Query.objects.create(
        status=QueryStatus.ANSWERED,
        model_version=model_version,
        fc1=np.zeros(4096, np.float32),
        projection=np.zeros(512, np.float32),
        organ_probabilities=[["brain", 0.75], ["chest", 0.25]],
        modality_probabilities=[["CT", 0.9], ["MR", 0.1]],
        preview=default_storage.save("queries/q.preview.jpg", ContentFile(factories.png_bytes())),
    )


@pytest.fixture(scope="module")
def lasting_rows(django_db_setup: None, django_db_blocker: Any) -> Iterator[Any]:
    """The blocker: what a module's fixture commits while it is unblocked is gone after the module."""
    yield django_db_blocker
    with django_db_blocker.unblock():
        factories.remove_all_rows()


@pytest.fixture
def empty_cache(db: None) -> Iterator[None]:
    """Rows are rolled back after a test, what is remembered of them is not."""
    cache.clear()
    yield
    cache.clear()
