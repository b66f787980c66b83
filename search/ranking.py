"""Ranking by Euclidean distance on FC1: the one question that page, API and command line ask.

The projection proposes, FC1 decides. The IVFFlat index holds the first half of the projection, which is
smaller and tells nearly as much; all its components, which lie in the row that the index points to, choose
among what the index found. A projected distance never exceeds the one on FC1 (ml/projection.py): once the
wanted rows are ranked, only what is projected nearer than the last of them can still belong among them (Seidl
and Kriegel, "Optimal multi-step k-nearest neighbor search", SIGMOD 1998).
"""

from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from django.db import connections, models, transaction
from django.db.models import Count, FloatField, Func, Value
from django.db.models.functions import Cast
from numpy.typing import NDArray
from pgvector.django import L2Distance

from ingest.models import Dataset

if TYPE_CHECKING:
    from ml.models import ModelVersion
    from search.models import Embedding

EXACT_SCAN_ROWS = 20_000  # up to here what the filter keeps is scanned whole; see benchmarks/search.py
COMPONENTS = 511  # of the projection, before the length of what they leave
PREFIX_DIMENSIONS = 256  # of these, which the IVFFlat index orders by
INDEX_WANTED = 200  # rows in all; deeper pages are scanned for exactly
INDEX_CANDIDATES = (50, 1_000, 4_000)  # from the index for each row wanted; at least, at most
PROBES = (20, 200)  # clusters of the index that are read; as many at most while a filter leaves too few rows
INDEX_RANKED = (10, 200)  # of these, ranked on FC1 for each row wanted; at least
FIRST_RANKED = 2  # exact scan: ranked on FC1 for each row wanted, before it is known how far to look
PROPOSED = 50  # exact scan: projected distances brought along for each row wanted
ROUNDING = (1.005, 0.001)  # halfvec keeps 11 bits: share of a distance, share of FC1's length


class Path(StrEnum):
    """How candidates are found."""

    EXACT = "exact scan of the projections"
    IVFFLAT = "IVFFlat index of the projections"
    REMEMBERED = "what this query was shown before"


def choose_path(kept: int, wanted: int, has_index: bool) -> Path:
    """An exact scan, unless the filter keeps many rows and the first ones of the ranking are wanted."""
    if has_index and kept > EXACT_SCAN_ROWS and wanted <= INDEX_WANTED:
        return Path.IVFFLAT
    return Path.EXACT


@dataclass(frozen=True)
class Point:
    """A query in the space of one model version."""

    fc1: NDArray[np.float32]  # (4096,)
    projection: NDArray[np.float32]  # (512,)


@dataclass(frozen=True)
class Plan:
    """What was done for a ranking, for those who ask why."""

    path: Path
    kept: int  # rows that the filter keeps
    candidates: int = 0  # rows whose projected distance came back
    ranked: int = 0  # rows whose distance on FC1 was computed
    organ: str = ""  # that this part of a blended ranking is about


@dataclass(frozen=True)
class Ranking:
    """The nearest, by (score, id). The score is what orders: the distance, but for a blended ranking."""

    ids: list[int]
    distances: list[float]  # Euclidean, on FC1
    plans: list[Plan] = field(default_factory=list)


