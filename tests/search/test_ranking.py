"""The ranking is that of an exact scan on FC1, under every filter, page by page."""

from typing import Any

import numpy as np
import pytest

from ml.models import ModelVersion
from ml.projection import fit_projection
from search import ranking
from search.models import Embedding
from tests.factories import make_embedding, make_image

SIZE = 90


@pytest.fixture
def collection(model_version: ModelVersion) -> tuple[np.ndarray, Any]:
    """FC1-like vectors (sparse, not centred) of images of two organs and modalities, two of them equal."""
    rng = np.random.default_rng(3)
    fc1 = np.maximum(rng.normal(-0.5, 1, (SIZE, 4096)), 0).astype(np.float16).astype(np.float32)
    fc1[7] = fc1[5]
    projection = fit_projection(fc1)
    for row, values in enumerate(projection(fc1)):
        image = make_image(organ=["brain", "chest"][row % 2], modality=["CT", "MR", None][row % 3])
        make_embedding(image, model_version, fc1[row], values)
    return fc1, projection


def expected(fc1: np.ndarray, query: np.ndarray, kept: list[int]) -> list[int]:
    distances = np.linalg.norm(fc1.astype(np.float64) - query, axis=1)
    return sorted(kept, key=lambda row: (round(distances[row], 4), row))


def rows_of(found: list[Embedding]) -> list[int]:
    first = Embedding.objects.order_by("pk").values_list("pk", flat=True)[0]
    return [embedding.pk - first for embedding in found]


@pytest.mark.parametrize("index", [False, True])
@pytest.mark.parametrize(
    ("organ", "modality", "keep"),
    [
        ("", "", lambda row: True),
        ("brain", "", lambda row: row % 2 == 0),
        # An image without a modality label counts as what the network sees in it: CT.
        ("", "CT", lambda row: row % 3 in (0, 2)),
        ("chest", "MR", lambda row: row % 2 == 1 and row % 3 == 1),
        ("nothing", "", lambda row: False),
    ],
)
def test_ranking_equals_exact_scan(
    collection: Any,
    model_version: ModelVersion,
    monkeypatch: Any,
    index: bool,
    organ: str,
    modality: str,
    keep: Any,
) -> None:
    if index:
        monkeypatch.setattr(ranking, "EXACT_SCAN_ROWS", 0)
    fc1, projection = collection
    kept = [row for row in range(SIZE) if keep(row)]
    for seed in range(3):
        query = np.maximum(np.random.default_rng(100 + seed).normal(-0.5, 1, 4096), 0).astype(np.float32)
        found = Embedding.objects.for_version(model_version).of_organ(organ).of_modality(modality)
        pages = [
            rows_of(found.nearest_to(query, projection(query[None])[0], offset=offset, limit=7))
            for offset in range(0, SIZE, 7)
        ]
        assert [row for page in pages for row in page] == expected(fc1, query, kept)


def test_few_candidates_are_widened_until_the_answer_is_exact(
    collection: Any, model_version: ModelVersion
) -> None:
    """Where every candidate looks alike, the answer still is that of an exact scan."""
    fc1, _ = collection
    Embedding.objects.update(projection=np.zeros(128, np.float32))
    query = fc1[11]
    found = Embedding.objects.for_version(model_version)
    candidates = found._candidates(np.zeros(128), 3, use_index=False)
    assert len(candidates) == 3
    ranked = found.nearest_to(query, np.zeros(128), limit=5)
    assert rows_of(ranked) == expected(fc1, query, list(range(SIZE)))[:5]
    assert ranked[0].distance == pytest.approx(0, abs=1e-3)


def test_equal_distances_are_ordered_by_id(collection: Any, model_version: ModelVersion) -> None:
    fc1, projection = collection
    found = Embedding.objects.for_version(model_version)
    found = found.nearest_to(fc1[5], projection(fc1[5:6])[0], limit=2)
    assert rows_of(found) == [5, 7]


def test_other_versions_are_never_searched(collection: Any, model_version: ModelVersion) -> None:
    from tests.factories import make_model_version

    other = make_model_version("trained")
    assert Embedding.objects.for_version(other).nearest_to(np.zeros(4096), np.zeros(128)) == []


def test_facets_count_labels_and_predictions(collection: Any, model_version: ModelVersion) -> None:
    found = Embedding.objects.for_version(model_version)
    assert found.count_by("organ_name") == [("brain", 45), ("chest", 45)]
    assert found.count_by("modality_code") == [("CT", 60), ("MR", 30)]
