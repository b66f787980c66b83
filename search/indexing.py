"""Describing the collection's images for every model version in service."""

from collections.abc import Sequence
from typing import Any, TypeVar

from django.db import transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone

from ingest.bell import ring
from ingest.models import Image, Modality, OrganClass
from ml.models import ModelVersion, VersionStatus
from search.models import Embedding
from search.reading_ahead import RenditionReader

Row = TypeVar("Row", OrganClass, Modality)

BATCH_SIZE = 32
reader = RenditionReader()


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
            missing = images_missing(version).select_for_update(skip_locked=True, no_key=True, of=("self",))
            images = list(missing[: 2 * BATCH_SIZE])  # the second half is for the next call: others leave it
            if images:
                embeddings = describe_images(images[:BATCH_SIZE], version)
                # Not before: the network takes all cores, the database leaves some of them.
                reader.read_ahead(images[BATCH_SIZE:])
                Embedding.objects.bulk_create(embeddings, ignore_conflicts=True)
        more = more or len(images) > BATCH_SIZE
        if version.status == VersionStatus.PREPARING and not images_missing(version).exists():
            switch_to(version)
    return more


def describe_images(images: list[Image], version: ModelVersion) -> list[Embedding]:
    """Unsaved embeddings of these images, in their order."""
    from ml.serving import describer_for

    seen = describer_for(version.pk).describe(reader.read(images))
    organs = rows_named(OrganClass, "name", version.organs)
    modalities = rows_named(Modality, "code", version.modalities)
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


def rows_named(model: type[Row], field: str, names: list[str]) -> list[Row]:
    """In the order of the names; what is missing is made."""
    found = model._default_manager.in_bulk(names, field_name=field)
    for name in names:
        if name not in found:
            values: dict[str, Any] = {field: name}
            found[name] = model._default_manager.get_or_create(**values)[0]
    return [found[name] for name in names]


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
