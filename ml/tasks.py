"""What the training worker does."""

from celery import shared_task
from celery.signals import worker_ready

from ingest.bell import ring
from ml.models import TrainingRun


@shared_task(name="ml.train")
def train(run_id: int) -> None:
    from ml.running import execute

    execute(run_id)


@shared_task(name="ml.train_queued_runs")
def train_queued_runs() -> None:
    """Train what a lost message left waiting, and take up again what a killed worker left unfinished."""
    for run_id in TrainingRun.objects.unfinished().values_list("pk", flat=True):
        train(run_id)


@worker_ready.connect
def look_for_unfinished_runs(sender: object, **_: object) -> None:
    queues = getattr(getattr(sender, "app", None), "amqp", None)
    if queues is not None and "training" in queues.queues.consume_from:
        ring(train_queued_runs)
