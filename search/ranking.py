"""Ranking by Euclidean distance on FC1: the one question that page, API and command line ask."""

from typing import TYPE_CHECKING, Any

import numpy as np
from django.db import connection, models, transaction
from django.db.models import Count, F, FloatField, Value
from django.db.models.expressions import Combinable
from django.db.models.functions import Cast, Coalesce
from pgvector.django import L2Distance

if TYPE_CHECKING:
    from ml.models import ModelVersion
    from search.models import Embedding

EXACT_SCAN_ROWS = 100_000  # up to here the small projected column is scanned whole
HNSW_CANDIDATES = 1_000  # pgvector's largest ef_search
BOUND_SLACK = 0.995  # halfvec keeps 11 bits: a projected distance may be rounded up by less than this


class EmbeddingQuerySet(models.QuerySet["Embedding"]):
    """Organ and modality of an image: its label, or where there is none what the network sees."""

    def for_version(self, version: "ModelVersion") -> "EmbeddingQuerySet":
        return self.filter(model_version=version).alias(
            organ_name=Coalesce("image__organ__name", "predicted_organ__name"),
            modality_code=Coalesce("image__modality_id", "predicted_modality_id"),
        )

    def of_organ(self, name: str) -> "EmbeddingQuerySet":
        return self.filter(organ_name=name) if name else self

    def of_modality(self, code: str) -> "EmbeddingQuerySet":
        return self.filter(modality_code=code) if code else self

    def in_dataset(self, name: str) -> "EmbeddingQuerySet":
        return self.filter(image__dataset__name=name) if name else self

    def count_by(self, field: str) -> list[tuple[str, int]]:
        """(value, number of images) pairs of `organ_name` or `modality_code`, by value."""
        return list(
            self.annotate(facet=F(field))
            .filter(facet__isnull=False)
            .order_by("facet")
            .values_list("facet")
            .annotate(number=Count("pk"))
        )

    def nearest_to(self, fc1: Any, projection: Any, *, offset: int = 0, limit: int = 20) -> list["Embedding"]:
        """Embeddings ranked by (distance, id), each with `.distance`: rows offset to offset + limit.

        fc1: 4096 numbers; projection: its 128 principal components under the same model version.
        Filter and refine: the projection is orthonormal, so a projected distance never exceeds the
        distance on FC1. Candidates by projected distance are re-ranked on FC1 and widened until no image
        left out can be nearer than the last one returned: the answer is that of an exact scan. Above
        EXACT_SCAN_ROWS candidates come from the HNSW index, whose own recall then is the limit.
        """
        wanted, total = offset + limit, self.count()
        number = max(4 * wanted, 200)
        while True:
            use_index = total > EXACT_SCAN_ROWS and number <= HNSW_CANDIDATES
            candidates = self._candidates(projection, number, use_index)
            ranked = self._reranked([pk for pk, _ in candidates], fc1)
            if len(candidates) >= total:
                break
            complete = len(candidates) == number and len(ranked) >= wanted
            if complete and ranked[wanted - 1][1] < candidates[-1][1] * BOUND_SLACK:
                break
            if use_index and complete and number == HNSW_CANDIDATES:
                break
            number = (
                min(number * 4, HNSW_CANDIDATES) if use_index and number < HNSW_CANDIDATES else number * 4
            )
        return self._in_order(ranked[offset:wanted])

    def _candidates(self, projection: Any, number: int, use_index: bool) -> list[tuple[int, float]]:
        """(id, projected distance) of the `number` nearest by projection, nearest first."""
        projected: Combinable | L2Distance = L2Distance("projection", np.asarray(projection, np.float32))
        if not use_index:
            projected = projected + Value(0.0, FloatField())  # an expression that the index does not serve
        nearest = (
            self.alias(projected=projected)
            .order_by("projected")
            .values_list("pk", Cast("projected", FloatField()))
        )
        with transaction.atomic(), connection.cursor() as cursor:
            if use_index:
                cursor.execute("SET LOCAL hnsw.iterative_scan = strict_order")
                cursor.execute("SET LOCAL hnsw.ef_search = %s", [number])
            return list(nearest[:number])

    def _reranked(self, pks: list[int], fc1: Any) -> list[tuple[int, float]]:
        """(id, distance on FC1) of these embeddings by (distance, id)."""
        distance = L2Distance("fc1", np.asarray(fc1, np.float32))
        return list(
            self.model.objects.filter(pk__in=pks)
            .annotate(distance=distance)
            .order_by("distance", "pk")
            .values_list("pk", "distance")
        )

    def _in_order(self, ranked: list[tuple[int, float]]) -> list["Embedding"]:
        from search.models import Embedding

        found = (
            Embedding.objects.filter(pk__in=[pk for pk, _ in ranked])
            .defer("fc1", "projection")
            .select_related("image__organ", "image__dataset", "predicted_organ")
            .in_bulk()
        )
        hits = []
        for pk, distance in ranked:
            if hit := found.get(pk):
                hit.distance = distance
                hits.append(hit)
        return hits
