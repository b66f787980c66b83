"""Answering queries: from their pictures, or the marks that refine them, to what the network sees."""

import logging
import time
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ingest.naming import current_modalities, current_organs
from ingest.reading import RejectedFile
from ml.models import ModelVersion
from ml.outputs import by_class
from search import refining
from search.filtering import images_searched
from search.models import Embedding, Query, QueryStatus, VersionIndex, as_array
from search.options import Collapse, SearchOptions
from search.pictures import query_rendition

if TYPE_CHECKING:
    from ml.inference import ImageDescriber

logger = logging.getLogger(__name__)

NO_MODEL = "No model is in service yet. The collection can be searched as soon as the first training is done."
NONE_READABLE = "None of these images can be searched with."


def answer(query: Query) -> None:
    """Read the query's images, describe them with the active version, and store what was seen.

    An answered or failed query is left as it is. What the user can mend is stored as a sentence.
    """
    if query.status != QueryStatus.WAITING:
        return
    # Marks are about what one version found: a refinement is answered by it.
    version = (
        query.parent.model_version if query.parent and query.is_refined else ModelVersion.objects.active()
    )
    if version is None:
        fail(query, NO_MODEL)
        return
    try:
        query.model_version = version
        if query.is_refined:
            refine(query, version)
        else:
            describe(query, version)
        look_around(query, version)
    except RejectedFile as rejected:
        fail(query, rejected.sentence)
    except Exception:
        logger.exception("Query %s could not be answered.", query.pk)
        fail(query, "This image could not be searched with. The administrator finds the cause in the log.")
    else:
        query.status = QueryStatus.ANSWERED
        query.save()


def describe(query: Query, version: ModelVersion) -> None:
    """Fill what the network sees in the query's picture, or in its several ones together."""
    from ml.serving import describer_for

    started = time.perf_counter()
    parts = readable_pictures(query)
    query.reading_seconds = time.perf_counter() - started
    describer = describer_for(version.pk)
    seen = describer.describe(np.stack([rendition for _, rendition in parts]))
    query.network_seconds = time.perf_counter() - started - query.reading_seconds
    known = [same_modality(part.modality, version) for part, _ in parts]
    each = zip(seen.organ_probabilities, known, strict=True)
    seen_organs = np.stack([describer.knowing_modality(organs, codes) for organs, codes in each])
    organs, probabilities = by_class(current_organs(version.organs), seen_organs)
    query.organ_probabilities = likeliest_first(organs, probabilities.mean(axis=0))
    if seen.modality_probabilities is not None:
        codes, probabilities = by_class(current_modalities(version.modalities), seen.modality_probabilities)
        query.modality_probabilities = likeliest_first(codes, probabilities.mean(axis=0))
    first, _ = parts[0]
    if first is query:
        query.fc1, query.projection = seen.fc1[0], seen.projection[0]
    else:
        store_fc1(query, refining.together(seen.fc1), describer)
        query.preview = first.preview.name
    query.energy = float(seen.energy.min())


def same_modality(code: str, version: ModelVersion) -> list[str]:
    """The modalities that the version learnt in and that are called this now; none where nothing is known."""
    if not code:
        return []
    (now, *current) = current_modalities([code, *version.modalities])
    return [learnt for learnt, name in zip(version.modalities, current, strict=True) if name == now]


def readable_pictures(query: Query) -> list[tuple[Query, NDArray[np.uint8]]]:
    """The query, or those of its parts that can be read, each with its rendition; the others fail alone.

    Raises RejectedFile when none can be read.
    """
    pictures = query.pictures()
    if pictures == [query]:
        return [(query, query_rendition(query))]
    readable = []
    for part in pictures:
        if part.status == QueryStatus.FAILED:
            continue
        try:
            readable.append((part, query_rendition(part)))
        except RejectedFile as rejected:
            fail(part, rejected.sentence)
    if not readable:
        raise RejectedFile("none_readable", NONE_READABLE)
    return readable


def store_fc1(query: Query, fc1: NDArray[np.float32], describer: "ImageDescriber") -> None:
    query.fc1, query.projection = fc1, describer.project(fc1[np.newaxis])[0]


def refine(query: Query, version: ModelVersion) -> None:
    """Fill in what the original query becomes by all the marks, those of earlier rounds among them.

    Each round begins at the original query, never at what the last one made of it: an image that stays marked
    counts once, a mark that is taken back counts no more, and the order of the rounds makes no difference.
    """
    from ml.serving import describer_for

    original = query.original
    started = time.perf_counter()
    described = Embedding.objects.for_version(version).select_related("organ")
    relevant = list(described.filter(image__in=query.relevant.all()))
    irrelevant = list(described.filter(image__in=query.irrelevant.all()))
    fc1 = refining.refined(original.as_point().fc1, stacked(relevant), stacked(irrelevant))
    store_fc1(query, fc1, describer_for(version.pk))
    organs = refining.probabilities_after(
        dict(original.organ_probabilities),
        [embedding.organ.name for embedding in relevant],
        [embedding.organ.name for embedding in irrelevant],
    )
    query.organ_probabilities = likeliest_first(list(organs), np.array(list(organs.values())))
    query.modality_probabilities = original.modality_probabilities
    query.reading_seconds, query.network_seconds = 0.0, time.perf_counter() - started
    query.energy = original.energy


def stacked(embeddings: list[Embedding]) -> NDArray[np.float32]:
    """float32 (N, 4096), N >= 0."""
    return np.array([as_array(embedding.fc1) for embedding in embeddings], np.float32).reshape(-1, 4096)


def look_around(query: Query, version: ModelVersion) -> None:
    """What its results are among, how far the nearest of them is, whether the query is unlike them all."""
    from ml.serving import describer_for

    query.see_newest()
    index = VersionIndex.objects.filter(model_version=version).first() or VersionIndex(model_version=version)
    images = images_searched(query, SearchOptions(collapse=Collapse.NONE))
    nearest = images.nearest_to(query.as_point(), 1, kept=index.images, indexed=index.indexed)
    query.nearest_distance = nearest.distances[0] if nearest.distances else None
    query.is_unlike = describer_for(version.pk).calibration.is_unlike(query.energy, query.nearest_distance)


def likeliest_first(names: list[str], probabilities: NDArray[np.floating]) -> list[tuple[str, float]]:
    pairs = [(name, round(float(p), 6)) for name, p in zip(names, probabilities, strict=True)]
    return sorted(pairs, key=lambda pair: -pair[1])


def fail(query: Query, sentence: str) -> None:
    query.status, query.error = QueryStatus.FAILED, sentence
    query.save()
