"""Describing the collection's images for every model version in service."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from django.db import transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone

from ingest.bell import ring
from ingest.models import Image, Modality, OrganClass
from ingest.renditions import read_rendition
from ml.models import ModelVersion, VersionStatus
from search.models import Embedding

BATCH_SIZE = 32


def index_imported_images(image_ids: Sequence[int], **_: Any) -> None:
    """Answer to `images_imported`: ring for the inference worker."""
    ring("search.index_images")


def images_missing(version: ModelVersion) -> Any:
    """Images that `version` has not described yet."""
    described = Embedding.objects.filter(model_version=version, image=OuterRef("pk"))
    return Image.objects.filter(~Exists(described))


def index_next_batch() -> bool:
    """Describe up to BATCH_SIZE images per version in service; True while there may be more.

    The images are locked while they are described: workers share the work, and a killed one loses nothing.
    A version that has described them all and waits to serve is switched to.
    """
    more = False
    for version in ModelVersion.objects.in_service():
        with transaction.atomic():
            images = list(
                images_missing(version).select_for_update(skip_locked=True, no_key=True, of=("self",))[
                    :BATCH_SIZE
                ]
            )
            if images:
                Embedding.objects.bulk_create(describe_images(images, version), ignore_conflicts=True)
        more = more or len(images) == BATCH_SIZE
        if version.status == VersionStatus.PREPARING and not images_missing(version).exists():
            switch_to(version)
    return more


def describe_images(images: list[Image], version: ModelVersion) -> list[Embedding]:
    """Unsaved embeddings of these images, in their order."""
    from ml.serving import describer_for

    seen = describer_for(version.pk).describe(np.stack([read_rendition(image.rendition) for image in images]))
    organs = [OrganClass.objects.get_or_create(name=name)[0] for name in version.organs]
    modalities = [Modality.objects.get_or_create(code=code)[0] for code in version.modalities]
    organ_index = seen.organ_probabilities.argmax(axis=1)
    embeddings = []
    for row, image in enumerate(images):
        embedding = Embedding(
            image=image,
            model_version=version,
            fc1=seen.fc1[row],
            projection=seen.projection[row],
            predicted_organ=organs[organ_index[row]],
            organ_probability=float(seen.organ_probabilities[row].max()),
        )
        if seen.modality_probabilities is not None:
            embedding.predicted_modality = modalities[int(seen.modality_probabilities[row].argmax())]
            embedding.modality_probability = float(seen.modality_probabilities[row].max())
        embeddings.append(embedding)
    return embeddings


def switch_to(version: ModelVersion) -> None:
    """Put a prepared version into service in one transaction; the earlier one is kept with its index."""
    with transaction.atomic():
        locked = ModelVersion.objects.select_for_update().filter(
            status__in=[VersionStatus.ACTIVE, VersionStatus.PREPARING]
        )
        if version.pk not in [v.pk for v in locked if v.status == VersionStatus.PREPARING]:
            return
        ModelVersion.objects.filter(status=VersionStatus.ACTIVE).update(status=VersionStatus.RETIRED)
        ModelVersion.objects.filter(pk=version.pk).update(
            status=VersionStatus.ACTIVE, activated_at=timezone.now()
        )
