"""The ranking is that of an exact scan on FC1, whatever the projections propose."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from ingest.models import Image, Modality, OrganClass
from ml.models import ModelVersion, VersionStatus
from ml.projection import Projection, fit_projection
from search import ranking
from search.models import Embedding
from search.ranking import EXACT_SCAN_ROWS, INDEX_WANTED, Path, Point, as_text, choose_path
from tests import factories

SIZE = 90


@dataclass
class Collection:
    version: ModelVersion
    fc1: np.ndarray  # (SIZE, 4096)
    projection: Projection
    ids: list[int]

    def found(self, **filters: Any) -> Any:
        return Embedding.objects.for_version(self.version).filter(**filters)

    def point(self, fc1: np.ndarray) -> Point:
        return Point(fc1, self.projection(fc1[np.newaxis])[0])

    def distances(self, fc1: np.ndarray) -> np.ndarray:
        """float64 (SIZE,), of what is stored to the query in the precision that is stored."""
        return np.linalg.norm(self.fc1 - fc1.astype(np.float16).astype(np.float64), axis=1)

    def expected(self, fc1: np.ndarray, kept: list[int]) -> list[int]:
        distances = self.distances(fc1)
        return [self.ids[row] for row in sorted(kept, key=lambda row: (distances[row], row))]


def points(number: int, seed: int) -> np.ndarray:
    """FC1-like: not negative, sparse, not centred. float32 (number, 4096)."""
    numbers = np.random.default_rng(seed).normal(-0.5, 1, (number, 4096))
    return np.maximum(numbers, 0).astype(np.float32)


@pytest.fixture(scope="module")
def collection(lasting_rows: Any) -> Collection:
    """Images of two organs and modalities, some without labels, two of them equal and two nearly so."""
    fc1 = points(SIZE, seed=3).astype(np.float16).astype(np.float32)
    fc1[7] = fc1[5]
    fc1[11] = fc1[9]
    fc1[11, 100] += 0.25
    fitted = fit_projection(fc1, 64)
    projection = Projection(fitted.mean, np.pad(fitted.components, ((0, 512 - 64), (0, 0))))
    with lasting_rows.unblock():
        version = ModelVersion.objects.create(checkpoint="none", status=VersionStatus.ACTIVE)
        organs = [OrganClass.objects.create(name=name) for name in ("brain", "chest")]
        modalities = [Modality.objects.create(code=code) for code in ("CT", "MR")]
        images = factories.make_bare_images(SIZE)
        for row, image in enumerate(images):
            image.organ, image.modality = organs[row % 2], [*modalities, None][row % 3]
        Image.objects.bulk_create(images)
        embeddings = factories.make_embeddings(images, version, fc1, projection(fc1))
    return Collection(version, fc1, projection, [embedding.pk for embedding in embeddings])


@pytest.mark.parametrize(
    ("kept", "wanted", "has_index", "path"),
    [
        (EXACT_SCAN_ROWS, 25, True, Path.EXACT),
        (EXACT_SCAN_ROWS + 1, 25, True, Path.IVFFLAT),
        (EXACT_SCAN_ROWS + 1, INDEX_WANTED, True, Path.IVFFLAT),
        (EXACT_SCAN_ROWS + 1, INDEX_WANTED + 1, True, Path.EXACT),
        (10**8, 25, False, Path.EXACT),
    ],
)
def test_the_path_follows_from_what_is_kept_and_wanted(
    kept: int, wanted: int, has_index: bool, path: Path
) -> None:
    assert choose_path(kept, wanted, has_index) == path


@pytest.mark.parametrize("proposed", [(1, 20, SIZE), ranking.SCAN_CANDIDATES])
@pytest.mark.parametrize(
    ("filters", "keep"),
    [
        ({}, lambda row: True),
        ({"organ__name": "brain"}, lambda row: row % 2 == 0),
        # An image without a modality label counts as what the network sees in it: CT.
        ({"modality": "CT"}, lambda row: row % 3 in (0, 2)),
        ({"organ__name": "chest", "modality": "MR"}, lambda row: row % 2 == 1 and row % 3 == 1),
        ({"organ__name": "nothing"}, lambda row: False),
    ],
    ids=["all", "organ", "modality", "both", "nothing"],
)
def test_ranking_equals_exact_scan(
    collection: Collection, db: None, monkeypatch: Any, proposed: Any, filters: Any, keep: Any
) -> None:
    monkeypatch.setattr(ranking, "SCAN_CANDIDATES", proposed)
    kept = [row for row in range(SIZE) if keep(row)]
    for fc1 in [*points(3, seed=100), collection.fc1[9] + np.float32(0.0001), np.zeros(4096, np.float32)]:
        expected = collection.expected(fc1, kept)
        for wanted in (1, 7, 20, SIZE + 5):
            found = collection.found(**filters).nearest_to(collection.point(fc1), wanted, kept=len(kept))
            assert found.ids == expected[:wanted]
            exact = np.sort(collection.distances(fc1)[kept])[:wanted]
            assert found.distances == pytest.approx(list(exact), rel=1e-5, abs=1e-5)


def test_few_candidates_are_widened_until_the_answer_is_exact(
    collection: Collection, db: None, monkeypatch: Any
) -> None:
    """Where every candidate looks alike, the answer still is that of an exact scan."""
    monkeypatch.setattr(ranking, "SCAN_CANDIDATES", (1, 20, SIZE))
    collection.found().update(projection=np.zeros(512, np.float32))
    point = Point(collection.fc1[11], np.zeros(512, np.float32))
    found = collection.found().nearest_to(point, 5, kept=SIZE)
    assert found.ids == collection.expected(point.fc1, list(range(SIZE)))[:5]
    assert found.distances[:2] == [0, 0.25]
    assert (found.plans[0].candidates, found.plans[0].ranked) == (SIZE, SIZE)


def test_a_telling_projection_spares_looking_at_fc1(collection: Collection, db: None) -> None:
    """FC1 lies beside the row and costs: of an exact duplicate's neighbours few are looked at."""
    found = collection.found().nearest_to(collection.point(collection.fc1[5]), 2, kept=SIZE)
    assert found.plans[0].candidates == SIZE
    assert found.plans[0].ranked < 10


