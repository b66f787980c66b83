"""What tests with processes of their own need: the test database's address, a free port, patience."""

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from django.conf import settings
from django.db import connection

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_SECONDS = 300  # two cores may have other tests to run, too


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment() -> dict[str, str]:
    """The test's own environment, with the test database and the test's folders."""
    url = urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{connection.settings_dict['NAME']}").geturl()
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "cbmir_site.settings",
        "DATABASE_URL": url,
        "CBMIR_DATA_DIR": str(settings.DATA_DIR),
        "CBMIR_MEDIA_ROOT": str(settings.MEDIA_ROOT),
    }
