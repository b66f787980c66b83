"""Read replicas: a search is read from one that has all that its query needs, or else from the primary.

A query's row is written last of all that its ranking is made of: its parts and marks, and the embeddings up
to its `newest_embedding`. A replica replays commits in their order. So one that has the row as the primary
has it has everything, and no position in the log need be kept. What changes afterwards (labels, deletions,
what is fitted anew) is seen a little later there than on the primary, by MOST_SECONDS_BEHIND at most.
"""

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from threading import Lock
from typing import TypeVar

from django.db import DEFAULT_DB_ALIAS, Error, InterfaceError, OperationalError, connections
from django.db.models import Model

from search.models import Query

logger = logging.getLogger(__name__)

MOST_SECONDS_BEHIND = 30.0  # a replica farther behind is not read from
ASKED_SECONDS, AWAY_SECONDS = 5.0, 30.0  # how long it is remembered how a replica stands, or that it is away

Found = TypeVar("Found")
read_from: ContextVar[str] = ContextVar("read_from", default=DEFAULT_DB_ALIAS)


class ReplicaRouter:
    """Django's database router: everything on the primary but what is read inside `reading_from`."""

    def db_for_read(self, model: type[Model], **hints: object) -> str:
        return read_from.get()

    def db_for_write(self, model: type[Model], **hints: object) -> str:
        return DEFAULT_DB_ALIAS

    def allow_relation(self, one: Model, other: Model, **hints: object) -> bool:
        return True  # they hold the same rows

    def allow_migrate(self, db: str, app_label: str, **hints: object) -> bool:
        return not db.startswith("replica")  # they have what the primary has


@contextmanager
def reading_from(alias: str) -> Iterator[None]:
    token = read_from.set(alias)
    try:
        yield
    finally:
        read_from.reset(token)


def read_beside(query: Query, read: Callable[[], Found]) -> Found:
    """What `read` returns: all of it from one replica that is fit for the query, or else from the primary.

    A replica that fails meanwhile is left alone for a while, and `read` begins anew elsewhere.
    """
    for alias in random.sample(aliases(), len(aliases())):
        try:
            if standing_of(alias).is_near and has_query(alias, query):
                with reading_from(alias):
                    return read()
        except (OperationalError, InterfaceError):
            logger.warning("A search could not be read from %s.", name_of(alias), exc_info=True)
            leave_alone(alias)
    return read()


def aliases() -> list[str]:
    return [alias for alias in connections if alias != DEFAULT_DB_ALIAS]


def has_query(alias: str, query: Query) -> bool:
    """Whether the replica has the query's row as it was read from the primary."""
    same = Query.objects.using(alias).filter(pk=query.pk, status=query.status)
    return same.filter(model_version=query.model_version_id, newest_embedding=query.newest_embedding).exists()


@dataclass(frozen=True)
class Standing:
    """How a replica stood when it was last asked. Nothing is known of one that did not answer."""

    name: str
    is_reachable: bool = False
    bytes_behind: int | None = None
    seconds_behind: float | None = None

    @property
    def is_near(self) -> bool:
        return self.seconds_behind is not None and self.seconds_behind <= MOST_SECONDS_BEHIND


_known: dict[str, tuple[float, Standing]] = {}  # by alias, until when by time.monotonic
_asking = Lock()


def standings() -> list[Standing]:
    """How each replica stands, in the order of CBMIR_REPLICA_URL."""
    return [standing_of(alias) for alias in aliases()]


def standing_of(alias: str) -> Standing:
    """As it was found some seconds ago. One thread at a time asks anew; the others go by what is known."""
    until, standing = _known.get(alias, (float("-inf"), Standing(name_of(alias))))
    if time.monotonic() > until and _asking.acquire(blocking=False):
        try:
            standing = ask(alias)
        finally:
            _asking.release()
    return standing


def leave_alone(alias: str) -> Standing:
    """For a while, so that no search waits for what has just been found away."""
    connections[alias].close()
    standing = Standing(name_of(alias))
    _known[alias] = time.monotonic() + AWAY_SECONDS, standing
    return standing


def ask(alias: str) -> Standing:
    """Ask the primary how far its log is, then the replica how much of that it has replayed.

    The commit that it replayed last is at least as old as what it lacks is: its age is the most that it can
    be behind. Where it lacks nothing, that age only says how long nothing has happened.
    """
    with connections[DEFAULT_DB_ALIAS].cursor() as cursor:
        cursor.execute("SELECT pg_current_wal_lsn()")
        (position,) = cursor.fetchone()
    try:
        with connections[alias].cursor() as cursor:
            cursor.execute(
                "SELECT greatest(pg_wal_lsn_diff(%s, pg_last_wal_replay_lsn()), 0)::bigint,"
                " extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float",
                [position],
            )
            lacking, age = cursor.fetchone()
    except Error:
        logger.warning("The replica %s is not to be reached.", name_of(alias))
        return leave_alone(alias)
    standing = Standing(name_of(alias), True, lacking, 0.0 if lacking == 0 else age)
    _known[alias] = time.monotonic() + ASKED_SECONDS, standing
    return standing


def name_of(alias: str) -> str:
    """Its host and port, for people."""
    settings = connections[alias].settings_dict
    return ":".join(str(settings[part]) for part in ("HOST", "PORT") if settings[part]) or alias
