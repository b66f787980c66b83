"""Queries: from files, images of the collection or other queries to what the network sees in them."""

import hashlib
import logging
import time
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from django.contrib.auth.models import AnonymousUser, User
from django.db import transaction
from numpy.typing import NDArray

from ingest.bell import ring
from ingest.models import Image
from ingest.pseudonyms import group_key_of
from ingest.reading import RejectedFile, read_image
from ingest.renditions import decode_rendition, network_rendition, preview, read_rendition
from ingest.storing import store_once
from ml.models import ModelVersion
from search import refining
from search.filtering import images_searched
from search.models import Embedding, Mark, Query, QueryStatus, VersionIndex, as_array
from search.options import Collapse, SearchOptions

if TYPE_CHECKING:
    from ml.inference import ImageDescriber

logger = logging.getLogger(__name__)

NO_MODEL = "No model is in service yet. The collection can be searched as soon as the first training is done."
LEAST_REGION_PIXELS = 16  # a side
MOST_IMAGES = 20  # of one query


class RefinementError(Exception):
    """What cannot be made into a query; its text is a sentence for the user."""


Asker = User | AnonymousUser | None


def ask_with_file(content: bytes, user: Asker) -> Query:
    """Record a query for a file's bytes and ring for the inference worker."""
    return ask(query_of_file(content, user))


def query_of_file(content: bytes, user: Asker) -> Query:
    digest = hashlib.sha256(content).hexdigest()
    name = f"queries/{digest[:2]}/{digest}"
    return Query(upload=store_once(name, content, len(content)), sha256=digest, created_by=account(user))


def ask_with_image(image: Image, user: Asker) -> Query:
    """Record a query for an image of the collection."""
    return ask(
        Query(
            image=image,
            sha256=image.sha256,
            group_key=image.group_key,
            preview=image.preview.name,
            created_by=account(user),
        )
    )


def ask_with_several(contents: Sequence[bytes], user: Asker, *, beside: Query | None = None) -> Query:
    """Record one query for several files, beside what another query was made of, if one is given.

    A single file is an ordinary query. Raises RefinementError for more images than one query takes.
    """
    if len(contents) == 1 and beside is None:
        return ask_with_file(contents[0], user)
    origins = beside.origins() if beside else []
    if len(origins) + len(contents) > MOST_IMAGES:
        raise RefinementError(f"One search takes {MOST_IMAGES} images at most.")
    with transaction.atomic():
        parts = [ask(query_of_file(content, user)) for content in contents]
        whole = Query.objects.create(created_by=account(user))
        whole.parts.set([*origins, *parts])
        return ask(whole)


def ask_with_region(query: Query, region: Sequence[float], user: Asker) -> Query:
    """Record a query for a rectangle of another one's picture: left, top, right, bottom, each 0 to 1.

    Raises RefinementError.
    """
    left, top, right, bottom = region
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise RefinementError("Draw a rectangle inside the picture.")
    if query.parts.exists() or query.is_refined:
        raise RefinementError("Choose a region of a single image.")
    return ask(Query(parent=query, region=[round(edge, 4) for edge in region], created_by=account(user)))


def ask_refined(query: Query, user: Asker) -> Query:
    """Record a query that is moved by the person's marks on this one's results. Raises RefinementError."""
    marks = Mark.objects.filter(query=query, created_by=account(user))
    if not marks:
        raise RefinementError("Mark at least one result as relevant or not relevant first.")
    with transaction.atomic():
        child = Query.objects.create(
            parent=query,
            created_by=account(user),
            sha256=query.sha256,
            group_key=query.group_key,
            preview=query.preview.name,
        )
        child.relevant.set([mark.image_id for mark in marks if mark.is_relevant])
        child.irrelevant.set([mark.image_id for mark in marks if not mark.is_relevant])
        return ask(child)


def account(user: Asker) -> User | None:
    return user if isinstance(user, User) else None


def ask(query: Query) -> Query:
    with transaction.atomic():
        query.save()
        ring("search.answer_query", str(query.pk))
    return query


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
    parts = list(query.parts.all()) or [query]
    renditions = np.stack([query_rendition(part) for part in parts])
    query.reading_seconds = time.perf_counter() - started
    describer = describer_for(version.pk)
    seen = describer.describe(renditions)
    query.network_seconds = time.perf_counter() - started - query.reading_seconds
    query.organ_probabilities = likeliest_first(version.organs, seen.organ_probabilities.mean(axis=0))
    if seen.modality_probabilities is not None:
        query.modality_probabilities = likeliest_first(
            version.modalities, seen.modality_probabilities.mean(axis=0)
        )
    if len(parts) == 1:
        query.fc1, query.projection = seen.fc1[0], seen.projection[0]
    else:
        store_fc1(query, refining.together(seen.fc1), describer)
        query.preview = parts[0].preview.name
    query.energy = float(seen.energy.min())


