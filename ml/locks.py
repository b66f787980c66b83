"""Advisory locks of PostgreSQL: one worker per piece of work. They end with the database session."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import DatabaseError, connection

TRAINING = 17_02  # the first half of the lock's key; the second is the run's id
Key = tuple[int, int]


def lock_run(run_id: int) -> bool:
    """Take the run for this database session; False when another session has it.

    The lock ends with the session: a killed worker holds nothing.
    """
    return lock((TRAINING, run_id))


def lock(key: Key) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s, %s)", key)
        return bool(cursor.fetchone()[0])


def is_locked(key: Key) -> bool:
    """Whether any session has the lock."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND classid = %s AND objid = %s)",
            key,
        )
        return bool(cursor.fetchone()[0])


def unlock(key: Key) -> None:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s, %s)", key)
    except DatabaseError:
        connection.close()  # the session is gone, and the lock with it


@contextmanager
def locked(key: Key) -> Iterator[bool]:
    """Whether this session has the lock; given back at the end."""
    mine = lock(key)
    try:
        yield mine
    finally:
        if mine:
            unlock(key)


@contextmanager
def locked_run(run_id: int) -> Iterator[bool]:
    """Whether this worker may train the run; given back at the end."""
    with locked((TRAINING, run_id)) as mine:
        yield mine


def unlock_run(run_id: int) -> None:
    unlock((TRAINING, run_id))
