"""Measuring a model version on the images held out for testing.

Every test image queries the images that may be trained on; images of its own group (patient, volume) are
left out. Relevant is what has the same organ label, or the same organ and modality. Ranking is an exact scan
by Euclidean distance on FC1, over the whole collection and within the organ predicted for the query.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from django.conf import settings
from numpy.typing import NDArray

from ingest.models import Dataset, Image, ImageQuerySet, Split
from ml.metrics import (
    average_precision,
    confusion_matrix,
    macro_scores,
    mean,
    mean_over_classes,
    precision_at,
)
from ml.models import Evaluation, ModelVersion
from ml.training_images import images_to_learn_from, read_renditions

CHUNK = 64  # images read and described, and queries ranked, at a time
Progress = Callable[[int, int], None]  # images done, images in all


class EvaluationError(Exception):
    """An evaluation that cannot be done; its text is a sentence for the user."""


@dataclass(frozen=True)
class Described:
    """Row n of each array is about image n. Labels are positions in lists that all images share."""

    fc1: NDArray[np.float32]  # (N, 4096)
    seen_organ: NDArray[np.intp]
    seen_modality: NDArray[np.intp]  # -1 without a modality head
    organ: NDArray[np.intp]
    modality: NDArray[np.intp]  # -1 where not known
    group: NDArray[np.str_]


def evaluate(
    version: ModelVersion, datasets: Iterable[Dataset] = (), on_progress: Progress = lambda done, total: None
) -> Evaluation:
    """Measure and record. Raises EvaluationError when there is nothing to ask with or to search in."""
    chosen = list(datasets)
    test_images = Image.objects.labelled().filter(split=Split.TEST)
    test_images = test_images.filter(dataset__in=chosen) if chosen else test_images
    numbers = [test_images.count(), images_to_learn_from(chosen).count()]
    if not numbers[0]:
        raise EvaluationError("No labelled image is held out for testing (split test in the manifest).")
    if not numbers[1]:
        raise EvaluationError("There are no labelled images to search among besides those held out.")
    organs, modalities = names_of_labels(version, test_images | images_to_learn_from(chosen))

    def describe_all(images: ImageQuerySet, before: int) -> Described:
        return describe(
            images, version, organs, modalities, lambda done: on_progress(before + done, sum(numbers))
        )

    queries = describe_all(test_images, 0)
    collection = describe_all(images_to_learn_from(chosen), numbers[0])
    metrics = classification(queries, organs) | {"retrieval": retrieval(queries, collection)}
    evaluation = Evaluation.objects.create(
        model_version=version, queries=numbers[0], collection=numbers[1], metrics=metrics
    )
    evaluation.datasets.set(chosen)
    return evaluation


def names_of_labels(version: ModelVersion, images: ImageQuerySet) -> tuple[list[str], list[str]]:
    """Organs and modalities: the version's, in its order, then those that it has never seen."""
    labels = set(images.order_by().values_list("organ__name", "modality_id").distinct())
    organs, modalities = ({organ for organ, _ in labels}, {code for _, code in labels if code})
    return (
        [*version.organs, *sorted(organs - set(version.organs))],
        [*version.modalities, *sorted(modalities - set(version.modalities))],
    )


def describe(
    images: ImageQuerySet,
    version: ModelVersion,
    organs: list[str],
    modalities: list[str],
    on_progress: Callable[[int], None],
) -> Described:
    from ml.serving import describer_for

    describer = describer_for(version.pk)
    rows = list(images.order_by("pk").values_list("rendition", "organ__name", "modality_id", "group_key"))
    fc1 = np.empty((len(rows), 4096), np.float32)
    seen_organ = np.empty(len(rows), np.intp)
    seen_modality = np.full(len(rows), -1, np.intp)
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        names = [row[0] for row in rows[part]]
        seen = describer.describe(read_renditions(names, Path(settings.DATA_DIR), lambda _: None))
        fc1[part], seen_organ[part] = seen.fc1, seen.organ_probabilities.argmax(1)
        if seen.modality_probabilities is not None:
            seen_modality[part] = seen.modality_probabilities.argmax(1)
        on_progress(min(start + CHUNK, len(rows)))
    return Described(
        fc1=fc1,
        seen_organ=seen_organ,
        seen_modality=seen_modality,
        organ=np.array([organs.index(row[1]) for row in rows], np.intp),
        modality=np.array([modalities.index(row[2]) if row[2] else -1 for row in rows], np.intp),
        group=np.array([row[3] for row in rows], np.str_),
    )


