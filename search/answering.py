"""Queries: from an uploaded file or an image of the collection to what the network sees in it."""

import hashlib
import logging
import time
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from django.contrib.auth.models import AnonymousUser, User
from django.db import transaction

from ingest.bell import ring
from ingest.models import Image
from ingest.pseudonyms import group_key_of
from ingest.reading import RejectedFile, read_image
from ingest.renditions import decode_rendition, network_rendition, preview, read_rendition
from ingest.storing import store_once
from ml.models import ModelVersion
from search.models import Query, QueryStatus

if TYPE_CHECKING:
    from ml.inference import Description

logger = logging.getLogger(__name__)

NO_MODEL = "No model is in service yet. The collection can be searched as soon as the first training is done."


def ask_with_file(content: bytes, user: User | AnonymousUser | None) -> Query:
    """Record a query for a file's bytes and ring for the inference worker."""
    digest = hashlib.sha256(content).hexdigest()
    name = f"queries/{digest[:2]}/{digest}"
    return ask(Query(upload=store_once(name, content, len(content)), sha256=digest, created_by=account(user)))


def ask_with_image(image: Image, user: User | AnonymousUser | None) -> Query:
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


def account(user: User | AnonymousUser | None) -> User | None:
    return user if isinstance(user, User) else None


def ask(query: Query) -> Query:
    with transaction.atomic():
        query.save()
        ring("search.answer_query", str(query.pk))
    return query


def answer(query: Query) -> None:
    """Read the query's image, describe it with the active version, and store what was seen.

    An answered or failed query is left as it is. What the user can mend is stored as a sentence.
    """
    if query.status != QueryStatus.WAITING:
        return
    version = ModelVersion.objects.active()
    if version is None:
        fail(query, NO_MODEL)
        return
    from ml.serving import describer_for

    try:
        started = time.perf_counter()
        rendition = query_rendition(query)
        query.reading_seconds = time.perf_counter() - started
        seen = describer_for(version.pk).describe(rendition[np.newaxis])
        query.network_seconds = time.perf_counter() - started - query.reading_seconds
    except RejectedFile as rejected:
        fail(query, rejected.sentence)
    except Exception:
        logger.exception("Query %s could not be answered.", query.pk)
        fail(query, "This image could not be searched with. The administrator finds the cause in the log.")
    else:
        store_description(query, version, seen)


def query_rendition(query: Query) -> np.ndarray:
    """uint8 (256, 256); also fills the query's preview and patient group from an uploaded file."""
    if query.image:
        return read_rendition(query.image.rendition)
    with query.upload.open() as file:
        image = read_image(file.read(), middle_frame_only=True)
    pixels = image.frames[0].pixels
    query.group_key = group_key_of(image, query.sha256)
    rendition = network_rendition(pixels)
    stem = f"queries/{query.sha256[:2]}/{query.sha256}"
    picture = preview(pixels)
    query.preview = store_once(f"{stem}.preview.jpg", picture, len(picture))
    query.rendition = store_once(f"{stem}.rendition.png", rendition, len(rendition))
    return decode_rendition(BytesIO(rendition))


def store_description(query: Query, version: ModelVersion, seen: "Description") -> None:
    query.model_version = version
    query.fc1, query.projection = seen.fc1[0], seen.projection[0]
    query.organ_probabilities = likeliest_first(version.organs, seen.organ_probabilities[0])
    if seen.modality_probabilities is not None:
        query.modality_probabilities = likeliest_first(version.modalities, seen.modality_probabilities[0])
    query.status = QueryStatus.ANSWERED
    query.save()


def likeliest_first(names: list[str], probabilities: np.ndarray) -> list[tuple[str, float]]:
    pairs = [(name, round(float(p), 6)) for name, p in zip(names, probabilities, strict=True)]
    return sorted(pairs, key=lambda pair: -pair[1])


def fail(query: Query, sentence: str) -> None:
    query.status, query.error = QueryStatus.FAILED, sentence
    query.save()
