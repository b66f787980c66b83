"""What the inference, indexing and upkeep workers do. Who answers queries does nothing else."""

import logging
from functools import partial
from typing import Any

from celery import Task, shared_task
from celery.signals import heartbeat_sent, worker_ready

from ingest.bell import ring, ring_now
from ml.models import ModelVersion
from ml.workers import tell_engine
from search import answering, explaining, indexing, ivfflat, likeness, probing
from search.models import Explanation, Query, QueryStatus

logger = logging.getLogger(__name__)
BUSY_SECONDS = 60  # until a worker asks again whether another one is done building

heartbeat_sent.connect(tell_engine)


@shared_task(name="search.answer_query")
def answer_query(query_id: str) -> None:
    query = Query.objects.filter(pk=query_id).select_related("image").first()
    if query:
        answering.answer(query)


@shared_task(name="search.answer_waiting_queries")
def answer_waiting_queries() -> None:
    """Answer what a lost message or a killed worker left waiting."""
    for query in Query.objects.filter(status=QueryStatus.WAITING).select_related("image"):
        answering.answer(query)
    for explanation in Explanation.objects.filter(status=QueryStatus.WAITING).select_related(
        "query", "image"
    ):
        explaining.explain(explanation)


@shared_task(name="search.explain")
def explain(explanation_id: int) -> None:
    found = Explanation.objects.filter(pk=explanation_id).select_related("query", "image").first()
    if found:
        explaining.explain(found)


@shared_task(name="search.index_images")
def index_images() -> None:
    """One batch; where there are more, another thread or worker begins with the next one meanwhile."""
    indexing.index_next_batch(on_more=partial(ring_now, index_images))


@shared_task(name="search.prepare_versions")
def prepare_versions() -> None:
    """Build and fit what searching under a version rests on, then put into service what waits for that."""
    indexing.prepare_versions()


@shared_task(name="search.rebuild_index", bind=True, max_retries=None)
def rebuild_index(self: Task, version_id: int) -> None:
    """Build a version's IVFFlat index anew, and see how well it does."""
    version = ModelVersion.objects.filter(pk=version_id).first()
    if version is None:
        return
    if not indexing.rebuild(version):
        raise self.retry(countdown=BUSY_SECONDS)
    probing.probe(version, most_seconds=probing.THOROUGH_SECONDS)


@shared_task(name="search.drop_embeddings")
def drop_embeddings(version_id: int) -> None:
    """Of a version that is gone too: its rows went with it, its index did not."""
    version = ModelVersion.objects.filter(pk=version_id).first()
    try:
        if version:
            indexing.drop_embeddings(version)
        else:
            ivfflat.drop(version_id)
    except indexing.InServiceError as refusal:
        logger.warning("%s", refusal)


@shared_task(name="search.probe_recall")
def probe_recall() -> None:
    probing.probe_active_version()


@shared_task(name="search.find_near_duplicates")
def find_near_duplicates() -> None:
    """Some seconds of it, then to the back of the queue; not while many images wait to be searchable."""
    if not indexing.is_behind() and likeness.find_near_duplicates():
        ring(find_near_duplicates)


@worker_ready.connect
def warm_up(sender: Any, **_: object) -> None:
    """Load the active network before the first query comes, and look for what was left undone."""
    queues = sender.app.amqp.queues.consume_from
    if "inference" not in queues:  # of no interest to those who wait for an answer
        heartbeat_sent.disconnect(tell_engine)
    else:
        if version := ModelVersion.objects.active():
            from ml.serving import describer_for

            describer_for(version.pk)
        ring(answer_waiting_queries)
    if "indexing" in queues:
        from ml import serving

        # One thread reads and writes while the others calculate.
        serving.calls_at_once = max(1, sender.controller.concurrency - 1)
        ring(index_images)
