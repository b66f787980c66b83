"""Telling a worker that there is work. The work itself is rows of the database."""

import logging
from functools import partial

from celery import Task, current_app
from django.db import transaction
from kombu.exceptions import OperationalError

logger = logging.getLogger(__name__)


def ring(task: Task | str, *args: object) -> None:
    """Send `task` (or the task of that name) to its queue once the current transaction is committed.

    A broker that is down loses nothing: the rows stay, and the schedule rings again.
    """
    transaction.on_commit(partial(ring_now, task, *args))


def ring_now(task: Task | str, *args: object) -> None:
    """As `ring`, of work that was there before the current transaction."""
    name = task if isinstance(task, str) else str(task.name)
    try:
        current_app.send_task(name, args=args, retry=False)
    except (OperationalError, ConnectionError):
        logger.warning("The broker is down; %s waits for the next scheduled look.", name)
