"""One IVFFlat index of projections for each model version: built beside the others, rebuilt, dropped alone.

The projections fall into clusters (k-means); a search reads the clusters nearest to it. Nothing here locks
searches or imports out; nothing here can be part of a transaction.
"""

import math
from dataclasses import dataclass

from django.conf import settings
from django.db import OperationalError, connection
from psycopg import sql

from ml.models import ModelVersion
from search.ranking import EXACT_SCAN_ROWS, PREFIX_DIMENSIONS

LEAST_ROWS = EXACT_SCAN_ROWS // 2  # a version with fewer embeddings is scanned, and needs no index
CLUSTERS = 3.2  # times the square root of the rows; see benchmarks/search.py
GROWN = 2.0  # an index that should have so many times its clusters is built anew
MOST_CLUSTERS = 32_768  # pgvector's limit
SAMPLED = 50  # rows for each cluster, which pgvector's k-means holds in memory
BYTES_PER_SAMPLE = 2 * PREFIX_DIMENSIONS + 64
PREFIX = f"(subvector(projection, 1, {PREFIX_DIMENSIONS})::halfvec({PREFIX_DIMENSIONS}))"


def name_of(version_id: int) -> str:
    return f"embedding_ivfflat_v{version_id}"


def is_built(version_id: int) -> bool:
    """Whether the index is there and whole."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", [name_of(version_id)]
        )
        row = cursor.fetchone()
    return bool(row and row[0])


def size_bytes(version_id: int) -> int | None:
    """On disk; None where there is no index."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_relation_size(to_regclass(%s))", [name_of(version_id)])
        row = cursor.fetchone()
    return row[0] if row else None


def clusters_for(rows: int) -> int:
    """As many as searching is fastest with, if k-means has the memory for them (INDEX_MEMORY_MB)."""
    wanted = min(round(CLUSTERS * math.sqrt(rows)), MOST_CLUSTERS)
    while wanted > 1 and memory_for(wanted) > settings.INDEX_MEMORY_MB * 2**20:
        wanted = round(0.95 * wanted)
    return max(1, wanted)


def memory_for(clusters: int) -> int:
    """Bytes that pgvector's k-means takes: samples, and a bound for each of them and each cluster."""
    return SAMPLED * clusters * (BYTES_PER_SAMPLE + 4 * clusters) + 4 * clusters**2


def is_outgrown(version_id: int, rows: int) -> bool:
    """Whether the index has far fewer clusters than it would be built with: each is read for longer."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT option_value::integer FROM pg_class, pg_options_to_table(reloptions)"
            " WHERE pg_class.oid = to_regclass(%s) AND option_name = 'lists'",
            [name_of(version_id)],
        )
        row = cursor.fetchone()
    return row is not None and clusters_for(rows) > GROWN * row[0]


def build(version: ModelVersion, rows: int) -> None:
    """Build it while searches and imports go on; what a killed build left is dropped first."""
    drop(version.pk)
    create(name_of(version.pk), version.pk, rows)


def rebuild(version: ModelVersion, rows: int) -> None:
    """Build it anew; searches have the earlier one until the new one is whole."""
    if not is_built(version.pk):
        build(version, rows)
        return
    earlier, new = name_of(version.pk), f"{name_of(version.pk)}_new"
    drop_index(new)
    try:
        create(new, version.pk, rows)
    except OperationalError:
        drop_index(new)
        raise
    drop_index(earlier)
    with connection.cursor() as cursor:
        statement = sql.SQL("ALTER INDEX {new} RENAME TO {name}")
        names = {"new": sql.Identifier(new), "name": sql.Identifier(earlier)}
        cursor.execute(statement.format(**names).as_string(cursor.connection))


def create(name: str, version_id: int, rows: int) -> None:
    clusters = clusters_for(rows)
    statement = sql.SQL(
        "CREATE INDEX CONCURRENTLY {name} ON search_embedding USING ivfflat ({prefix} halfvec_l2_ops)"
        " WITH (lists = {clusters}) WHERE model_version_id = {version}"
    ).format(
        name=sql.Identifier(name),
        prefix=sql.SQL(PREFIX),
        clusters=sql.Literal(clusters),
        version=sql.Literal(version_id),
    )
    memory = memory_for(clusters) // 2**20 + 64
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('maintenance_work_mem', %s, false)", [f"{memory}MB"])
        try:
            cursor.execute(statement.as_string(cursor.connection))
        finally:
            cursor.execute("RESET maintenance_work_mem")


def drop(version_id: int) -> None:
    drop_index(name_of(version_id))
    drop_index(f"{name_of(version_id)}_new")


def drop_index(name: str) -> None:
    with connection.cursor() as cursor:
        statement = sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {name}").format(name=sql.Identifier(name))
        cursor.execute(statement.as_string(cursor.connection))


@dataclass(frozen=True)
class Build:
    """An index that is being built, as PostgreSQL tells of it."""

    version_id: int
    phase: str  # in PostgreSQL's words
    rows: int  # that are in it


def builds_under_way() -> list[Build]:
    """Also those of rebuilding, and those that wait for earlier transactions to end."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT substring(relname FROM '^embedding_ivfflat_v([0-9]+)')::bigint, phase, tuples_done"
            " FROM pg_stat_progress_create_index progress"
            " JOIN pg_class ON pg_class.oid = progress.index_relid"
            " WHERE progress.datname = current_database() AND relname ~ '^embedding_ivfflat_v[0-9]'"
        )
        return [Build(*row) for row in cursor.fetchall()]
