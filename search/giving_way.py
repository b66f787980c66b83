"""Work that nobody waits for stands aside while people search.

Priorities alone do not do it: where every core is busy, caches and memory are shared whoever comes first, and
each part of a search takes twice as long.
"""

import time
from datetime import timedelta
from typing import Any

from django.utils import timezone

from search.models import Query

SEARCH_SECONDS = 0.3  # about as long as a search takes, from the upload to its page
ASKED_EVERY = 0.05  # seconds between two looks

_looks_at = 0.0  # when this process looks next


def give_way(**_: Any) -> None:
    """Wait until no search was asked for in the last 0.3 s, but no longer than that.

    However many people search, this process goes on for half of the time.
    """
    global _looks_at
    began = now = time.monotonic()
    while _looks_at <= now < began + SEARCH_SECONDS and is_asked_just_now():
        time.sleep(ASKED_EVERY / 2)
        now = time.monotonic()
    if now >= _looks_at:
        _looks_at = now + max(now - began, ASKED_EVERY)


def is_asked_just_now() -> bool:
    since = timezone.now() - timedelta(seconds=SEARCH_SECONDS)
    return Query.objects.filter(created_at__gt=since).exists()
