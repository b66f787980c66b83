"""One HNSW index for each model version, of its projections: built beside the others, dropped alone."""

from dataclasses import dataclass

from django.conf import settings
from django.db import connection
from psycopg import sql

from ml.models import ModelVersion
from search.ranking import EXACT_SCAN_ROWS, PREFIX_DIMENSIONS

LEAST_ROWS = EXACT_SCAN_ROWS // 2  # a version with fewer embeddings is scanned, and needs no index
LINKS, BUILD_CANDIDATES = 32, 200  # pgvector's m and ef_construction; see benchmarks/search.py
BYTES_PER_ROW = 1_000  # of the graph while it is built: what it orders by, and its links


PREFIX = f"(subvector(projection, 1, {PREFIX_DIMENSIONS})::halfvec({PREFIX_DIMENSIONS}))"


def name_of(version_id: int) -> str:
    return f"embedding_hnsw_v{version_id}"


def is_built(version_id: int) -> bool:
    """Whether the index is there and whole."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", [name_of(version_id)]
        )
        row = cursor.fetchone()
    return bool(row and row[0])


def build(version: ModelVersion, rows: int) -> None:
    """Build it while searches and imports go on; what a killed build left is dropped first."""
    drop(version.pk)
    memory = min(rows * BYTES_PER_ROW // 2**20 + 64, settings.INDEX_MEMORY_MB)
    statement = sql.SQL(
        "CREATE INDEX CONCURRENTLY {name} ON search_embedding USING hnsw ({prefix} halfvec_l2_ops)"
        " WITH (m = {links}, ef_construction = {candidates}) WHERE model_version_id = {version}"
    ).format(
        name=sql.Identifier(name_of(version.pk)),
        prefix=sql.SQL(PREFIX),
        links=sql.Literal(LINKS),
        candidates=sql.Literal(BUILD_CANDIDATES),
        version=sql.Literal(version.pk),
    )
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('maintenance_work_mem', %s, false)", [f"{memory}MB"])
        try:
            cursor.execute(statement.as_string(cursor.connection))
        finally:
            cursor.execute("RESET maintenance_work_mem")


def drop(version_id: int) -> None:
    name = sql.Identifier(name_of(version_id))
    with connection.cursor() as cursor:
        statement = sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {name}").format(name=name)
        cursor.execute(statement.as_string(cursor.connection))


@dataclass(frozen=True)
class Build:
    """An index that is being built, as PostgreSQL tells of it."""

    version_id: int
    phase: str
    done: int
    total: int


def builds_under_way() -> list[Build]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname, phase, tuples_done, blocks_done, blocks_total, reltuples::bigint"
            " FROM pg_stat_progress_create_index progress"
            " JOIN pg_class ON pg_class.oid = progress.index_relid"
            " WHERE progress.datname = current_database() AND relname LIKE 'embedding\\_hnsw\\_v%%'"
        )
        rows = cursor.fetchall()
    return [
        Build(int(name.rpartition("v")[2]), phase, blocks_done, blocks_total)
        for name, phase, _, blocks_done, blocks_total, _ in rows
    ]
