"""Images that are nearly the same, for curators to look at: re-encoded, cropped a little, annotated.

The network proposes: every new embedding's nearest neighbours, as a search finds them; never all with all.
The pictures decide (search/same_picture.py): no distance tells a re-encoded image from another patient's.
"""

import logging
import time

import numpy as np
from django.db.models import Q
from numpy.typing import NDArray
from PIL import UnidentifiedImageError

from ingest.duplicates import pair
from ingest.models import Image, Likeness
from ingest.renditions import read_rendition
from ml.models import ModelVersion
from search.models import Embedding, VersionIndex
from search.ranking import EXACT_SCAN_ROWS, projected_distance
from search.same_picture import shows_the_same

logger = logging.getLogger(__name__)

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
    if version is None or index is None:
        return False
    if is_large(index) and not index.has_ivfflat:
        return False  # it is being built
    while time.monotonic() - started < seconds:
        newer = Embedding.objects.for_version(version).filter(pk__gt=index.duplicates_up_to)
        embeddings = list(newer.select_related("image").order_by("pk")[:CHUNK])
        if not embeddings:
            return False
        for embedding in embeddings:
            if other := oldest_nearly_same(embedding, index):
                pair(embedding.image_id, other.pk, Likeness.NEAR)
        index.duplicates_up_to = embeddings[-1].pk
        index.save(update_fields=["duplicates_up_to"])
    return True


def is_large(index: VersionIndex) -> bool:
    """Whether the projections are too many to be scanned for each image."""
    return index.images > EXACT_SCAN_ROWS


def oldest_nearly_same(embedding: Embedding, index: VersionIndex) -> Image | None:
    """Of the nearest ones the oldest that shows the same picture, of other files, series and other pixels.

    The oldest alone, and none of the same pixels: those are pairs already (ingest/duplicates.py).
    """
    image = embedding.image
    own = Q(sha256=image.sha256)
    if image.pixel_hash:
        own |= Q(pixel_hash=image.pixel_hash)
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
    shown = rendition_of(image)
    for other in Image.objects.filter(embeddings__in=nearest).order_by("pk"):
        its = rendition_of(other)
        if shown is not None and its is not None and shows_the_same(shown, its):
            return other
    return None


def rendition_of(image: Image) -> NDArray[np.uint8] | None:
    """uint8 (256, 256); None where the file is missing or damaged, which is check_collection's to tell."""
    try:
        return read_rendition(image.rendition)
    except (FileNotFoundError, UnidentifiedImageError) as error:
        logger.warning("Image %s cannot be compared: %s", image.pk, type(error).__name__)
        return None
