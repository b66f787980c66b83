"""Describing the collection's images for the model versions in service; making a version ready to serve."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from django.db import connection, transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone

from ingest.bell import ring
from ingest.models import Image, Modality, OrganClass
from ingest.naming import current_modalities, current_organs
from ingest.renditions import read_rendition
from ml.locks import is_locked, locked
from ml.models import ModelVersion, VersionStatus
from ml.outputs import by_class
from search import fitting, ivfflat
from search.giving_way import give_way
from search.models import Embedding, VersionIndex
from search.ranking import Halves

Row = TypeVar("Row", OrganClass, Modality)

BATCH_SIZE = 32
GROWN = 1.25  # a collection so many times as large as when an index was fitted has it fitted anew
IN_ORDER, PREPARING = (17_03, 1), (17_03, 2)  # keys of advisory locks
NOT_BUILT = (
    "The search index could not be built. It is tried again; the administrator finds the cause in the log."
)
_began_at: dict[int, int] = {}  # by version: the first image of the last batch of this process


class InServiceError(Exception):
    """A version that serves, or is about to, keeps its embeddings; its text is a sentence for the user."""


def index_imported_images(image_ids: Sequence[int], **_: Any) -> None:
    """Answer to `images_imported`: ring for the indexing worker."""
    ring("search.index_images")


def images_missing(version: ModelVersion) -> Any:
    """Images that `version` has not described yet."""
    described = Embedding.objects.filter(model_version=version, image=OuterRef("pk"))
    return Image.objects.filter(~Exists(described))


def is_behind() -> bool:
    """Whether more than a batch of images waits to be described."""
    waiting = slice(BATCH_SIZE, BATCH_SIZE + 1)
    return any(images_missing(version)[waiting].exists() for version in ModelVersion.objects.in_service())


def index_next_batch(on_more: Callable[[], None] = lambda: None) -> bool:
    """Describe up to BATCH_SIZE images per version in service; True while there may be more.

    `on_more` is called before, as soon as that is known: others may begin with the next ones. The images are
    locked while they are described: workers share the work, and a killed one loses nothing. A version that
    has described them all and waits to serve is switched to.
    """
    more = False
    for version in ModelVersion.objects.in_service():
        give_way()
        with transaction.atomic():
            images = next_missing(version)
            if len(images) == BATCH_SIZE and not more:
                more = True
                on_more()
            if images:
                store_in_order(describe_images(images, version))
        later = images_missing(version).filter(pk__gt=images[-1].pk if images else 0)
        if not later.exists() and not is_locked(PREPARING) and needs_preparing(version):
            ring("search.prepare_versions")
    return more


def next_missing(version: ModelVersion) -> list[Image]:
    """Up to BATCH_SIZE images that nobody describes just now, locked, in the order in which they came.

    From where the last batch began: those before are looked at when few others are left, not for every batch.
    """
    missing = images_missing(version).select_for_update(skip_locked=True, no_key=True, of=("self",))
    begin = _began_at.pop(version.pk, 0)
    images = list(missing.filter(pk__gte=begin).order_by("pk")[:BATCH_SIZE])
    if begin and len(images) < BATCH_SIZE:
        images = list(missing.order_by("pk")[:BATCH_SIZE])
    if images:
        _began_at[version.pk] = images[0].pk
    return images


def store_in_order(embeddings: list[Embedding]) -> None:
    """Whoever comes second waits until the first has committed: no id becomes visible after a higher one."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", IN_ORDER)
    Embedding.objects.bulk_create(embeddings, ignore_conflicts=True)


def needs_preparing(version: ModelVersion) -> bool:
    """Whether the version waits to serve, or its index is of another time than its embeddings."""
    if version.status == VersionStatus.PREPARING:
        return not images_missing(version).exists()
    index = VersionIndex.objects.filter(model_version=version).first()
    rows = Embedding.objects.filter(model_version=version).count()
    return rows > 0 and (index is None or is_outgrown(index, rows))


def is_outgrown(index: VersionIndex, rows: int) -> bool:
    if rows > GROWN * index.images:
        return True
    is_built = index.has_ivfflat and ivfflat.is_built(index.model_version_id)
    return rows >= ivfflat.LEAST_ROWS and (not is_built or ivfflat.is_outgrown(index.model_version_id, rows))


