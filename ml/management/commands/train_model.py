"""Train the network on the labelled images of the collection."""

import signal
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db.models import Value
from django.db.models.functions import Concat
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from ingest.models import Dataset, DatasetVersion
from ml.management.commands.activate_model import tell_when_active
from ml.models import ModelVersion, RunStatus, TrainingRun
from ml.recipes import RECIPES
from ml.training_images import TrainingError, one_version_each
from ml.workers import worker_listens_to


class Command(BaseCommand):
    help = "Train the network on the labelled images that are not held out for testing."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--recipe", choices=sorted(RECIPES), default="default")
        parser.add_argument("--epochs", type=int, help="default: the recipe's own number")
        parser.add_argument("--max-seconds", type=int, help="fit the number of epochs into this time")
        parser.add_argument(
            "--dataset", action="append", default=[], help="repeatable; default: all data sets"
        )
        parser.add_argument(
            "--dataset-version",
            action="append",
            default=[],
            metavar="DATASET=VERSION",
            help="repeatable: a frozen version to learn from, with the labels of then",
        )
        parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
        parser.add_argument("--activate", action="store_true", help="put the new version into service")
        parser.add_argument("--queue", action="store_true", help="hand the run to the training worker")
        parser.add_argument("--resume", type=int, metavar="RUN", help="go on with a run that was stopped")

    def handle(self, **options: Any) -> None:
        run = run_to_resume(options["resume"]) if options["resume"] else new_run(options)
        console = Console(soft_wrap=True, highlight=False)
        if options["queue"]:
            run.hand_over()
            waits = "" if worker_listens_to("training") else " It starts when a training worker does."
            console.print(f"Training run {run.pk} is queued.{waits}")
            return
        train_here(run, console)
        if run.activate:
            console.print(tell_when_active(run.model_version))


def new_run(options: dict[str, Any]) -> TrainingRun:
    datasets = list(Dataset.objects.present().filter(name__in=options["dataset"]))
    if unknown := set(options["dataset"]) - {dataset.name for dataset in datasets}:
        raise CommandError(f"There is no data set named {', '.join(sorted(unknown))}.")
    called = Concat("dataset__name", Value("="), "name")
    named = (
        DatasetVersion.objects.present().annotate(called=called).filter(called__in=options["dataset_version"])
    )
    versions = {version.called: version for version in named}
    if unknown := set(options["dataset_version"]) - set(versions):
        raise CommandError(f"There is no version of a data set {', '.join(sorted(unknown))}.")
    try:
        one_version_each(versions.values())
    except TrainingError as error:
        raise CommandError(str(error)) from error
    run = TrainingRun.objects.create(
        **{name: options[name] for name in ("recipe", "epochs", "max_seconds", "device", "activate")}
    )
    run.datasets.set(datasets)
    run.chosen_versions.set(versions.values())
    return run


def run_to_resume(run_id: int) -> TrainingRun:
    from ml.running import resume

    run = TrainingRun.objects.filter(pk=run_id).first()
    if run is None or run.status == RunStatus.SUCCEEDED:
        raise CommandError(f"There is no training run {run_id} to go on with.")
    if run.is_finished:
        resume(run)
    return run


def train_here(run: TrainingRun, console: Console) -> None:
    """Train in this process. Ctrl-C stops at the next step, in a state to go on from."""
    from ml.running import execute

    stop: list[int] = []
    earlier = signal.signal(signal.SIGINT, lambda number, _: stop.append(number))
    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %")]
    try:
        with Progress(*columns, console=console, transient=True) as bar:
            display = Display(bar)
            execute(run.pk, on_update=display.update, interrupted=lambda: bool(stop))
    finally:
        signal.signal(signal.SIGINT, earlier)
    run.refresh_from_db()
    if run.status == RunStatus.CANCELLED:
        go_on = f" Go on with: manage.py train_model --resume {run.pk}" if stop else ""
        raise CommandError(f"Training run {run.pk} was stopped.{go_on}")
    if run.status == RunStatus.FAILED:
        raise CommandError(run.error)
    if run.status != RunStatus.SUCCEEDED:
        raise CommandError(f"Another worker is training run {run.pk}.")
    console.print(summary_of(run.model_version))
    if run.deleted_images:
        console.print(f"Of the chosen versions' images {run.deleted_images} had been deleted.")


def summary_of(version: ModelVersion) -> str:
    accuracy = version.metrics["val_accuracy"]
    held_out = version.metrics["validation_images"]
    right = "no image to validate with"
    if accuracy is not None:
        right = f"{accuracy:.1%} of {held_out} validation images right"
    return f"Model version {version}: {len(version.organs)} organs, {right}."


class Display:
    """A progress bar, and a line for every epoch."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self.task = bar.add_task("Starting", total=1.0)
        self.printed = 0

    def update(self, run: TrainingRun) -> None:
        progress = run.progress
        text = progress.get("message") or ""
        if not text and progress.get("epoch"):
            speed = f"{progress['images_per_second']:.0f} images/s"
            text = f"Epoch {progress['epoch']}/{progress['epochs']}, {speed}"
        self.bar.update(self.task, description=text, completed=run.fraction_done)
        for epoch in run.history:
            if epoch["epoch"] > self.printed:
                self.printed = epoch["epoch"]
                self.bar.console.print(line_of(epoch))


def line_of(epoch: dict[str, Any]) -> str:
    """Epoch 3: loss 0.812, accuracy 71.0 %, validation loss 0.901, accuracy 68.2 % (12 s)."""
    line = f"Epoch {epoch['epoch']}: loss {epoch['train_loss']:.3f}, accuracy {epoch['train_accuracy']:.1%}"
    if epoch["val_accuracy"] is not None:
        line += f", validation loss {epoch['val_loss']:.3f}, accuracy {epoch['val_accuracy']:.1%}"
    return f"{line} ({epoch['seconds']:.0f} s)"
