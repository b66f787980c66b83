"""What a fresh installation needs before it can be searched: accounts, a collection, a first model."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.db import InterfaceError, OperationalError, connection, transaction
from django.utils.text import slugify
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ingest.bell import ring
from ingest.deidentifying import GAP
from ingest.folders import files_under
from ingest.labels import clean_path, manifest_path
from ingest.models import FileState, Image, UploadedFile, UploadedFileQuerySet
from ml.models import ModelVersion, TrainingRun
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
    name = (slugify(data.resolve().name) or "data") if data else DEMO
    fresh = not TrainingRun.objects.exists()
    if has_unknown_files(data, name) if data else fresh and not has_other_images():
        import_collection(console, data, name)
    if data and not files_of(name).exclude(state=FileState.REJECTED).exists():
        raise CommandError(f"There is no image that can be read in the folder {data}.")
    if fresh and Image.objects.exists():
        with transaction.atomic():
            seconds = FIRST_TRAINING_SECONDS if data else DEMO_TRAINING_SECONDS
            TrainingRun.objects.create(max_seconds=seconds, activate=True)
            if data:
                TrainingRun.objects.create(activate=True)  # a longer one follows, with the page up
            ring("ml.train_queued_runs")
    if ModelVersion.objects.active() is None:
        follow_first_training(console, watch)


def files_of(name: str) -> UploadedFileQuerySet:
    return UploadedFile.objects.filter(batch__dataset__name=name)


def has_unknown_files(data: Path, name: str) -> bool:
    """Whether the data set of that name lacks a file of the folder, or has one that is not imported yet."""
    paths = {clean_path(file.path) for file in files_under(data)}
    known = set(files_of(name).values_list("path", flat=True))
    unknown = paths - known - {manifest_path(paths)}
    renamed = sum(GAP in path for path in known)  # a patient's name was taken out of these
    return len(unknown) > renamed or files_of(name).unfinished().exists()


def has_other_images() -> bool:
    return Image.objects.exclude(dataset__name=DEMO).exists()


def import_collection(console: Console, data: Path | None, name: str) -> None:
    if data:
        call_command("import_images", str(data), dataset=name, new_organs=True)
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
        call_command("import_images", folder, dataset=name, labels="folder", new_organs=True, trusted=True)


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
                version = ModelVersion.objects.in_service().first()
                if version is None and (run is None or run.is_finished):
                    console.print(f"[red]No model is in service.[/red] {run.error if run else ''}")
                    return
                if run:
                    progress.update(training, completed=run.fraction_done, detail=training_detail(run))
                if version:
                    done, total = version.embeddings.count(), Image.objects.count()
                    progress.update(
                        indexing, visible=True, completed=done / max(total, 1), detail=f"{done}/{total}"
                    )
            except (OperationalError, InterfaceError):
                connection.close()  # the database is being brought back
            time.sleep(0.5)


def training_detail(run: TrainingRun) -> str:
    progress = run.progress
    if "epoch" not in progress:
        return str(progress.get("message", run.status))
    accuracy = run.history[-1].get("val_accuracy") if run.history else None
    seen = f"epoch {progress['epoch']}/{progress.get('epochs', '?')}"
    return f"{seen}, accuracy {accuracy:.0%}" if accuracy is not None else seen