class EmbeddingQuerySet(models.QuerySet["Embedding"]):
    """`organ` and `modality` are an image's labels, or where there are none what the network sees."""

    def for_version(self, version: "ModelVersion | int") -> "EmbeddingQuerySet":
        return self.filter(model_version=version)

    def present(self) -> "EmbeddingQuerySet":
        """Of images whose data set is not in the trash."""
        trashed = list(Dataset.objects.trashed().values_list("pk", flat=True))
        return self.exclude(dataset__in=trashed) if trashed else self

    def count_by(self, *fields: str) -> list[tuple[Any, ...]]:
        """(value, ..., number of images) by those fields."""
        return list(self.order_by().values_list(*fields).annotate(number=Count("pk")))

    def nearest_to(self, point: Point, wanted: int, *, kept: int, has_index: bool = False) -> Ranking:
        """The `wanted` nearest, by (distance, id).

        kept: how many rows there are in this query set, as far as is known. By Path.EXACT the answer is that
        of an exact scan on FC1. By Path.IVFFLAT the index's recall is the limit: search/probing.py tells it.
        """
        if wanted < 1:
            return Ranking([], [])
        path = choose_path(kept, wanted, has_index)
        if path == Path.IVFFLAT:
            candidates, is_whole = self._from_index(point, wanted)
            if is_whole:
                nearest = sorted(candidates, key=candidates.__getitem__)
                share, least = INDEX_RANKED
                nearest = nearest[: max(share * wanted, least)]
                ranked = self._ranked(point, nearest, wanted)
                return made_of(ranked, Plan(path, kept, len(candidates), len(nearest)))
        return self._scanned(point, wanted, kept)

    def _from_index(self, point: Point, wanted: int) -> tuple[dict[int, float], bool]:
        """Distances by the components of the projection, by id, and whether they are as many as asked for.

        They are fewer where a filter keeps the index searching too long: then a scan has to answer.
        """
        share, least, most = INDEX_CANDIDATES
        number = min(max(share * wanted, least), most)
        prefix = Value(as_text(point.projection[:PREFIX_DIMENSIONS]))
        nearest = (
            self.alias(nearness=L2Distance(Prefix("projection"), prefix))
            .order_by("nearness")
            .values_list("pk", Cast(distance_inside(point), FloatField()))
        )
        probes, most_probes = PROBES
        with transaction.atomic(using=self.db), connections[self.db].cursor() as cursor:
            cursor.execute(
                f"SET LOCAL ivfflat.iterative_scan = relaxed_order; SET LOCAL ivfflat.probes = {probes:d};"
                f" SET LOCAL ivfflat.max_probes = {most_probes:d}"
            )
            found = dict(rows_of(nearest[:number]))
        return found, len(found) == number

    def _scanned(self, point: Point, wanted: int, kept: int) -> Ranking:
        projected = Cast(projected_distance(point), FloatField())
        proposed = self.annotate(projected=projected).values_list("pk", "projected").order_by("projected")
        limit = PROPOSED * max(wanted, 20)
        candidates = dict(rows_of(proposed[:limit]))
        ids = list(candidates)
        first = FIRST_RANKED * wanted
        first_ids = ids[:first]
        ranked = self._ranked(point, first_ids, wanted)
        looked_at = len(first_ids)
        if len(ids) > first or len(ids) == limit:
            farthest = ranked[wanted - 1][1] if len(ranked) >= wanted else float("inf")
            reach = farthest * ROUNDING[0] + ROUNDING[1] * float(np.linalg.norm(point.fc1))
            if len(ids) == limit and candidates[ids[-1]] <= reach:
                within = proposed if reach == float("inf") else proposed.filter(projected__lte=reach)
                candidates = dict(rows_of(within))
                ids = list(candidates)
            known = set(first_ids)
            near = [pk for pk in ids if pk not in known and candidates[pk] <= reach]
            ranked = sorted(ranked + self._ranked(point, near, wanted), key=by_distance)[:wanted]
            looked_at += len(near)
        return made_of(ranked, Plan(Path.EXACT, kept, len(candidates), looked_at))

    def _ranked(self, point: Point, ids: list[int], wanted: int) -> list[tuple[int, float]]:
        """(id, distance on FC1) of the `wanted` nearest of these, by (distance, id)."""
        if not ids:
            return []
        distance = Cast(L2Distance("fc1", Value(as_text(point.fc1))), FloatField())
        rows = self.model.objects.using(self.db).filter(pk__any_of=ids)
        return rows_of(
            rows.annotate(distance=distance).values_list("pk", "distance").order_by("distance", "pk")[:wanted]
        )

    def blended(
        self,
        point: Point,
        wanted: int,
        *,
        kept: dict[int, int],
        penalties: dict[int, float],
        names: dict[int, str],
        has_index: bool = False,
    ) -> Ranking:
        """The `wanted` nearest, by (squared distance + penalty of the image's organ, id).

        kept: number of rows by organ. Organ by organ, the least penalty first, until no organ left could
        bring anything: what is of an organ scores its penalty at least.
        """
        best: list[tuple[float, int, float]] = []  # score, id, distance
        plans: list[Plan] = []
        for organ in sorted(kept, key=lambda organ: penalties[organ]):
            if len(best) >= wanted and penalties[organ] > best[wanted - 1][0]:
                break
            part = self.filter(organ=organ).nearest_to(point, wanted, kept=kept[organ], has_index=has_index)
            plans += [Plan(**{**vars(plan), "organ": names[organ]}) for plan in part.plans]
            best += [
                (distance**2 + penalties[organ], pk, distance)
                for pk, distance in zip(part.ids, part.distances, strict=True)
            ]
            best = sorted(best)[:wanted]
        return Ranking([pk for _, pk, _ in best], [distance for *_, distance in best], plans)

    def with_images(self, ids: list[int]) -> dict[int, "Embedding"]:
        """These embeddings with what a page shows of them, by id."""
        found: dict[int, Embedding] = (
            self.model.objects.using(self.db)
            .filter(pk__in=ids)
            .defer("fc1", "projection")
            .select_related("image__organ", "image__dataset", "predicted_organ")
            .in_bulk()
        )
        return found