def store_fc1(query: Query, fc1: NDArray[np.float32], describer: "ImageDescriber") -> None:
    query.fc1, query.projection = fc1, describer.project(fc1[np.newaxis])[0]


def refine(query: Query, version: ModelVersion) -> None:
    from ml.serving import describer_for

    parent = query.parent
    assert parent is not None  # what is refined has one
    started = time.perf_counter()
    described = Embedding.objects.for_version(version).select_related("organ")
    relevant = list(described.filter(image__in=query.relevant.all()))
    irrelevant = list(described.filter(image__in=query.irrelevant.all()))
    fc1 = refining.refined(parent.as_point().fc1, stacked(relevant), stacked(irrelevant))
    store_fc1(query, fc1, describer_for(version.pk))
    organs = refining.probabilities_after(
        dict(parent.organ_probabilities),
        [embedding.organ.name for embedding in relevant],
        [embedding.organ.name for embedding in irrelevant],
    )
    query.organ_probabilities = likeliest_first(list(organs), np.array(list(organs.values())))
    query.modality_probabilities = parent.modality_probabilities
    query.reading_seconds, query.network_seconds = 0.0, time.perf_counter() - started
    query.energy = parent.energy


def stacked(embeddings: list[Embedding]) -> NDArray[np.float32]:
    """float32 (N, 4096), N >= 0."""
    return np.array([as_array(embedding.fc1) for embedding in embeddings], np.float32).reshape(-1, 4096)


def look_around(query: Query, version: ModelVersion) -> None:
    """What its results are among, how far the nearest of them is, whether the query is unlike them all."""
    from ml.serving import describer_for

    query.see_newest()
    index = VersionIndex.objects.filter(model_version=version).first() or VersionIndex(model_version=version)
    images = images_searched(query, SearchOptions(collapse=Collapse.NONE))
    nearest = images.nearest_to(query.as_point(), 1, kept=index.images, has_index=index.has_hnsw)
    query.nearest_distance = nearest.distances[0] if nearest.distances else None
    query.is_unlike = describer_for(version.pk).calibration.is_unlike(query.energy, query.nearest_distance)


def query_rendition(query: Query) -> NDArray[np.uint8]:
    """uint8 (256, 256); also stores the preview and patient group of an uploaded file or a region."""
    if query.region is not None:
        return region_rendition(query)
    if query.image:
        return read_rendition(query.image.rendition)
    if query.rendition:
        return read_rendition(query.rendition)
    with query.upload.open() as file:
        image = read_image(file.read(), middle_frame_only=True)
    query.group_key = group_key_of(image, query.sha256)
    return store_pictures(query, image.frames[0].pixels, f"queries/{query.sha256[:2]}/{query.sha256}")


def region_rendition(query: Query) -> NDArray[np.uint8]:
    cut = pixels_of(query)
    if min(cut.shape) < LEAST_REGION_PIXELS:
        raise RejectedFile(
            "region_too_small",
            f"The region is too small: {cut.shape[1]} × {cut.shape[0]} pixels. "
            f"At least {LEAST_REGION_PIXELS} a side are needed.",
        )
    return store_pictures(query, np.ascontiguousarray(cut), f"queries/regions/{query.pk}")


def pixels_of(query: Query) -> NDArray[np.uint8]:
    """uint8 (rows, columns): the whole picture in its own size, for a region its part of it."""
    if query.region is not None and query.parent is not None:
        pixels = pixels_of(query.parent)
        rows, columns = pixels.shape
        left, top, right, bottom = query.region
        return pixels[
            round(top * rows) : round(bottom * rows), round(left * columns) : round(right * columns)
        ]
    if query.image:
        with query.image.original.open() as file:
            return read_image(file.read(), frame=query.image.frame_number).frames[0].pixels
    with query.upload.open() as file:
        return read_image(file.read(), middle_frame_only=True).frames[0].pixels


def store_pictures(query: Query, pixels: NDArray[np.uint8], stem: str) -> NDArray[np.uint8]:
    """Returns the rendition, uint8 (256, 256)."""
    rendition, picture = network_rendition(pixels), preview(pixels)
    query.preview = store_once(f"{stem}.preview.jpg", picture, len(picture))
    query.rendition = store_once(f"{stem}.rendition.png", rendition, len(rendition))
    query.save()
    return decode_rendition(BytesIO(rendition))


def likeliest_first(names: list[str], probabilities: NDArray[np.floating]) -> list[tuple[str, float]]:
    pairs = [(name, round(float(p), 6)) for name, p in zip(names, probabilities, strict=True)]
    return sorted(pairs, key=lambda pair: -pair[1])


def fail(query: Query, sentence: str) -> None:
    query.status, query.error = QueryStatus.FAILED, sentence
    query.save()
