"""Queries: from files, images of the collection or other queries to what the network sees in them."""

import hashlib
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from django.contrib.auth.models import AnonymousUser, User
from django.db import transaction
from numpy.typing import NDArray

from ingest.bell import ring
from ingest.models import Image
from ingest.reading import RejectedFile
from ingest.storing import store_once
from ml.models import ModelVersion
from search import refining
from search.filtering import images_searched
from search.models import Embedding, Mark, Query, QueryStatus, VersionIndex, as_array
from search.options import Collapse, SearchOptions
from search.pictures import query_rendition, size_as_shown

if TYPE_CHECKING:
    from ml.inference import ImageDescriber

logger = logging.getLogger(__name__)

NO_MODEL = "No model is in service yet. The collection can be searched as soon as the first training is done."
NONE_READABLE = "None of these images can be searched with."
LEAST_REGION_PIXELS = 16  # a side, of the picture as it is shown
MOST_IMAGES = 20  # of one query
TOO_MANY = f"One search takes {MOST_IMAGES} images at most."


class RefinementError(Exception):
    """What cannot be made into a query; its text is a sentence for the user."""


Asker = User | AnonymousUser | None


def ask_with_file(content: bytes, user: Asker) -> Query:
    """Record a query for a file's bytes and ring for the inference worker."""
    return ask(query_of_file(content, user))


def query_of_file(content: bytes, user: Asker, file_name: str = "") -> Query:
    digest = hashlib.sha256(content).hexdigest()
    name = f"queries/{digest[:2]}/{digest}"
    upload = store_once(name, content, len(content))
    return Query(upload=upload, sha256=digest, created_by=account(user), file_name=file_name)


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


def ask_with_several(
    contents: Sequence[bytes],
    user: Asker,
    *,
    names: Sequence[str] = (),
    refused: Sequence[tuple[str, str]] = (),
    beside: Query | None = None,
) -> Query:
    """Record one query for several files, beside the pictures of another query, if one is given.

    A single file is an ordinary query. names: what the uploader calls the files, to be told which of them
    could not be read. refused: name and reason of files that could not even be taken; the page says so.
    Raises RefinementError for more images than one query takes.
    """
    if len(contents) == 1 and beside is None and not refused:
        return ask_with_file(contents[0], user)
    others = [one for one in beside.pictures() if one.status != QueryStatus.FAILED] if beside else []
    if len(others) + len(contents) + len(refused) > MOST_IMAGES:
        raise RefinementError(TOO_MANY)
    with transaction.atomic():
        parts = [
            query_of_file(content, user, names[number] if number < len(names) else "")
            for number, content in enumerate(contents)
        ]
        failed = [
            Query(created_by=account(user), file_name=name, status=QueryStatus.FAILED, error=reason)
            for name, reason in refused
        ]
        for part in [*parts, *failed]:
            part.save()
        whole = Query.objects.create(created_by=account(user))
        whole.parts.set([*others, *parts, *failed])
        ask(whole)
        for part in parts:  # each has a page of its own, but the whole is what somebody waits for
            ring("search.answer_query", str(part.pk))
    return whole


def ask_with_region(query: Query, region: Sequence[float], user: Asker) -> Query:
    """Record a query for a rectangle of another one's picture: left, top, right, bottom, each 0 to 1.

    Raises RefinementError.
    """
    left, top, right, bottom = region
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise RefinementError("Draw a rectangle inside the picture.")
    if not query.is_plain:
        raise RefinementError("Choose a part of a single image.")
    region = [round(edge, 4) for edge in region]
    try:
        rows, columns = size_as_shown(query, region)
    except (OSError, ValueError):  # the file is gone, or there has never been one
        raise RefinementError("This search has no picture to choose a part of.") from None
    if min(rows, columns) < LEAST_REGION_PIXELS:
        raise RefinementError(
            f"This part is too small: {columns} × {rows} pixels. "
            f"At least {LEAST_REGION_PIXELS} a side are needed."
        )
    return ask(Query(parent=query, region=region, created_by=account(user)))


def ask_refined(query: Query, user: Asker) -> Query:
    """Record a query that is moved by the person's marks on this one's results. Raises RefinementError.

    The marks are copied to the new query: there the person adds to them, or takes some back, and refines
    again. `query` keeps its own: undoing is going back to it. Marks are a person's own; who refines what a
    colleague has refined begins again from the original query.
    """
    if query.status != QueryStatus.ANSWERED or query.has_lost_embeddings():
        raise RefinementError("This search has no results that it could be refined by.")
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
        Mark.objects.bulk_create(
            Mark(
                query=child,
                image_id=mark.image_id,
                created_by=mark.created_by,
                is_relevant=mark.is_relevant,
            )
            for mark in marks
        )
        return ask(child)


def ask_again(query: Query, user: Asker) -> Query:
    """Record a query about the same pictures, whole or parts of them, for the version in service now."""
    original = query.original
    again = Query(
        image=original.image,
        upload=original.upload.name,
        rendition=original.rendition.name,
        preview=original.preview.name,
        sha256=original.sha256,
        group_key=original.group_key,
        parent=original.parent,
        region=original.region,
        created_by=account(user),
    )
    with transaction.atomic():
        again.save()
        again.parts.set(original.parts.all())
        return ask(again)


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
    parts = readable_pictures(query)
    query.reading_seconds = time.perf_counter() - started
    describer = describer_for(version.pk)
    seen = describer.describe(np.stack([rendition for _, rendition in parts]))
    query.network_seconds = time.perf_counter() - started - query.reading_seconds
    query.organ_probabilities = likeliest_first(version.organs, seen.organ_probabilities.mean(axis=0))
    if seen.modality_probabilities is not None:
        query.modality_probabilities = likeliest_first(
            version.modalities, seen.modality_probabilities.mean(axis=0)
        )
    first, _ = parts[0]
    if first is query:
        query.fc1, query.projection = seen.fc1[0], seen.projection[0]
    else:
        store_fc1(query, refining.together(seen.fc1), describer)
        query.preview = first.preview.name
    query.energy = float(seen.energy.min())


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
    nearest = images.nearest_to(query.as_point(), 1, kept=index.images, has_index=index.has_hnsw)
    query.nearest_distance = nearest.distances[0] if nearest.distances else None
    query.is_unlike = describer_for(version.pk).calibration.is_unlike(query.energy, query.nearest_distance)


def likeliest_first(names: list[str], probabilities: NDArray[np.floating]) -> list[tuple[str, float]]:
    pairs = [(name, round(float(p), 6)) for name, p in zip(names, probabilities, strict=True)]
    return sorted(pairs, key=lambda pair: -pair[1])


def fail(query: Query, sentence: str) -> None:
    query.status, query.error = QueryStatus.FAILED, sentence
    query.save()
