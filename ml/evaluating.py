"""Measuring a model version on the images held out for testing, by the protocol of ml/protocol.py."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from django.conf import settings
from numpy.typing import NDArray

from ingest.models import Dataset, Image, ImageQuerySet, Split
from ingest.naming import current_modalities, current_organs
from ml.calibration import measure_calibration
from ml.models import Evaluation, ModelVersion
from ml.outputs import by_class
from ml.protocol import Described, Progress, measure_classification, measure_retrieval
from ml.training_images import images_to_learn_from, read_renditions

CHUNK = 64  # images read and described at a time


class EvaluationError(Exception):
    """An evaluation that cannot be done; its text is a sentence for the user."""


def evaluate(
    version: ModelVersion, datasets: Iterable[Dataset] = (), on_progress: Progress = lambda done, total: None
) -> Evaluation:
    """Measure and record. Raises EvaluationError when there is nothing to ask with or to search in."""
    from ml.serving import describer_for

    chosen = list(datasets)
    test_images = Image.objects.present().labelled().filter(split=Split.TEST)
    test_images = test_images.filter(dataset__in=chosen) if chosen else test_images
    numbers = [test_images.count(), images_to_learn_from(chosen).count()]
    steps = sum(numbers) + numbers[0]  # every image is described, every query ranks
    if not numbers[0]:
        raise EvaluationError("No labelled image is held out for testing (split test in the manifest).")
    if not numbers[1]:
        raise EvaluationError("There are no labelled images to search among besides those held out.")
    organs, modalities = names_of_labels(version, test_images | images_to_learn_from(chosen))

    def describe_all(images: ImageQuerySet, before: int) -> tuple[Described, NDArray[np.float32]]:
        return describe(images, version, organs, modalities, lambda done: on_progress(before + done, steps))

    queries, probabilities = describe_all(test_images, 0)
    collection, _ = describe_all(images_to_learn_from(chosen), numbers[0])
    metrics = measure_classification(queries, organs)
    temperature = describer_for(version.pk).calibration.organ_temperature
    metrics["calibration"] = measure_calibration(probabilities, queries.organ, temperature)
    metrics["retrieval"] = measure_retrieval(
        queries, collection, on_progress=lambda done, _: on_progress(sum(numbers) + done, steps)
    )
    evaluation = Evaluation.objects.create(
        model_version=version, queries=numbers[0], collection=numbers[1], metrics=metrics
    )
    evaluation.datasets.set(chosen)
    return evaluation


def names_of_labels(version: ModelVersion, images: ImageQuerySet) -> tuple[list[str], list[str]]:
    """Organs and modalities: the version's, in its order, then those that it has never seen."""
    labels = set(images.order_by().values_list("organ__name", "modality_id").distinct())
    organs, modalities = ({organ for organ, _ in labels}, {code for _, code in labels if code})
    known_organs, known_modalities = current_organs(version.organs), current_modalities(version.modalities)
    return (
        [*dict.fromkeys(known_organs), *sorted(organs - set(known_organs))],
        [*dict.fromkeys(known_modalities), *sorted(modalities - set(known_modalities))],
    )


def describe(
    images: ImageQuerySet,
    version: ModelVersion,
    organs: list[str],
    modalities: list[str],
    on_progress: Callable[[int], None],
) -> tuple[Described, NDArray[np.float32]]:
    """Also the organ probabilities, float32 (N, organs of the version, each once)."""
    from ml.serving import describer_for

    describer = describer_for(version.pk)
    known_organs, known_modalities = current_organs(version.organs), current_modalities(version.modalities)
    rows = list(images.order_by("pk").values_list("rendition", "organ__name", "modality_id", "group_key"))
    fc1 = np.empty((len(rows), 4096), np.float32)
    probabilities = np.empty((len(rows), len(set(known_organs))), np.float32)
    seen_modality = np.full(len(rows), -1, np.intp)
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        names = [row[0] for row in rows[part]]
        seen = describer.describe(read_renditions(names, Path(settings.DATA_DIR), lambda _: None))
        fc1[part] = seen.fc1
        _, probabilities[part] = by_class(known_organs, seen.organ_probabilities)
        if seen.modality_probabilities is not None:
            seen_modality[part] = by_class(known_modalities, seen.modality_probabilities)[1].argmax(1)
        on_progress(min(start + CHUNK, len(rows)))
    described = Described(
        features=fc1,
        seen_organ=probabilities.argmax(1),
        seen_modality=seen_modality,
        organ=np.array([organs.index(row[1]) for row in rows], np.intp),
        modality=np.array([modalities.index(row[2]) if row[2] else -1 for row in rows], np.intp),
        group=np.array([row[3] for row in rows], np.str_),
    )
    return described, probabilities