class Prefix(Func):
    """The first dimensions of a projection, as the IVFFlat index has them."""

    template = f"subvector(%(expressions)s, 1, {PREFIX_DIMENSIONS})::halfvec({PREFIX_DIMENSIONS})"


class Components(Func):
    """A projection without its last number, the length of what the components leave."""

    template = f"subvector(%(expressions)s, 1, {COMPONENTS})::halfvec({COMPONENTS})"


def distance_inside(point: Point) -> L2Distance:
    """By the components alone: a better guess of the distance on FC1 than the bound is, and no bound."""
    return L2Distance(Components("projection"), Value(as_text(point.projection[:COMPONENTS])))


def projected_distance(point: Point) -> L2Distance:
    """At most the distance on FC1."""
    return L2Distance("projection", Value(as_text(point.projection)))


@models.Field.register_lookup
class AnyOf(models.Lookup[Any]):
    """`= ANY(array)`: as `in`, but one parameter for all values: hundreds are sent faster so."""

    lookup_name = "any_of"
    prepare_rhs = False

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, list[Any]]:  # type: ignore[override]
        left, params = self.process_lhs(compiler, connection)
        return f"{left} = ANY(%s)", [*params, list(self.rhs)]


def rows_of(found: "models.QuerySet[Embedding, Any]") -> list[Any]:
    """What a query set of values finds, as the driver gives it: thousands of rows cost Django much."""
    with connections[found.db].cursor() as cursor:
        cursor.execute(*found.query.sql_with_params())
        rows: list[Any] = cursor.fetchall()
    return rows


def by_distance(row: tuple[int, float]) -> tuple[float, int]:
    return row[1], row[0]


def made_of(rows: list[tuple[int, float]], plan: Plan) -> Ranking:
    return Ranking([pk for pk, _ in rows], [distance for _, distance in rows], [plan])


def as_text(vector: NDArray[np.float32]) -> str:
    """As pgvector reads it, in the precision that it keeps."""
    bits = np.ascontiguousarray(vector, np.float16).view(np.uint16)
    return "[" + ",".join(half_texts()[bits].tolist()) + "]"


@cache
def half_texts() -> NDArray[np.object_]:
    """Every number in half precision as text, by its bits: formatting 4096 numbers takes a millisecond."""
    with np.errstate(invalid="ignore"):
        numbers = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32).tolist()
    return np.array([f"{number:.6g}" if number else "0" for number in numbers], object)