def prepare_versions() -> None:
    """Build and fit the indexes that are due, beside whatever is searched, and switch to what waited for it.

    One worker at a time; the others leave it to that one.
    """
    with locked(PREPARING) as mine:
        if not mine:
            return
        for version in ModelVersion.objects.in_service():
            if needs_preparing(version):
                prepare(version)
                if version.status == VersionStatus.PREPARING and not images_missing(version).exists():
                    switch_to(version)


def prepare(version: ModelVersion) -> None:
    """Build the version's index where there is to be one and it is not whole, and fit what it rests on."""
    index, _ = VersionIndex.objects.get_or_create(model_version=version)
    rows = Embedding.objects.filter(model_version=version).count()
    if rows >= ivfflat.LEAST_ROWS and not ivfflat.is_built(version.pk):
        keep(index, has_ivfflat=False)  # searches scan meanwhile
        with failure_kept(index):
            ivfflat.build(version, rows)
    elif rows >= ivfflat.LEAST_ROWS and ivfflat.is_outgrown(version.pk, rows):
        with failure_kept(index):
            ivfflat.rebuild(version, rows)
    index.has_ivfflat, index.error = ivfflat.is_built(version.pk), ""
    fitting.fit(version, index)


def rebuild(version: ModelVersion) -> bool:
    """Build the version's IVFFlat index anew, if it has one; searches use the earlier one meanwhile.

    False: another worker is building one just now.
    """
    with locked(PREPARING) as mine:
        index = VersionIndex.objects.filter(model_version=version).first()
        if mine and index and index.has_ivfflat:
            with failure_kept(index):
                ivfflat.rebuild(version, Embedding.objects.filter(model_version=version).count())
            keep(index, error="")
        return mine


@contextmanager
def failure_kept(index: VersionIndex) -> Iterator[None]:
    """What goes wrong is told on the status page; the cause is raised on to the log."""
    try:
        yield
    except Exception:
        keep(index, error=NOT_BUILT)
        raise


def keep(index: VersionIndex, **values: Any) -> None:
    VersionIndex.objects.filter(pk=index.pk).update(**values)


def drop_embeddings(version: ModelVersion) -> int:
    """Take a version's embeddings and index away; the version itself stays. Returns how many there were.

    Searches find all of them or none. Raises InServiceError for a version that serves or is about to.
    """
    with transaction.atomic():
        locked_version = ModelVersion.objects.select_for_update(no_key=True).get(pk=version.pk)
        if locked_version.status in (VersionStatus.ACTIVE, VersionStatus.PREPARING):
            raise InServiceError(f"{version} is in service, or about to be, and keeps its embeddings.")
        VersionIndex.objects.filter(model_version=version).delete()
        number, _ = Embedding.objects.filter(model_version=version).delete()
    ivfflat.drop(version.pk)
    return number


def describe_images(images: list[Image], version: ModelVersion) -> list[Embedding]:
    """Unsaved embeddings of these images, in their order."""
    from ml.serving import describer_for

    seen = describer_for(version.pk).describe(np.stack([read_rendition(image.rendition) for image in images]))
    names, organ_probabilities = by_class(current_organs(version.organs), seen.organ_probabilities)
    organs = rows_named(OrganClass, "name", names)
    organ_index = organ_probabilities.argmax(axis=1)
    if seen.modality_probabilities is not None:
        codes, modality_probabilities = by_class(
            current_modalities(version.modalities), seen.modality_probabilities
        )
        modalities = rows_named(Modality, "code", codes)
    embeddings = []
    for row, image in enumerate(images):
        embedding = Embedding(
            image=image,
            model_version=version,
            fc1=Halves(seen.fc1[row]),
            projection=Halves(seen.projection[row]),
            predicted_organ=organs[organ_index[row]],
            organ_probability=float(organ_probabilities[row].max()),
        )
        if seen.modality_probabilities is not None:
            embedding.predicted_modality = modalities[int(modality_probabilities[row].argmax())]
            embedding.modality_probability = float(modality_probabilities[row].max())
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
    """Put a prepared version into service in one transaction; the earlier one is kept with its index.

    One that is no longer asked for, because another was meanwhile, stays as it is.
    """
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
