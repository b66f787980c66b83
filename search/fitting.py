"""What is fitted on a version's embeddings before it serves: what distances mean, what is nearly the same.

A sample of images is compared with a larger one, and searched with as queries are, among the images of other
groups (patients, volumes): what a person will search for is not in the collection either.
"""

import random

import numpy as np
from django.utils import timezone
from numpy.typing import NDArray

from ml.models import ModelVersion
from search.models import Embedding, VersionIndex, as_array

QUERIES = 300
OTHERS = 3_000
LEAST_PAIRS = 30  # of one kind: fewer say nothing
NEAR_DUPLICATE_PERCENTILE = 1  # nearer than this share of nearest neighbours of other patients ever are
BLEND = 0.1  # of the usual squared distance between organs; measured, see docs/method.md


def fit(version: ModelVersion, index: VersionIndex) -> None:
    """Fill `index`, and save it. A collection too small or too much of one kind leaves parts of it empty."""
    ids = list(Embedding.objects.filter(model_version=version).values_list("pk", flat=True))
    index.images = len(ids)
    sample = random.Random(0).sample(ids, min(OTHERS, len(ids)))
    if sample:
        fit_to_sample(index, sample)
    index.fitted_at = timezone.now()
    index.save()


def fit_to_sample(index: VersionIndex, ids: list[int]) -> None:
    rows = list(
        Embedding.objects.filter(pk__in=ids).values_list(
            "pk", "organ_id", "image__group_key", "fc1", "projection"
        )
    )
    order = {pk: place for place, pk in enumerate(ids)}
    rows.sort(key=lambda row: order[row[0]])
    organ = np.array([row[1] for row in rows])
    group = np.array([row[2] for row in rows])
    fc1 = np.stack([as_array(row[3]) for row in rows])
    projection = np.stack([as_array(row[4]) for row in rows])
    asked = slice(0, QUERIES)
    foreign = group[asked, None] != group[None]
    same = organ[asked, None] == organ[None]
    distances = distances_between(fc1[asked], fc1)
    index.same_organ = percentiles(distances[foreign & same])
    index.other_organ = percentiles(distances[foreign & ~same])
    if index.other_organ:
        index.blend_weight = BLEND * index.other_organ[50] ** 2
    projected = np.where(foreign, distances_between(projection[asked], projection), np.inf).min(1)
    if (nearest := projected[np.isfinite(projected)]).size >= LEAST_PAIRS:
        index.near_duplicate = float(np.percentile(nearest, NEAR_DUPLICATE_PERCENTILE))


def distances_between(some: NDArray[np.floating], others: NDArray[np.floating]) -> NDArray[np.float32]:
    """float32 (N, M); of large squares little may be left, which float32 does not hold."""
    some, others = some.astype(np.float64), others.astype(np.float64)
    squared = (some**2).sum(1)[:, None] + (others**2).sum(1) - 2 * some @ others.T
    return np.asarray(np.sqrt(np.maximum(squared, 0)), np.float32)


def percentiles(values: NDArray[np.float32]) -> list[float]:
    """0 to 100; empty with too few values."""
    if len(values) < LEAST_PAIRS:
        return []
    return [round(float(value), 6) for value in np.percentile(values, range(101))]
