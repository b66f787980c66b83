"""What is known of the workers: asked of the broker, or told by themselves through the cache."""

import time
from contextlib import suppress
from typing import Any

from celery import current_app
from django.core.cache import cache
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

ENGINES_KEY = "engines"
SILENT_SECONDS = 30  # after which a worker counts as gone; they speak every two seconds

engine_in_use = ""  # the name of the engine, once this process has a network ready


def worker_listens_to(queue: str) -> bool:
    """Whether a worker takes messages from `queue`; asks all workers and waits a second for their answer."""
    try:
        answers = current_app.control.inspect(timeout=1).active_queues() or {}
    except (OperationalError, ConnectionError):
        return False
    return any(entry["name"] == queue for queues in answers.values() for entry in queues)


def tell_engine(sender: Any, **_: object) -> None:
    """With every heartbeat of a worker: what its networks run on."""
    if engine_in_use:
        with suppress(RedisError):
            told = {**_engines_told(), sender.eventer.hostname: (engine_in_use, time.time())}
            cache.set(ENGINES_KEY, told, SILENT_SECONDS)


def engines_at_work() -> list[str]:
    """The engines of the workers that have a network ready; empty too while Redis is down."""
    with suppress(RedisError):
        return sorted({engine for engine, _ in _engines_told().values()})
    return []


def _engines_told() -> dict[str, tuple[str, float]]:
    """By worker: its engine, and when it last said so."""
    told: dict[str, tuple[str, float]] = cache.get(ENGINES_KEY, {})
    return {worker: said for worker, said in told.items() if time.time() - said[1] < SILENT_SECONDS}
