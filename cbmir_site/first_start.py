"""What a fresh installation needs before it can be searched: accounts, a collection, a first model."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import OperationalError, transaction
from django.utils.text import slugify
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ingest.bell import ring
from ingest.models import Dataset, Image
from ml.models import ModelVersion, RunStatus, TrainingRun
from search.roles import create_account

DEMO = "demo"
DEMO_PATIENTS, DEMO_SLICES = 5, 4
DEMO_TRAINING_SECONDS = 100
FIRST_TRAINING_SECONDS = 240


def create_first_accounts(console: Console) -> None:
    """One account per person's role, when there is none yet; the passwords are shown this once."""
    if get_user_model().objects.exists():
        return
    table = Table(
        "account",
        "role",
        "password",
        title="First accounts",
        caption="The passwords are shown only this once.",
    )
    for role in ("clinician", "curator", "admin"):
        _user, password = create_account(role, role)
        table.add_row(role, role, password)
    console.print(table)


def fill(console: Console, data: Path | None, watch: Callable[[], None]) -> None:
    """Import a first collection and train a first model on it; takes up again what was interrupted."""
    name = slugify(data.resolve().name) if data else DEMO
    fresh = not TrainingRun.objects.exists()
    if (fresh and (data or not Image.objects.exclude(dataset__name=DEMO).exists())) or (
        data and not Dataset.objects.filter(name=name).exists()
    ):
        import_collection(console, data, name)
    if fresh and Image.objects.exists():
        with transaction.atomic():
            seconds = FIRST_TRAINING_SECONDS if data else DEMO_TRAINING_SECONDS
            TrainingRun.objects.create(max_seconds=seconds, activate=True)
            if data:
                TrainingRun.objects.create(activate=True)  # a longer one follows, with the page up
            ring("ml.train_queued_runs")
    if ModelVersion.objects.active() is None:
        follow_first_training(console, watch)


def import_collection(console: Console, data: Path | None, name: str) -> None:
    if data:
        call_command("import_images", str(data), dataset=name)
        return
    from ingest.phantoms import write_collection

    with tempfile.TemporaryDirectory(prefix="cbmir-demo-") as folder, progress_bar(console) as progress:
        task = progress.add_task("Drawing the demo collection", total=None)
        write_collection(
            Path(folder),
            patients_per_class=DEMO_PATIENTS,
            slices_per_patient=DEMO_SLICES,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
        progress.stop()
        call_command("import_images", folder, dataset=name, labels="folder")


def progress_bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


def follow_first_training(console: Console, watch: Callable[[], None]) -> None:
    """Show the first training and indexing until a version is in service, or the training has failed."""
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[detail]}"), console=console
    ) as progress:
        training = progress.add_task("Training the first model", total=1.0, detail="")
        indexing = progress.add_task("Indexing the collection", total=1.0, detail="", visible=False)
        while True:
            watch()
            try:
                if ModelVersion.objects.active():
                    progress.update(indexing, visible=True, completed=1.0, detail="done")
                    return
                run = TrainingRun.objects.order_by("id").first()
                if run is None or run.status in (RunStatus.FAILED, RunStatus.CANCELLED):
                    console.print(
                        f"[red]The first training did not succeed:[/red] {run.error if run else ''}"
                    )
                    return
                progress.update(training, completed=run.fraction_done, detail=training_detail(run))
                if version := ModelVersion.objects.in_service().first():
                    done, total = version.embeddings.count(), Image.objects.count()
                    progress.update(indexing, visible=True, completed=done / total, detail=f"{done}/{total}")
            except OperationalError:
                pass  # the database is being brought back
            time.sleep(0.5)


def training_detail(run: TrainingRun) -> str:
    progress = run.progress
    if "epoch" not in progress:
        return str(progress.get("message", run.status))
    accuracy = run.history[-1].get("val_accuracy") if run.history else None
    seen = f"epoch {progress['epoch']}/{progress.get('epochs', '?')}"
    return f"{seen}, accuracy {accuracy:.0%}" if accuracy is not None else seen
