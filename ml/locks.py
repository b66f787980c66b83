"""One worker per training run."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import DatabaseError, connection

TRAINING = 17_02  # the first half of the advisory lock's key; the second is the run's id


def lock_run(run_id: int) -> bool:
    """Take the run for this database session; False when another session has it.

    The lock ends with the session: a killed worker holds nothing.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s, %s)", [TRAINING, run_id])
        return bool(cursor.fetchone()[0])


@contextmanager
def locked_run(run_id: int) -> Iterator[bool]:
    """Whether this worker may train the run; given back at the end."""
    locked = lock_run(run_id)
    try:
        yield locked
    finally:
        if locked:
            unlock_run(run_id)


def unlock_run(run_id: int) -> None:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s, %s)", [TRAINING, run_id])
    except DatabaseError:
        connection.close()  # the session is gone, and the lock with it
