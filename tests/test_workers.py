"""Real Celery workers on the test database: killed, restarted, and left without their messages."""

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import torch
from celery import current_app
from django.test import Client

from cbmir_site.supervisor import default_services
from ingest.models import FileState, Image
from ingest.receiving import open_batch, receive_file
from ingest.tasks import import_queued_files
from ml.models import ModelVersion
from ml.workers import engines_at_work
from search import asking
from search.models import Embedding, Query, QueryStatus
from search.tasks import answer_waiting_queries, index_images
from tests.factories import dicom_bytes, make_image, png_bytes
from tests.processes import ROOT, environment, wait_until

Start = Callable[[str], subprocess.Popen[bytes]]
UPKEEP = ("prepare_versions", "rebuild_index", "drop_embeddings", "probe_recall", "find_near_duplicates")


@pytest.fixture
def start(transactional_db: None, tmp_path: Path) -> Iterator[Start]:
    """Starts the worker of a queue, as `manage.py run` does; all are killed at the end."""
    workers: list[subprocess.Popen[bytes]] = []

    def start_worker(queue: str) -> subprocess.Popen[bytes]:
        (command,) = [s.command for s in default_services("127.0.0.1", 0) if s.name == queue]
        with open(tmp_path / f"{queue}.log", "ab") as log:
            workers.append(
                subprocess.Popen(
                    command, cwd=ROOT, env=environment(), stdout=log, stderr=log, start_new_session=True
                )
            )
        return workers[-1]

    yield start_worker
    for worker in workers:
        kill(worker)
    forget_messages()


def kill(worker: subprocess.Popen[bytes]) -> None:
    """kill -9 of the worker and of the processes it has started."""
    if worker.poll() is None:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


def forget_messages() -> None:
    redis.Redis.from_url(os.environ["REDIS_URL"]).flushall()


def test_every_task_has_its_queue() -> None:
    queues = {"ingest": "ingest", "search": "inference", "ml": "training"}
    others = {"search.index_images": "indexing", **{f"search.{name}": "upkeep" for name in UPKEEP}}
    current_app.loader.import_default_modules()
    tasks = [name for name in current_app.tasks if name.split(".")[0] in queues]
    assert len(tasks) >= 6
    for name in tasks:
        route = current_app.amqp.router.route({}, name)
        assert route["queue"].name == others.get(name, queues[name.split(".")[0]]), name
    assert others.keys() <= set(tasks)


def test_received_files_are_imported_and_indexed(start: Start, model_version: ModelVersion) -> None:
    start("ingest")
    start("indexing")
    batch = open_batch("ward", "dicom", None)
    for seed in range(3):
        receive_file(batch, f"{seed}.dcm", dicom_bytes(seed=seed))
    receive_file(batch, "bad.dcm", dicom_bytes(seed=9)[:700])
    import_queued_files.delay()
    wait_until(lambda: Embedding.objects.count() == 3, "the index")
    assert Counter(batch.files.values_list("state", flat=True)) == {"imported": 3, "rejected": 1}


def test_a_worker_killed_in_the_middle_loses_no_file(start: Start) -> None:
    worker = start("ingest")
    batch = open_batch("ward", "dicom", None)
    for seed in range(150):
        receive_file(batch, f"{seed}.png", png_bytes(seed=seed))
    import_queued_files.delay()
    wait_until(lambda: Image.objects.count() >= 10, "the first images")
    kill(worker)
    assert Image.objects.count() < 150
    # What it held is released after a minute; the test does not wait for that.
    batch.files.filter(state=FileState.READING).update(claimed_at="2026-01-01T00:00Z")
    forget_messages()

    start("ingest")
    import_queued_files.delay()
    wait_until(lambda: batch.files.filter(state=FileState.IMPORTED).count() == 150, "the rest")
    assert Image.objects.count() == 150
    assert len(set(Image.objects.values_list("sha256", flat=True))) == 150


def test_a_query_whose_message_was_lost_is_answered(start: Start, model_version: ModelVersion) -> None:
    query = asking.ask_with_file(png_bytes(), None)
    forget_messages()
    start("inference")  # looks for what was left undone when it starts
    wait_until(lambda: Query.objects.get(pk=query.pk).status == QueryStatus.ANSWERED, "the answer")


def test_the_engine_of_a_worker_is_on_the_status_page(
    start: Start, model_version: ModelVersion, client_of: Callable[[str | None], Client]
) -> None:
    client = client_of("clinician")
    assert "No inference worker has the network ready." in client.get("/status/").content.decode()
    start("inference")
    wait_until(engines_at_work, "the worker's heartbeat")
    page = client.get("/status/").content.decode()
    name = "PyTorch, CUDA" if torch.cuda.is_available() else "OpenVINO, CPU"
    assert f"The network runs on {name} " in page


def test_a_query_outlives_a_killed_worker(start: Start, model_version: ModelVersion) -> None:
    worker = start("inference")
    first = asking.ask_with_file(png_bytes(seed=1), None)
    wait_until(lambda: Query.objects.get(pk=first.pk).status == QueryStatus.ANSWERED, "the first answer")
    kill(worker)
    second = asking.ask_with_file(png_bytes(seed=2), None)
    start("inference")
    wait_until(lambda: Query.objects.get(pk=second.pk).status == QueryStatus.ANSWERED, "the second answer")


@pytest.mark.django_db
def test_tasks_run_twice_change_nothing(model_version: ModelVersion) -> None:
    make_image(1)
    batch = open_batch("ward", "dicom", None)
    receive_file(batch, "a.dcm", dicom_bytes(seed=5))
    query = asking.ask_with_file(png_bytes(), None)
    for _ in range(2):
        import_queued_files()
        index_images()
        answer_waiting_queries()
        query.refresh_from_db()
        numbers = (Image.objects.count(), Embedding.objects.count(), batch.files.get().attempts)
        assert (numbers, query.status) == ((2, 2, 1), QueryStatus.ANSWERED)


def test_tasks_are_acknowledged_late() -> None:
    assert current_app.conf.task_acks_late
    assert current_app.conf.task_reject_on_worker_lost
