"""One HNSW index for each model version, of its projections: built beside the others, rebuilt, dropped alone.

Nothing here locks searches or imports out; nothing here can be part of a transaction.
"""

from dataclasses import dataclass

from django.conf import settings
from django.db import OperationalError, connection
from psycopg import errors, sql

from ml.models import ModelVersion
from search.ranking import EXACT_SCAN_ROWS, PREFIX_DIMENSIONS

LEAST_ROWS = EXACT_SCAN_ROWS // 2  # a version with fewer embeddings is scanned, and needs no index
LINKS, BUILD_CANDIDATES = 32, 200  # pgvector's m and ef_construction; see benchmarks/search.py
BYTES_PER_ROW = 2_000  # of the graph while it is built: what it orders by, and its links; measured


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


def size_bytes(version_id: int) -> int | None:
    """On disk; None where there is no index."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_relation_size(to_regclass(%s))", [name_of(version_id)])
        row = cursor.fetchone()
    return row[0] if row else None


def build(version: ModelVersion, rows: int) -> None:
    """Build it while searches and imports go on; what a killed build left is dropped first."""
    drop(version.pk)
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
    try:
        run(statement, rows)
    except OperationalError as error:
        if not isinstance(error.__cause__, errors.DiskFull):
            raise
        # Several processes build in shared memory, of which containers have little; one needs none.
        drop(version.pk)
        run(statement, rows, processes=0)


def rebuild(version: ModelVersion, rows: int) -> None:
    """Build it anew; searches have the earlier one until the new one is whole."""
    if not is_built(version.pk):
        build(version, rows)
        return
    drop_unfinished(version.pk)
    name = sql.Identifier(name_of(version.pk))
    statement = sql.SQL("REINDEX INDEX CONCURRENTLY {name}").format(name=name)
    try:
        run(statement, rows)
    except OperationalError as error:
        drop_unfinished(version.pk)
        if not isinstance(error.__cause__, errors.DiskFull):
            raise
        run(statement, rows, processes=0)


def run(statement: sql.Composed, rows: int, processes: int | None = None) -> None:
    """With memory for that many rows; `processes` beside the server's own, if not as many as it likes."""
    memory = min(rows * BYTES_PER_ROW // 2**20 + 64, settings.INDEX_MEMORY_MB)
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('maintenance_work_mem', %s, false)", [f"{memory}MB"])
        if processes is not None:
            cursor.execute(
                "SELECT set_config('max_parallel_maintenance_workers', %s, false)", [str(processes)]
            )
        try:
            cursor.execute(statement.as_string(cursor.connection))
        finally:
            cursor.execute("RESET maintenance_work_mem; RESET max_parallel_maintenance_workers")


def drop(version_id: int) -> None:
    drop_index(name_of(version_id))
    drop_unfinished(version_id)


def drop_unfinished(version_id: int) -> None:
    """What a rebuilding that failed has left: PostgreSQL names it after the index, with _ccnew or _ccold."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'i' AND relname ~ %s",
            [f"^{name_of(version_id)}_cc(new|old)[0-9]*$"],
        )
        names = [name for (name,) in cursor.fetchall()]
    for name in names:
        drop_index(name)


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
            "SELECT substring(relname FROM '^embedding_hnsw_v([0-9]+)')::bigint, phase, tuples_done"
            " FROM pg_stat_progress_create_index progress"
            " JOIN pg_class ON pg_class.oid = progress.index_relid"
            " WHERE progress.datname = current_database() AND relname ~ '^embedding_hnsw_v[0-9]'"
        )
        return [Build(*row) for row in cursor.fetchall()]
