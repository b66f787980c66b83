"""How images are described and found: embeddings and queries."""

import time
import uuid
from typing import Any

import numpy as np
from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.db import models
from django.db.models import Max
from numpy.typing import NDArray
from pgvector.django import HalfVectorField

from ingest.models import Dataset, Image, Modality, OrganClass
from ml.models import ModelVersion
from search.ranking import EmbeddingQuerySet, Point

FC1_DIMENSIONS = 4096
PROJECTION_DIMENSIONS = 512
SURE = 0.7  # of the first organ: below this the two likeliest are offered


def as_array(vector: Any) -> NDArray[np.float32]:
    """float32 from what pgvector reads, or from what was assigned before saving."""
    return np.asarray(vector.to_numpy() if hasattr(vector, "to_numpy") else vector, np.float32)


class Embedding(models.Model):
    """What one model version sees in one image. Having one makes an image searchable under that version.

    Embeddings of one version are committed in the order of their ids (search/indexing.py), so that those up
    to an id are the same for ever: a query's ranking stays as it is while images are being added.
    """

    image = models.ForeignKey(Image, models.CASCADE, related_name="embeddings")
    model_version = models.ForeignKey(ModelVersion, models.CASCADE, related_name="embeddings")
    fc1 = HalfVectorField(dimensions=FC1_DIMENSIONS)
    projection = HalfVectorField(
        dimensions=PROJECTION_DIMENSIONS, help_text="PCA of FC1; proposes candidates."
    )
    predicted_organ = models.ForeignKey(OrganClass, models.CASCADE, related_name="+")
    organ_probability = models.FloatField()
    predicted_modality = models.ForeignKey(Modality, models.CASCADE, null=True, related_name="+")
    modality_probability = models.FloatField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)

    # What searches filter by, kept true by triggers of the database: the image's label, or where there is
    # none what the network sees; the image's data set.
    organ = models.ForeignKey(OrganClass, models.CASCADE, related_name="+", db_index=False, editable=False)
    modality = models.ForeignKey(
        Modality, models.CASCADE, null=True, related_name="+", db_index=False, editable=False
    )
    dataset = models.ForeignKey(Dataset, models.CASCADE, related_name="+", db_index=False, editable=False)

    objects = EmbeddingQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["model_version", "image"], name="one_embedding_per_version"),
        ]
        indexes = [
            # Also answers how many images there are of each, without touching the table.
            models.Index(
                fields=["model_version", "organ", "modality", "dataset", "id"], name="embedding_facets"
            ),
            # Scanned where a filter keeps few: the projections of an organ lie side by side in it.
            models.Index(
                fields=["model_version", "organ", "modality"],
                include=["id", "dataset", "projection"],
                name="embedding_scan",
            ),
            # What waits for a person (search/reviewing.py).
            models.Index(
                fields=["model_version", "-organ_probability"],
                name="embedding_contradicts",
                condition=~models.Q(organ=models.F("predicted_organ")),
            ),
            models.Index(fields=["model_version", "organ_probability"], name="embedding_unsure"),
        ]

    def __str__(self) -> str:
        return f"embedding of image {self.image_id} by v{self.model_version_id}"

    def as_point(self) -> Point:
        return Point(as_array(self.fc1), as_array(self.projection))


class VersionIndex(models.Model):
    """What searching under a model version rests on beside its embeddings, made before it serves.

    Distances are Euclidean on FC1, between images of different groups of the collection (search/fitting.py).
    """

    model_version = models.OneToOneField(ModelVersion, models.CASCADE, related_name="index")
    images = models.PositiveIntegerField(default=0, help_text="Embeddings there were when it was fitted.")
    fitted_at = models.DateTimeField(null=True)
    has_ivfflat = models.BooleanField(default=False, help_text="The index of the projections is built.")
    same_organ: models.JSONField[Any, Any] = models.JSONField(
        default=list, help_text="Percentiles 0 to 100 of the distance of two images of the same organ."
    )
    other_organ: models.JSONField[Any, Any] = models.JSONField(
        default=list, help_text="Percentiles 0 to 100 of the distance of two images of different organs."
    )
    near_duplicate = models.FloatField(
        null=True, help_text="Images whose projections are nearer than this are nearly the same."
    )
    blend_weight = models.FloatField(
        default=0.0, help_text="What a factor of e in an organ's probability is worth as squared distance."
    )
    duplicates_up_to = models.BigIntegerField(
        default=0, help_text="Embeddings up to this one were compared with the others (search/likeness.py)."
    )
    error = models.CharField(max_length=500, blank=True, help_text="Why the last building of it failed.")

    class Meta:
        verbose_name_plural = "version indexes"

    def __str__(self) -> str:
        return f"index of v{self.model_version_id}"

    @property
    def indexed(self) -> int:
        """Embeddings in the IVFFlat index, about; 0 where there is none."""
        return max(1, self.images) if self.has_ivfflat else 0