def test_equal_distances_are_ordered_by_id(collection: Collection, db: None) -> None:
    found = collection.found().nearest_to(collection.point(collection.fc1[5]), 2, kept=SIZE)
    assert found.ids == [collection.ids[5], collection.ids[7]]
    assert found.distances == [0, 0]


def test_other_versions_are_never_searched(collection: Collection, db: None) -> None:
    other = ModelVersion.objects.create(checkpoint="none", status=VersionStatus.TRAINED)
    point = collection.point(collection.fc1[0])
    assert Embedding.objects.for_version(other).nearest_to(point, 5, kept=0).ids == []
    assert collection.found().nearest_to(point, 0, kept=SIZE).ids == []


@pytest.mark.parametrize("seed", range(5))
def test_the_blend_is_squared_distance_and_penalty(collection: Collection, db: None, seed: int) -> None:
    rng = np.random.default_rng(seed)
    organs = list(OrganClass.objects.order_by("pk"))
    weight = float(rng.choice([0, 1, 50, 500]))
    penalties = {organ.pk: -weight * math.log(p) for organ, p in zip(organs, rng.random(2), strict=True)}
    fc1 = points(1, seed=200 + seed)[0]
    scores = collection.distances(fc1) ** 2 + [penalties[organs[row % 2].pk] for row in range(SIZE)]
    expected = [collection.ids[row] for row in np.lexsort((range(SIZE), scores))]
    for wanted in (1, 10, SIZE):
        found = collection.found().blended(
            collection.point(fc1),
            wanted,
            kept={organ.pk: SIZE // 2 for organ in organs},
            penalties=penalties,
            names={organ.pk: organ.name for organ in organs},
        )
        assert found.ids == expected[:wanted]


def test_an_organ_that_cannot_bring_anything_is_not_looked_at(collection: Collection, db: None) -> None:
    brain, chest = OrganClass.objects.order_by("name")
    found = collection.found().blended(
        collection.point(collection.fc1[0]),
        10,
        kept={brain.pk: 45, chest.pk: 45},
        penalties={brain.pk: 0.0, chest.pk: 1e6},
        names={brain.pk: "brain", chest.pk: "chest"},
    )
    assert [plan.organ for plan in found.plans] == ["brain"]
    assert found.ids == collection.expected(collection.fc1[0], list(range(0, SIZE, 2)))[:10]


def test_facets_count_labels_and_predictions(collection: Collection, db: None) -> None:
    assert sorted(collection.found().count_by("organ__name")) == [("brain", 45), ("chest", 45)]
    assert sorted(collection.found().count_by("modality")) == [("CT", 60), ("MR", 30)]


def test_numbers_are_sent_in_the_precision_that_is_kept() -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)]
    sent = np.array(as_text(every.astype(np.float32)).strip("[]").split(","), np.float64)
    usual = np.abs(every) >= 1e-3
    assert np.array_equal(sent[usual].astype(np.float16), every[usual])
    assert np.abs(sent - every)[~usual].max() <= 1e-7
