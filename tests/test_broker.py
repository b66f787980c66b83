"""The broker may forget everything at any time: the schedule asks the database for what is left to do."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from celery import current_app
from django.conf import settings

from cbmir_site import embedded
from cbmir_site.supervisor import default_services
from ingest.models import Image
from ingest.receiving import open_batch, receive_file
from ml.models import ModelVersion
from search.models import Embedding
from tests.factories import png_bytes
from tests.processes import ROOT, environment, wait_until

# The schedule as it is, on a faster clock.
HURRIED_SCHEDULE = """
import logging
from cbmir_site.celery import app
for entry in app.conf.beat_schedule.values():
    entry["schedule"] = 1.0
app.Beat(loglevel=logging.WARNING).run()
"""

Start = Callable[[list[str]], subprocess.Popen[bytes]]


@pytest.fixture
def broker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The socket of a Redis that belongs to the test."""
    return tmp_path_factory.mktemp("redis") / "redis.sock"


@pytest.fixture
def start(transactional_db: None, tmp_path: Path, broker: Path) -> Iterator[Start]:
    """Starts a process of an installation with this broker; all are killed at the end."""
    processes: list[subprocess.Popen[bytes]] = []
    surroundings = {**environment(), "REDIS_URL": f"unix://{broker}"}

    def start_process(command: list[str]) -> subprocess.Popen[bytes]:
        with open(tmp_path / "log", "ab") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=surroundings, stdout=log, stderr=log, start_new_session=True
            )
        processes.append(process)
        return process

    yield start_process
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, 9)
            process.wait()


def redis_command(socket: Path) -> list[str]:
    ours, theirs = str(socket), str(embedded.run_dir() / "redis.sock")
    return [ours if argument == theirs else argument for argument in embedded.redis_command()]


def start_redis(start: Start, socket: Path) -> subprocess.Popen[bytes]:
    process = start(redis_command(socket))
    wait_until(lambda: answers(socket), "Redis")
    return process


def answers(socket: Path) -> bool:
    try:
        return bool(redis.Redis(unix_socket_path=str(socket)).ping())
    except redis.ConnectionError:
        return False


def test_what_has_no_message_is_done_even_after_redis_was_lost(
    start: Start, broker: Path, model_version: ModelVersion
) -> None:
    lost = start_redis(start, broker)
    workers = [s for s in default_services("127.0.0.1", 0) if s.name in ("ingest", "indexing")]

    def is_described(images: int) -> bool:
        for worker in workers:  # as the supervisor does: Celery may end when its broker does
            if worker.process is None or worker.process.poll() is not None:
                worker.process = start(worker.command)
        return Embedding.objects.count() == images

    start([sys.executable, "-c", HURRIED_SCHEDULE])
    batch = open_batch("ward", "dicom", None)
    for seed in range(3):
        receive_file(batch, f"{seed}.png", png_bytes(seed=seed))  # and nobody rings
    wait_until(lambda: is_described(3), "the first files")

    lost.kill()
    lost.wait()
    for seed in range(3, 6):
        receive_file(batch, f"{seed}.png", png_bytes(seed=seed))
    start_redis(start, broker)
    wait_until(lambda: is_described(6), "the rest")
    assert Image.objects.count() == 6
    assert batch.is_finished


def test_every_kind_of_unfinished_work_is_looked_for() -> None:
    current_app.loader.import_default_modules()
    scheduled = {entry["task"] for entry in settings.CELERY_BEAT_SCHEDULE.values()}
    assert scheduled <= set(current_app.tasks)
    assert scheduled == {
        "ingest.import_queued_files",
        "search.index_images",
        "search.answer_waiting_queries",
        "ml.train_queued_runs",
        "search.probe_recall",
        "search.find_near_duplicates",
        "ingest.forget_rejected_files",
        "ingest.forget_unfinished_uploads",
        "ingest.look_at_watched_folders",
        "ingest.sweep_storage",
        "ingest.empty_trash",
    }
    seldom = {
        "search.find_near_duplicates",
        "search.probe_recall",
        "ingest.forget_rejected_files",
        "ingest.forget_unfinished_uploads",
        "ingest.sweep_storage",
        "ingest.empty_trash",
    }
    for name, entry in settings.CELERY_BEAT_SCHEDULE.items():
        assert entry["options"]["expires"] < entry["schedule"]
        assert entry["schedule"] <= (3600 if name in seldom else 60)
