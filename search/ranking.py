"""Ranking by Euclidean distance on FC1: the one question that page, API and command line ask.

The projection proposes, FC1 decides. The IVFFlat index holds the first half of the projection, which is
smaller and tells nearly as much; all its components, which lie in the row that the index points to, choose
among what the index found. A projected distance never exceeds the one on FC1 (ml/projection.py): once the
wanted rows are ranked, only what is projected nearer than the last of them can still belong among them (Seidl
and Kriegel, "Optimal multi-step k-nearest neighbor search", SIGMOD 1998).
"""

import math
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from django.db import connections, models, transaction
from django.db.models import Count, Func, Value
from numpy.typing import NDArray
from pgvector import HalfVector
from pgvector.django import L2Distance

from ingest.models import Dataset

if TYPE_CHECKING:
    from ml.models import ModelVersion
    from search.models import Embedding

EXACT_SCAN_ROWS = 20_000  # up to here what the filter keeps is scanned whole; see benchmarks/search.py
COMPONENTS = 511  # of the projection, before the length of what they leave
PREFIX_DIMENSIONS = 256  # of these, which the IVFFlat index orders by
INDEX_WANTED = 200  # rows in all; deeper pages are scanned for exactly
INDEX_CANDIDATES = (20, 400, 4_000)  # from the index: for each row wanted, at least, at most
PROBES = (30, 200)  # clusters of the index that are read; as many at most while a filter leaves too few rows
INDEX_RANKED = (6, 120, 2_000)  # of these, ranked on FC1
SPARSE = (
    100_000  # rows of an index; those of a larger one lie more densely, and by the square root more are taken
)
SCAN_CANDIDATES = (50, 1_000, 50_000)  # from an exact scan; all within reach if these are too few
SCAN_RANKED = (2, 40, 10_000)  # of these, ranked on FC1 before it is known how far to look
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

    def nearest_to(self, point: Point, wanted: int, *, kept: int, indexed: int = 0) -> Ranking:
        """The `wanted` nearest, by (distance, id).

        kept: how many rows there are in this query set, as far as is known; indexed: in the index, 0 where
        there is none. By Path.EXACT the answer is that of an exact scan on FC1. By Path.IVFFLAT the index's
        recall is the limit: search/probing.py tells it.
        """
        if wanted < 1:
            return Ranking([], [])
        path = choose_path(kept, wanted, has_index=indexed > 0)
        if path == Path.IVFFLAT and (ranking := self._from_index(point, wanted, kept, indexed)):
            return ranking
        return self._scanned(point, wanted, kept)

    def _from_index(self, point: Point, wanted: int, kept: int, indexed: int) -> Ranking | None:
        """None where a filter keeps the index searching too long: then a scan has to answer."""
        density = max(1.0, math.sqrt(indexed / SPARSE))
        proposed = at_least(wanted, INDEX_CANDIDATES, density)
        prefix = Value(as_text(point.projection[:PREFIX_DIMENSIONS]))
        nearest = (
            self.alias(nearness=L2Distance(Prefix("projection"), prefix))
            .order_by("nearness")
            .values_list("pk", distance_inside(point))
        )
        probes, most_probes = PROBES
        with transaction.atomic(using=self.db):
            with connections[self.db].cursor() as cursor:
                cursor.execute(
                    "SET LOCAL ivfflat.iterative_scan = relaxed_order;"
                    f" SET LOCAL ivfflat.probes = {probes:d}; SET LOCAL ivfflat.max_probes = {most_probes:d}"
                )
            rows = ranked(nearest[:proposed], point, at_least(wanted, INDEX_RANKED, density), wanted)
        ranking = made_of(rows, Path.IVFFLAT, kept)
        return ranking if ranking.plans[0].candidates == proposed else None

    def _scanned(self, point: Point, wanted: int, kept: int) -> Ranking:
        nearest = (
            self.annotate(bound=projected_distance(point))
            .order_by("bound")
            .values_list("pk", "bound", Remainder("projection"))
        )
        proposed = at_least(wanted, SCAN_CANDIDATES)
        rows = ranked_within_reach(nearest[:proposed], point, at_least(wanted, SCAN_RANKED), wanted)
        if rows and rows[0].candidates == proposed and rows[0].farthest <= rows[0].reach:
            rows = ranked(nearest.filter(bound__lte=rows[0].reach), point, None, wanted)
        return made_of(rows, Path.EXACT, kept)

    def blended(
        self,
        point: Point,
        wanted: int,
        *,
        kept: dict[int, int],
        penalties: dict[int, float],
        names: dict[int, str],
        indexed: int = 0,
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
            part = self.filter(organ=organ).nearest_to(point, wanted, kept=kept[organ], indexed=indexed)
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


class Remainder(Func):
    """The last number of a projection: the length of what the components leave."""

    template = f"l2_norm(subvector(%(expressions)s, {COMPONENTS + 1}, 1))"


class Ranked(NamedTuple):
    """A row of a ranking, and what is the same in all of them."""

    pk: int
    distance: float
    candidates: int
    ranked: int
    farthest: float = 0.0  # bound of the last candidate
    reach: float = 0.0  # what is projected farther away cannot be among the wanted


def ranked(
    nearest: "models.QuerySet[Embedding, Any]", point: Point, most: int | None, wanted: int
) -> list[Ranked]:
    """By (distance on FC1, id), of those `most` whose second column is least; all in one exchange."""
    return rows_of(
        nearest,
        """
        WITH proposed (id, estimate) AS MATERIALIZED ({nearest}),
        chosen AS MATERIALIZED (SELECT id FROM proposed ORDER BY estimate LIMIT %s),
        tally AS MATERIALIZED (
            SELECT count(*) AS candidates, least(count(*), %s) AS ranked FROM proposed
        )
        SELECT id, fc1 <-> %s AS distance, candidates, ranked
        FROM "search_embedding" JOIN chosen USING (id) CROSS JOIN tally ORDER BY distance, id LIMIT %s
        """,
        [most, most, as_text(point.fc1), wanted],
    )


def ranked_within_reach(
    nearest: "models.QuerySet[Embedding, Any]", point: Point, first: int, wanted: int
) -> list[Ranked]:
    """By (distance on FC1, id). Of the columns id, bound, remainder the components' distance follows.

    The `first` of those nearest by the components tell how far the last of the wanted can be at most; all
    whose bounds are within that reach are ranked.
    """
    share, length = ROUNDING
    return rows_of(
        nearest,
        """
        WITH proposed (id, bound, remainder) AS MATERIALIZED ({nearest}),
        query AS MATERIALIZED (SELECT %s::halfvec AS asked),
        likely AS MATERIALIZED (
            SELECT id FROM proposed ORDER BY bound ^ 2 - (remainder - %s) ^ 2 LIMIT %s
        ),
        first AS MATERIALIZED (
            SELECT fc1 <-> asked AS distance
            FROM "search_embedding" JOIN likely USING (id) CROSS JOIN query ORDER BY distance LIMIT %s
        ),
        limits AS MATERIALIZED (
            SELECT CASE count(*) WHEN %s THEN max(distance) * %s + %s ELSE 'infinity' END AS reach FROM first
        ),
        chosen AS MATERIALIZED (SELECT id FROM proposed CROSS JOIN limits WHERE bound <= reach),
        tally AS MATERIALIZED (
            SELECT count(*) AS candidates, count(*) FILTER (WHERE bound <= reach) AS ranked,
                max(bound) AS farthest, max(reach) AS reach
            FROM proposed CROSS JOIN limits
        )
        SELECT id, fc1 <-> asked AS distance, candidates, ranked, farthest, reach
        FROM "search_embedding" JOIN chosen USING (id) CROSS JOIN query CROSS JOIN tally
        ORDER BY distance, id LIMIT %s
        """,
        [
            as_text(point.fc1),
            float(point.projection[-1]),
            first,
            wanted,
            wanted,
            share,
            length * float(np.linalg.norm(point.fc1)),
            wanted,
        ],
    )


def rows_of(nearest: "models.QuerySet[Embedding, Any]", statement: str, params: list[Any]) -> list[Ranked]:
    """What a statement about the proposed rows finds. The ORM knows no common table expressions.

    A sharded database answers each of these from its shards or from other ones' rows: see docs/operations.md.
    """
    proposed, proposed_params = nearest.query.sql_with_params()
    with connections[nearest.db].cursor() as cursor:
        cursor.execute(statement.format(nearest=proposed), [*proposed_params, *params])
        return [Ranked(*row) for row in cursor.fetchall()]


def at_least(wanted: int, amounts: tuple[int, int, int], density: float = 1.0) -> int:
    """Rows for so many wanted; amounts: for each, at least, at most."""
    share, least, most = amounts
    return min(round(density * max(share * wanted, least)), most)


def made_of(rows: list[Ranked], path: Path, kept: int) -> Ranking:
    plan = Plan(path, kept, rows[0].candidates, rows[0].ranked) if rows else Plan(path, kept)
    return Ranking([row.pk for row in rows], [row.distance for row in rows], [plan])


def as_text(vector: NDArray[np.float32]) -> str:
    """As pgvector reads it, in the precision that it keeps."""
    bits = np.ascontiguousarray(vector, np.float16).view(np.uint16)
    return "[" + ",".join(half_texts()[bits].tolist()) + "]"


class Halves(HalfVector):  # type: ignore[misc]
    """As pgvector's, and written ten times as fast: of each image that is described, too."""

    def to_text(self) -> str:
        return as_text(self.to_numpy())


@cache
def half_texts() -> NDArray[np.object_]:
    """Every number in half precision as text, by its bits: formatting 4096 numbers takes a millisecond."""
    with np.errstate(invalid="ignore"):
        numbers = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32).tolist()
    return np.array([f"{number:.6g}" if number else "0" for number in numbers], object)
