"""How well searches find, looked at while they go on: stored images are searched with, as people search, and
by an exact scan on FC1.
"""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from django.db import OperationalError, connection, transaction
from django.db.models import Max, Min, Value
from pgvector.django import L2Distance
from psycopg import errors

from ml.locks import locked
from ml.models import ModelVersion
from search.filtering import own_embeddings
from search.models import Embedding, Query, RecallProbe, VersionIndex
from search.ranking import EmbeddingQuerySet, Point, as_text

NEAREST = 20
QUERIES = 50  # of one probe, if there is time; what is told of the recall rests on as many, too
MOST_SECONDS = 30.0  # of one probe; with large collections several make up what is told
THOROUGH_SECONDS = 600.0  # after an index was rebuilt
LEAST_RECALL = 0.98  # below it everybody who searches is told
PROBING = (17_03, 3)  # key of an advisory lock


@dataclass(frozen=True)
class Look:
    """One stored image searched with, twice."""

    nearest: int  # images there were to be found, NEAREST at most
    found: int  # of these, by the search
    seconds: float
    exact_seconds: float


def probe_active_version() -> RecallProbe | None:
    """Probe it, unless since the last time nothing came in and nobody searched."""
    version = ModelVersion.objects.active()
    if version is None or not is_due(version):
        return None
    return probe(version)


def is_due(version: ModelVersion) -> bool:
    last = RecallProbe.objects.filter(model_version=version).first()
    if last is None or Query.objects.filter(model_version=version, created_at__gt=last.created_at).exists():
        return True
    return Embedding.objects.for_version(version).count() != last.images


def probe(version: ModelVersion, *, most_seconds: float = MOST_SECONDS) -> RecallProbe | None:
    """Look and record. None: nothing was there to be found or not in time, or another worker is at it."""
    with locked(PROBING) as mine:
        if not mine:
            return None
        images = Embedding.objects.for_version(version).count()
        looks = list(looks_at(version, images, time.monotonic() + most_seconds))
        if not looks:
            return None
        milliseconds = [1000 * look.seconds for look in looks]
        return RecallProbe.objects.create(
            model_version=version,
            queries=len(looks),
            images=images,
            recall_at_20=sum(look.found for look in looks) / sum(look.nearest for look in looks),
            median_ms=float(np.median(milliseconds)),
            p95_ms=float(np.percentile(milliseconds, 95)),
            exact_median_ms=1000 * float(np.median([look.exact_seconds for look in looks])),
        )


def looks_at(version: ModelVersion, images: int, deadline: float) -> Iterator[Look]:
    index = VersionIndex.objects.filter(model_version=version).first() or VersionIndex(model_version=version)
    for embedding in drawn_at_random(version, QUERIES):
        found, own = others_of(embedding)
        started = time.perf_counter()
        ranking = found.nearest_to(embedding.as_point(), NEAREST, kept=images - own, indexed=index.indexed)
        seconds = time.perf_counter() - started
        started = time.perf_counter()
        exact = exact_distances(found, embedding.as_point(), deadline - time.monotonic())
        if exact is None:
            return
        if exact:
            # Of images equally far away either will do.
            as_near = sum(distance <= exact[-1] for distance in ranking.distances)
            yield Look(len(exact), as_near, seconds, time.perf_counter() - started)


def drawn_at_random(version: ModelVersion, number: int) -> Iterator[Embedding]:
    """By their ids: without sorting, or even counting, them all. None is drawn twice."""
    described = Embedding.objects.for_version(version)
    ends = described.aggregate(first=Min("pk"), last=Max("pk"))
    seen: set[int] = set()
    for _ in range(number if ends["first"] is not None else 0):
        chosen = random.randint(ends["first"], ends["last"])
        embedding = described.filter(pk__gte=chosen).select_related("image").order_by("pk").first()
        if embedding and embedding.pk not in seen:
            seen.add(embedding.pk)
            yield embedding


def others_of(embedding: Embedding) -> tuple[EmbeddingQuerySet, int]:
    """What a search with the image is among, and how many images are left out of it as its own."""
    image = embedding.image
    query = Query(
        image=image,
        sha256=image.sha256,
        group_key=image.group_key,
        model_version_id=embedding.model_version_id,
    )
    own = own_embeddings(query)
    found: EmbeddingQuerySet = Embedding.objects.for_version(embedding.model_version_id)
    return found.exclude(pk__in=own), len(own)


def exact_distances(found: EmbeddingQuerySet, point: Point, most_seconds: float) -> list[float] | None:
    """Of the nearest on FC1, by a scan of them all on one core; None where that takes too long."""
    if most_seconds <= 0:
        return None
    nearest = (
        found.annotate(distance=L2Distance("fc1", Value(as_text(point.fc1))))
        .order_by("distance")
        .values_list("distance", flat=True)
    )
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(
                "SELECT set_config('max_parallel_workers_per_gather', '0', true),"
                " set_config('statement_timeout', %s, true)",
                [str(int(1000 * most_seconds) + 1)],
            )
            return list(nearest[:NEAREST])
    except OperationalError as error:
        if isinstance(error.__cause__, errors.QueryCanceled):
            return None
        raise


def recall_of(version: ModelVersion) -> float | None:
    """Recall@20 by the latest probes that make up QUERIES queries; None before the first."""
    found = queries = 0.0
    for last in RecallProbe.objects.filter(model_version=version)[:QUERIES]:
        found += last.recall_at_20 * last.queries
        queries += last.queries
        if queries >= QUERIES:
            break
    return found / queries if queries else None