def classification(queries: Described, organs: list[str]) -> dict[str, Any]:
    confusion = confusion_matrix(queries.organ, queries.seen_organ, len(organs))
    known = (queries.modality >= 0) & (queries.seen_modality >= 0)
    modality = queries.modality[known] == queries.seen_modality[known]
    return {
        "organ_accuracy": float(np.mean(queries.organ == queries.seen_organ)),
        "modality_accuracy": float(modality.mean()) if known.any() else None,
        "organ_macro": macro_scores(confusion),
        "organs": organs,
        "confusion": confusion.tolist(),
    }


def retrieval(queries: Described, collection: Described) -> dict[str, dict[str, dict[str, float | None]]]:
    """Measures by scope ("all", "predicted") and relevance ("organ", "organ_and_modality")."""
    parts: dict[tuple[str, str], list[dict[str, NDArray[np.float64]]]] = {}
    for start in range(0, len(queries.fc1), CHUNK):
        for key, values in measure(queries, slice(start, start + CHUNK), collection).items():
            parts.setdefault(key, []).append(values)
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for (scope, relevance), chunks in parts.items():
        joined = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
        measures = {name: mean(values) for name, values in joined.items()}
        measures["map_macro"] = mean_over_classes(joined["map"], queries.organ)
        found.setdefault(scope, {})[relevance] = measures
    return found


def measure(
    queries: Described, part: slice, collection: Described
) -> dict[tuple[str, str], dict[str, NDArray[np.float64]]]:
    """The measures of every query of `part`: float64 (Q,) each, NaN where nothing is relevant."""
    order = ranked(queries.fc1[part], collection.fc1)
    own = queries.group[part, None] == collection.group[None]
    same_organ = (queries.organ[part, None] == collection.organ[None]) & ~own
    known = queries.modality[part, None] >= 0
    same_both = same_organ & known & (queries.modality[part, None] == collection.modality[None])
    within = queries.seen_organ[part, None] == collection.organ[None]
    found = {}
    for scope, kept in (("all", ~own), ("predicted", within & ~own)):
        for name, relevant in (("organ", same_organ), ("organ_and_modality", same_both)):
            ranking = ranked_relevance(order, relevant, kept)
            number = relevant.sum(1)
            unknown = np.where(number > 0, 0.0, np.nan)
            found[scope, name] = {
                "map": average_precision(ranking, number),
                "map_at_10": average_precision(ranking, number, 10),
                **{f"precision_at_{k}": precision_at(ranking, k) + unknown for k in (1, 5, 10)},
            }
    return found


def ranked(queries: NDArray[np.float32], collection: NDArray[np.float32]) -> NDArray[np.intp]:
    """intp (Q, N): positions in the collection, nearest first; equal distances in the collection's order."""
    squared = (collection**2).sum(1)[None] - 2 * queries @ collection.T  # + the query's own: same for all
    return np.argsort(squared, axis=1, kind="stable")


def ranked_relevance(
    order: NDArray[np.intp], relevant: NDArray[np.bool_], kept: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """bool (Q, N): the relevance by rank when only `kept` images are ranked; rows end in False."""
    is_kept = np.take_along_axis(kept, order, 1)
    front = np.argsort(~is_kept, axis=1, kind="stable")  # kept ones first, their order unchanged
    return np.take_along_axis(np.take_along_axis(relevant & kept, order, 1), front, 1)
