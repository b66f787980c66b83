"""What is fitted to a version's embeddings, against every pair looked at by itself."""

from itertools import product

import numpy as np
import pytest

from ingest.models import Image, OrganClass
from ml.models import ModelVersion
from search import fitting
from search.fitting import distances_between, fit, percentiles
from search.models import VersionIndex
from tests import factories


def fill(version: ModelVersion, fc1: np.ndarray, organs: list[str], groups: list[str]) -> None:
    images = factories.make_bare_images(len(fc1))
    for image, organ, group in zip(images, organs, groups, strict=True):
        image.organ = OrganClass.objects.get_or_create(name=organ)[0]
        image.group_key = group
    Image.objects.bulk_create(images)
    factories.make_embeddings(images, version, fc1)


def random_fc1(number: int, seed: int) -> np.ndarray:
    numbers = np.random.default_rng(seed).normal(-0.5, 1, (number, 4096))
    return np.maximum(numbers, 0).astype(np.float16).astype(np.float32)


def apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one.astype(np.float64) - other.astype(np.float64)))


def test_it_is_what_every_pair_says(model_version: ModelVersion) -> None:
    """With fewer images than are asked with, every image is compared with all of other groups."""
    fc1 = random_fc1(60, 0) + 2 * np.repeat(random_fc1(2, 1), 30, axis=0)  # two organs
    fc1 = fc1.astype(np.float16).astype(np.float32)
    organs = ["brain"] * 30 + ["chest"] * 30
    groups = [f"patient {number // 3}" for number in range(60)]
    fill(model_version, fc1, organs, groups)
    index = VersionIndex(model_version=model_version)
    fit(model_version, index)
    same, other, nearest = [], [], []
    for one in range(60):
        foreign = [row for row in range(60) if groups[row] != groups[one]]
        for row in foreign:
            (same if organs[row] == organs[one] else other).append(apart(fc1[one], fc1[row]))
        nearest.append(min(apart(fc1[one, :512], fc1[row, :512]) for row in foreign))
    index.refresh_from_db()
    assert index.same_organ == pytest.approx(list(np.percentile(same, range(101))), rel=1e-4)
    assert index.other_organ == pytest.approx(list(np.percentile(other, range(101))), rel=1e-4)
    assert index.near_duplicate == pytest.approx(np.percentile(nearest, 1), rel=1e-4)
    assert index.blend_weight == pytest.approx(fitting.BLEND * np.median(other) ** 2, rel=1e-3)
    assert index.images == 60
    assert index.fitted_at is not None
    assert index.same_organ == sorted(index.same_organ)


def test_a_large_collection_is_sampled(model_version: ModelVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "QUERIES", 15)
    monkeypatch.setattr(fitting, "OTHERS", 40)
    fill(model_version, random_fc1(80, 2), ["brain", "chest"] * 40, [str(number) for number in range(80)])
    index, again = VersionIndex(model_version=model_version), VersionIndex()
    fit(model_version, index)
    assert index.images == 80
    assert len(index.same_organ) == len(index.other_organ) == 101
    assert index.near_duplicate is None  # 15 nearest neighbours say nothing yet
    again.model_version, again.pk = model_version, index.pk
    fit(model_version, again)
    assert again.same_organ == index.same_organ  # the same sample each time


@pytest.mark.parametrize("organs", [[], ["brain"], ["brain"] * 12], ids=["none", "one", "of one organ"])
def test_too_little_leaves_it_open(model_version: ModelVersion, organs: list[str]) -> None:
    if organs:
        fill(model_version, random_fc1(len(organs), 3), organs, [str(n) for n in range(len(organs))])
    index = VersionIndex(model_version=model_version)
    fit(model_version, index)
    assert (index.images, index.other_organ, index.blend_weight) == (len(organs), [], 0)
    assert index.near_duplicate is None
    assert (index.same_organ == []) == (len(organs) < 12)


def test_images_of_one_patient_are_not_compared(model_version: ModelVersion) -> None:
    fill(model_version, random_fc1(40, 4), ["brain", "chest"] * 20, ["one patient"] * 40)
    index = VersionIndex(model_version=model_version)
    fit(model_version, index)
    assert (index.same_organ, index.other_organ, index.near_duplicate) == ([], [], None)


def test_small_distances_between_long_vectors_are_exact() -> None:
    """What is nearly the same is told by them: as differences, not as differences of squares."""
    some = random_fc1(20, 5)
    others = some.copy()
    others[:, 7] += np.float32(0.03125)
    found = distances_between(some, others)
    for one, other in product(range(20), range(20)):
        assert found[one, other] == pytest.approx(apart(some[one], others[other]), rel=1e-3)
    assert distances_between(some, some).diagonal().max() < 1e-3


def test_percentiles_need_enough_values() -> None:
    values = np.linspace(0, 1, 101, dtype=np.float32)
    assert percentiles(values) == pytest.approx([p / 100 for p in range(101)], abs=1e-6)
    assert percentiles(values[: fitting.LEAST_PAIRS - 1]) == []
