"""What the collection holds and what is going on in the background, for the pages."""

from dataclasses import dataclass
from typing import Any

from django.db.models import Exists, OuterRef

from ingest.models import Image, Modality, OrganClass, UploadBatch, UploadedFile
from ml.models import ModelVersion, TrainingRun, VersionStatus
from ml.workers import engines_at_work
from search import replicas
from search.models import Embedding

BATCHES_SHOWN = 5


@dataclass(frozen=True)
class Work:
    """One thing that is under way."""

    title: str
    done: int
    total: int
    rejected: int = 0

    @property
    def percent(self) -> int:
        return int(100 * self.done / self.total) if self.total else 0


@dataclass(frozen=True)
class Activity:
    active_version: ModelVersion | None
    images: int
    searchable: int
    organs: int
    modalities: int
    imports: list[Work]
    training_runs: list[TrainingRun]
    last_run: TrainingRun | None
    indexing: list[Work]
    engines: list[str]  # what the networks run on in the inference workers

    @property
    def is_busy(self) -> bool:
        return bool(self.imports or self.training_runs or self.indexing)

    @property
    def replicas(self) -> list[replicas.Standing]:
        """Asked for only by those who show them: each is asked how it stands."""
        return replicas.standings()


def current_activity() -> Activity:
    images = Image.objects.count()
    described = {
        v: Embedding.objects.filter(model_version=v).count() for v in ModelVersion.objects.in_service()
    }
    active = next((v for v in described if v.status == VersionStatus.ACTIVE), None)
    runs = list(TrainingRun.objects.unfinished()[:3])
    return Activity(
        active_version=active,
        images=images,
        searchable=described[active] if active else 0,
        organs=count_used(OrganClass, "organ"),
        modalities=count_used(Modality, "modality"),
        imports=running_imports(),
        training_runs=runs,
        last_run=runs[0] if runs else TrainingRun.objects.first(),
        indexing=[Work(str(v), done, images) for v, done in described.items() if done < images],
        engines=engines_at_work(),
    )


def count_used(model: type[OrganClass] | type[Modality], field: str) -> int:
    """How many organs or modalities have an image."""
    return model.objects.filter(Exists(Image.objects.filter(**{field: OuterRef("pk")}))).count()  # type: ignore[misc]


def running_imports() -> list[Work]:
    unfinished = UploadedFile.objects.unfinished()
    batches = (
        UploadBatch.objects.filter(pk__in=unfinished.values("batch")).select_related("dataset").with_counts()
    )
    return [import_work(batch) for batch in batches[:BATCHES_SHOWN]]


def import_work(batch: Any) -> Work:
    """A batch with its counts as a thing under way."""
    unfinished = batch.files_queued + batch.files_reading
    return Work(batch.dataset.name, batch.files_total - unfinished, batch.files_total, batch.files_rejected)
