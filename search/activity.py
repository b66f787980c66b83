"""What the collection holds and what is going on in the background, for the pages."""

from dataclasses import dataclass
from typing import Any

from django.db.models import Exists, OuterRef

from ingest.models import Image, Modality, OrganClass, UploadBatch, UploadedFile
from ml.models import ModelVersion, TrainingRun, VersionStatus
from ml.workers import engines_at_work
from search import replicas
from search.ivfflat import builds_under_way
from search.models import Embedding, VersionIndex
from search.probing import LEAST_RECALL, recall_of

BATCHES_SHOWN = 5
LOW_RECALL = (
    "Searches of the whole collection may leave out some of the most similar images: the search index finds "
    "fewer of them than it should. An administrator can have it built anew."
)


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
    builds: list[Work]  # of search indexes
    preparing: list[ModelVersion]  # what has described the collection and is about to serve
    engines: list[str]  # what the networks run on in the inference workers
    recall_at_20: float | None  # as last measured; None: not yet
    index_errors: list[str]

    @property
    def is_busy(self) -> bool:
        return bool(self.imports or self.training_runs or self.indexing or self.builds or self.preparing)

    @property
    def finds_too_little(self) -> bool:
        return self.recall_at_20 is not None and self.recall_at_20 < LEAST_RECALL

    @property
    def warnings(self) -> list[str]:
        """Sentences for everybody who searches."""
        return [*([LOW_RECALL] if self.finds_too_little else []), *self.index_errors]

    @property
    def replicas(self) -> list[replicas.Standing]:
        """Asked for only by those who show them: each is asked how it stands."""
        return replicas.standings()


def current_activity() -> Activity:
    images = Image.objects.count()  # in the trash too: they are described as the others, to come back at once
    described = {
        v: Embedding.objects.filter(model_version=v).count() for v in ModelVersion.objects.in_service()
    }
    active = next((v for v in described if v.status == VersionStatus.ACTIVE), None)
    indexing = [Work(str(v), done, images) for v, done in described.items() if done < images]
    builds = running_builds()
    working_on = {work.title for work in [*indexing, *builds]}
    runs = list(TrainingRun.objects.unfinished()[:3])
    return Activity(
        active_version=active,
        images=Image.objects.present().count(),
        searchable=Embedding.objects.present().filter(model_version=active).count() if active else 0,
        organs=count_used(OrganClass, "organ"),
        modalities=count_used(Modality, "modality"),
        imports=running_imports(),
        training_runs=runs,
        last_run=runs[0] if runs else TrainingRun.objects.first(),
        indexing=indexing,
        builds=builds,
        preparing=[v for v in described if v.status == VersionStatus.PREPARING and str(v) not in working_on],
        engines=engines_at_work(),
        recall_at_20=recall_of(active) if active else None,
        index_errors=failed_builds(),
    )


def count_used(model: type[OrganClass] | type[Modality], field: str) -> int:
    """How many organs or modalities have an image."""
    return model.objects.filter(Exists(Image.objects.present().filter(**{field: OuterRef("pk")}))).count()  # type: ignore[misc]


def running_imports() -> list[Work]:
    unfinished = UploadedFile.objects.unfinished()
    batches = (
        UploadBatch.objects.filter(pk__in=unfinished.values("batch")).select_related("dataset").with_counts()
    )
    return [import_work(batch) for batch in batches[:BATCHES_SHOWN]]


def running_builds() -> list[Work]:
    """Search indexes that are being built or rebuilt; what follows the building itself counts as its end."""
    works = []
    for build in builds_under_way():
        rows = Embedding.objects.filter(model_version=build.version_id).count()
        is_waiting = build.phase == "initializing" or build.phase.endswith("before build")
        done = 0 if is_waiting else min(build.rows, rows) if build.phase.startswith("building") else rows
        works.append(Work(f"v{build.version_id}", done, rows))
    return works


def failed_builds() -> list[str]:
    failed = VersionIndex.objects.exclude(error="").select_related("model_version")
    return [f"{index.model_version}: {index.error}" for index in failed]


def import_work(batch: Any) -> Work:
    """A batch with its counts as a thing under way."""
    unfinished = batch.files_queued + batch.files_reading
    return Work(batch.dataset.name, batch.files_total - unfinished, batch.files_total, batch.files_rejected)