class QueryStatus(models.TextChoices):
    WAITING = "waiting", "waiting"
    ANSWERED = "answered", "answered"
    FAILED = "failed", "failed"


class QueryQuerySet(models.QuerySet["Query"]):
    def asked_by(self, user_id: int | None) -> "QueryQuerySet":
        """A person's searches; one to which they have added pictures stands in what it became a part of."""
        return self.filter(created_by=user_id).exclude(wholes__created_by=user_id)


class Query(models.Model):
    """A query image and what the network saw in it. Ranking it again never runs the network again."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    image = models.ForeignKey(
        Image,
        models.CASCADE,
        null=True,
        blank=True,
        help_text="The collection's image that was searched with.",
    )
    upload = models.FileField(max_length=200, blank=True, help_text="The uploaded file's bytes, by SHA-256.")
    file_name = models.CharField(
        max_length=255,
        blank=True,
        help_text="One of several files, as its uploader calls it: for them alone, until it has been read.",
    )
    rendition = models.FileField(max_length=200, blank=True)
    preview = models.FileField(max_length=200, blank=True)

    status = models.CharField(max_length=16, choices=QueryStatus, default=QueryStatus.WAITING)
    error = models.CharField(max_length=500, blank=True)
    model_version = models.ForeignKey(ModelVersion, models.CASCADE, null=True, blank=True)
    fc1 = HalfVectorField(dimensions=FC1_DIMENSIONS, null=True)
    projection = HalfVectorField(dimensions=PROJECTION_DIMENSIONS, null=True)
    organ_probabilities: models.JSONField[Any, Any] = models.JSONField(
        default=list, help_text="[[name, probability], ...], likeliest first."
    )
    modality_probabilities: models.JSONField[Any, Any] = models.JSONField(
        default=list, help_text="[[code, probability], ...], likeliest first."
    )
    energy = models.FloatField(null=True, help_text="The lower, the more like what the network learnt from.")
    nearest_distance = models.FloatField(null=True, help_text="To the nearest image when it was answered.")
    is_unlike = models.BooleanField(
        null=True, help_text="Nothing in the collection resembles it. Empty: not known."
    )
    newest_embedding = models.BigIntegerField(
        null=True, help_text="Its results are among the embeddings up to this one."
    )

    parent = models.ForeignKey(
        "self",
        models.CASCADE,
        null=True,
        blank=True,
        related_name="children",
        help_text="The query that this one is a region of, or refines.",
    )
    region: models.JSONField[Any, Any] = models.JSONField(
        null=True, blank=True, help_text="[left, top, right, bottom] in the parent's picture, each 0 to 1."
    )
    relevant = models.ManyToManyField(Image, blank=True, related_name="+")
    irrelevant = models.ManyToManyField(Image, blank=True, related_name="+")
    parts = models.ManyToManyField("self", blank=True, symmetrical=False, related_name="wholes")

    sha256 = models.CharField(max_length=64, blank=True)
    group_key = models.CharField(max_length=32, blank=True, help_text="Keyed hash of the query's patient.")
    modality = models.CharField(
        max_length=16, blank=True, help_text="What its file says, or its label in the collection."
    )
    reading_seconds = models.FloatField(null=True)
    network_seconds = models.FloatField(null=True)

    objects = QueryQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]
        indexes = [models.Index(fields=["created_at"], name="query_by_time")]
        verbose_name_plural = "queries"

    def __str__(self) -> str:
        return f"query {self.pk}"

    @property
    def predicted_organ(self) -> str:
        return str(self.organ_probabilities[0][0]) if self.organ_probabilities else ""

    @property
    def organ_probability(self) -> float:
        return float(self.organ_probabilities[0][1]) if self.organ_probabilities else 0.0

    @property
    def likely_organs(self) -> list[str]:
        """The likeliest organ; the two likeliest where the network is not sure of the first."""
        return [str(name) for name, _ in self.organ_probabilities[: 1 if self.is_sure else 2]]

    @property
    def is_sure(self) -> bool:
        return self.organ_probability >= SURE

    @property
    def predicted_modality(self) -> str:
        return str(self.modality_probabilities[0][0]) if self.modality_probabilities else ""

    @property
    def modality_probability(self) -> float | None:
        return float(self.modality_probabilities[0][1]) if self.modality_probabilities else None

    @property
    def is_plain(self) -> bool:
        """Whether it is about one picture, whole or a region of it."""
        return not self.is_refined and not self.parts.exists()

    @property
    def is_refined(self) -> bool:
        return self.parent_id is not None and self.region is None

    def as_point(self) -> Point:
        """Raises ValueError when the query has not been answered."""
        if self.fc1 is None or self.projection is None:
            raise ValueError("The query has not been answered yet.")
        return Point(as_array(self.fc1), as_array(self.projection))

    @property
    def original(self) -> "Query":
        """The query that was refined, once or more often; itself where none was."""
        return self.parent.original if self.parent and self.is_refined else self

    def pictures(self) -> list["Query"]:
        """The queries whose pictures, or parts of them, it is about, oldest first; itself where it is one."""
        original = self.original
        return list(original.parts.order_by("created_at")) or [original]

    def origins(self) -> list["Query"]:
        """The queries with whole pictures of their own that this one was made from."""
        if self.parent is not None:
            return self.parent.origins()
        return [origin for part in self.parts.all() for origin in part.origins()] or [self]

    def has_lost_embeddings(self) -> bool:
        """Whether what its results were among has been dropped, so that it has none.

        What its version has described since, brought back, is not what it was answered with.
        """
        if not self.newest_embedding:
            return False
        described = Embedding.objects.filter(model_version=self.model_version_id)
        return not described.filter(pk__lte=self.newest_embedding).exists()

    def see_newest(self) -> None:
        """From now on its results are among all the embeddings that there are."""
        if self.model_version_id:
            described = Embedding.objects.for_version(self.model_version_id)
            self.newest_embedding = described.aggregate(newest=Max("pk"))["newest"] or 0

    def go_on_to_newest(self) -> None:
        self.see_newest()
        self.save(update_fields=["newest_embedding"])

    def was_asked_by(self, user: AbstractBaseUser | AnonymousUser) -> bool:
        return user.pk is not None and self.created_by_id == user.pk

    def wait(self, seconds: float) -> None:
        """Wait until the query is answered or failed, at most `seconds`."""
        deadline = time.monotonic() + seconds
        while self.status == QueryStatus.WAITING and time.monotonic() < deadline:
            time.sleep(0.02)
            self.refresh_from_db()


class Mark(models.Model):
    """A person's word that an image is, or is not, what a query was after. Kept for curation."""

    query = models.ForeignKey(Query, models.CASCADE, related_name="marks")
    image = models.ForeignKey(Image, models.CASCADE, related_name="marks")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True)
    is_relevant = models.BooleanField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["created_at"]
        constraints = [
            models.UniqueConstraint(fields=["query", "image", "created_by"], name="one_mark_per_person"),
        ]

    def __str__(self) -> str:
        word = "is" if self.is_relevant else "is not"
        return f"image {self.image_id} {word} what query {self.query_id} is after"


