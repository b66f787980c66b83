"""Images that are nearly the same to the network, for curators to look at: re-encoded, cropped, annotated.

Every new embedding is compared with its nearest neighbours, as a search finds them; never all with all. What
counts as nearly the same is fitted for each model version (search/fitting.py).
"""

import time

import numpy as np
from django.db.models import Q

from ingest.duplicates import pair
from ingest.models import Image, Likeness
from ml.models import ModelVersion
from search.models import Embedding, VersionIndex, as_array
from search.ranking import EXACT_SCAN_ROWS, projected_distance

NEIGHBOURS = 8  # looked at, of each image
CHUNK = 50  # embeddings
WORK_SECONDS = 20.0  # then to the back of the queue


def find_near_duplicates(seconds: float = WORK_SECONDS) -> bool:
    """Compare embeddings of the active version that were not compared yet; True while there are more.

    Images of one file or one series are left out: neighbouring slices are alike and no duplicates.
    """
    started = time.monotonic()
    version = ModelVersion.objects.active()
    index = VersionIndex.objects.filter(model_version=version).first()
    if version is None or index is None or not index.near_duplicate:
        return False
    if is_large(index) and not index.has_ivfflat:
        return False  # it is being built
    while time.monotonic() - started < seconds:
        newer = Embedding.objects.for_version(version).filter(pk__gt=index.duplicates_up_to)
        embeddings = list(newer.select_related("image").order_by("pk")[:CHUNK])
        if not embeddings:
            return False
        for embedding in embeddings:
            for other in nearly_same_as(embedding, index):
                pair(embedding.image_id, other, Likeness.NEAR)
        index.duplicates_up_to = embeddings[-1].pk
        index.save(update_fields=["duplicates_up_to"])
    return True


def is_large(index: VersionIndex) -> bool:
    """Whether the projections are too many to be scanned for each image."""
    return index.images > EXACT_SCAN_ROWS


def nearly_same_as(embedding: Embedding, index: VersionIndex) -> list[int]:
    """Ids of images of other files and other series, of the nearest ones."""
    image = embedding.image
    own = Q(sha256=image.sha256)
    if image.series_key:
        own |= Q(series_key=image.series_key)
    described = Embedding.objects.for_version(embedding.model_version_id)
    ids = list(Image.objects.filter(own).values_list("pk", flat=True))
    found = described.exclude(pk__in=list(described.filter(image__in=ids).values_list("pk", flat=True)))
    point = embedding.as_point()
    if is_large(index):
        nearest = found.nearest_to(point, NEIGHBOURS, kept=index.images, indexed=index.indexed).ids
    else:
        nearest = list(found.order_by(projected_distance(point)).values_list("pk", flat=True)[:NEIGHBOURS])
    rows = found.filter(pk__in=nearest).values_list("image", "projection")
    projection = as_array(embedding.projection)
    return [
        other
        for other, its in rows
        if np.linalg.norm(as_array(its) - projection) < (index.near_duplicate or 0.0)
    ]
