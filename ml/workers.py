"""Asking the broker which workers are there."""

from celery import current_app
from kombu.exceptions import OperationalError


def worker_listens_to(queue: str) -> bool:
    """Whether a worker takes messages from `queue`; asks all workers and waits a second for their answer."""
    try:
        answers = current_app.control.inspect(timeout=1).active_queues() or {}
    except (OperationalError, ConnectionError):
        return False
    return any(entry["name"] == queue for queues in answers.values() for entry in queues)
