"""Why an image is like a query: maps on both pictures, made once by the inference worker and kept."""

import logging
from io import BytesIO

import numpy as np
from django.db import transaction
from django.db.models import QuerySet
from numpy.typing import NDArray
from PIL import Image as PillowImage

from ingest.bell import ring
from ingest.models import Image
from ingest.reading import RejectedFile
from ingest.renditions import read_rendition
from ingest.storing import store_once
from search.models import Embedding, Explanation, Query, QueryStatus
from search.pictures import query_rendition

logger = logging.getLogger(__name__)

COLOUR = (255, 176, 0)  # of the map; its strength is its opacity, which every eye can tell
STRONGEST = 0.8  # opacity


def results_named(query: Query, image_id: int) -> QuerySet[Embedding]:
    """What the query's version sees in the image: one row, or none where it is no result of the query."""
    described = Embedding.objects.filter(model_version=query.model_version_id, image=image_id)
    return described.select_related("image__organ", "image__dataset", "model_version")


def ask_why(query: Query, image: Image) -> Explanation:
    """The explanation there is, or a new one that the inference worker is rung for."""
    with transaction.atomic():
        explanation, is_new = Explanation.objects.get_or_create(query=query, image=image)
        if is_new:
            ring("search.explain", explanation.pk)
    return explanation


def explain(explanation: Explanation) -> None:
    """Make the maps. Whatever goes wrong is kept as a sentence."""
    if explanation.status != QueryStatus.WAITING:
        return
    try:
        draw_maps(explanation)
        explanation.status = QueryStatus.ANSWERED
    except (RejectedFile, OSError):
        fail(explanation, "One of the two pictures is no longer there.")
    except Exception:
        logger.exception("Explanation %s could not be made.", explanation.pk)
        fail(explanation, "This could not be explained. The administrator finds the cause in the log.")
    explanation.save()


def draw_maps(explanation: Explanation) -> None:
    from ml.attribution import likeness
    from ml.serving import describer_for

    query = explanation.query
    assert query.model_version_id is not None  # only of an answered query
    describer = describer_for(query.model_version_id)
    asked = query_rendition(explained_picture(query))
    found = likeness(
        lambda renditions, framed_as: describer.describe(renditions, framed_as).fc1,
        asked,
        read_rendition(explanation.image.rendition),
    )
    strongest = max(float(found.first.max()), float(found.second.max()), 1e-6)
    explanation.similarity = found.similarity
    for field, drawn in (("query_map", found.first), ("image_map", found.second)):
        content = as_png(drawn / strongest)
        name = store_once(f"explanations/{explanation.pk}/{field}.png", content, len(content))
        setattr(explanation, field, name)


def explained_picture(query: Query) -> Query:
    """Of a query about several pictures, the first that could be read."""
    return next((one for one in query.pictures() if one.status != QueryStatus.FAILED), query)


def as_png(strength: NDArray[np.float32]) -> bytes:
    """A picture to lay over another, from float32 (rows, columns), 0 to 1."""
    picture = np.empty((*strength.shape, 4), np.uint8)
    picture[..., :3] = COLOUR
    picture[..., 3] = (255 * STRONGEST * strength).astype(np.uint8)
    buffer = BytesIO()
    PillowImage.fromarray(picture, "RGBA").save(buffer, "PNG")
    return buffer.getvalue()


def forget_maps(instance: Explanation, **_: object) -> None:
    """Of an explanation that is deleted, with its query or its image."""
    for field in (instance.query_map, instance.image_map):
        if field:
            field.delete(save=False)


def fail(explanation: Explanation, sentence: str) -> None:
    explanation.status, explanation.error = QueryStatus.FAILED, sentence
