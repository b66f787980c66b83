"""How images are described and found: embeddings and queries."""

import time
import uuid
from typing import Any

from django.conf import settings
from django.db import models
from pgvector.django import HalfVectorField, HnswIndex

from ingest.models import Image, Modality, OrganClass
from ml.models import ModelVersion
from search.ranking import EmbeddingQuerySet

FC1_DIMENSIONS = 4096
PROJECTION_DIMENSIONS = 128


class Embedding(models.Model):
    """What one model version sees in one image. Having one makes an image searchable under that version."""

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

    distance: float  # to a query, on FC1; set by ranking

    objects = EmbeddingQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["model_version", "image"], name="one_embedding_per_version"),
        ]
        indexes = [
            HnswIndex(
                name="embedding_projection_hnsw",
                fields=["projection"],
                m=16,
                ef_construction=64,
                opclasses=["halfvec_l2_ops"],
            ),
        ]

    def __str__(self) -> str:
        return f"embedding of image {self.image_id} by v{self.model_version_id}"


class QueryStatus(models.TextChoices):
    WAITING = "waiting", "waiting"
    ANSWERED = "answered", "answered"
    FAILED = "failed", "failed"


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
    sha256 = models.CharField(max_length=64, blank=True)
    group_key = models.CharField(max_length=32, blank=True, help_text="Keyed hash of the query's patient.")
    reading_seconds = models.FloatField(null=True)
    network_seconds = models.FloatField(null=True)

    class Meta:
        ordering = ["-created_at"]
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
    def predicted_modality(self) -> str:
        return str(self.modality_probabilities[0][0]) if self.modality_probabilities else ""

    @property
    def modality_probability(self) -> float | None:
        return float(self.modality_probabilities[0][1]) if self.modality_probabilities else None

    def wait(self, seconds: float) -> None:
        """Wait until the query is answered or failed, at most `seconds`."""
        deadline = time.monotonic() + seconds
        while self.status == QueryStatus.WAITING and time.monotonic() < deadline:
            time.sleep(0.02)
            self.refresh_from_db()