class Explanation(models.Model):
    """Where in both pictures the likeness of a query and an image lies; made by the inference worker."""

    query = models.ForeignKey(Query, models.CASCADE, related_name="explanations")
    image = models.ForeignKey(Image, models.CASCADE, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    status = models.CharField(max_length=16, choices=QueryStatus, default=QueryStatus.WAITING)
    error = models.CharField(max_length=500, blank=True)
    query_map = models.FileField(max_length=200, blank=True)
    image_map = models.FileField(max_length=200, blank=True)
    similarity = models.FloatField(null=True, help_text="Cosine of both FC1.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["query", "image"], name="explained_once")]

    def __str__(self) -> str:
        return f"why image {self.image_id} is like query {self.query_id}"


class RecallProbe(models.Model):
    """One look at how well the index does: stored images searched with, approximately and exactly."""

    model_version = models.ForeignKey(ModelVersion, models.CASCADE, related_name="probes")
    created_at = models.DateTimeField(auto_now_add=True)
    queries = models.PositiveIntegerField()
    images = models.PositiveIntegerField(help_text="In the collection at that time.")
    recall_at_20 = models.FloatField(help_text="Share of the 20 nearest that a search finds.")
    median_ms = models.FloatField(help_text="Of a ranking as searches do it.")
    p95_ms = models.FloatField()
    exact_median_ms = models.FloatField(help_text="Of an exact scan on FC1.")

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"probe of v{self.model_version_id}: {self.recall_at_20:.3f}"
