"""Import a folder, a file or an archive into a data set and tell what became of every file."""

import json
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ingest.folders import import_path
from ingest.labels import ManifestError
from ingest.models import LabelSource, UploadBatch
from ingest.naming import undecided
from ingest.reports import batch_report


class Command(BaseCommand):
    help = "Import a folder, a file or an archive of images into a data set."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("path", type=Path)
        parser.add_argument("--dataset", required=True, help="Name of the data set; made if there is none.")
        parser.add_argument(
            "--labels",
            choices=LabelSource.values,
            default="",
            help="Where labels come from. By default a manifest.csv, else folder names, else DICOM tags.",
        )
        parser.add_argument(
            "--new-organs",
            action="store_true",
            help="Make organs of unknown names. By default they wait for a curator's decision.",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="Import nothing: tell what would become of each file.",
        )
        parser.add_argument("--json", action="store_true", help="Print one JSON object and nothing else.")

    def handle(self, *, path: Path, dataset: str, labels: str, **options: Any) -> None:
        path = Path(path)
        if not path.exists():
            raise CommandError(f"There is no file or folder {path}.")
        if not dataset.strip():
            raise CommandError("The data set needs a name.")
        started = time.monotonic()
        try:
            batch = self.import_with_progress(
                path,
                dataset,
                labels,
                makes_organs=options["new_organs"],
                is_dry_run=options["dry_run"],
            )
        except (ManifestError, OSError) as error:
            raise CommandError(str(error)) from error
        report = batch_report(batch, time.monotonic() - started)
        if options["json"]:
            self.stdout.write(json.dumps(report))
        else:
            self.print_tables(report, batch.is_dry_run)

    def import_with_progress(self, path: Path, dataset: str, labels: str, **flags: Any) -> UploadBatch:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        rate = TextColumn("{task.fields[rate]}")
        started = time.monotonic()
        with Progress(*columns, rate, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
            task = progress.add_task("Importing", total=None, rate="")

            def show(done: int, total: int) -> None:
                speed = done / max(time.monotonic() - started, 1e-6)
                progress.update(task, completed=done, total=total, rate=f"{speed:.0f} files/s")

            return import_path(path, dataset, labels, on_progress=show, **flags)

    def print_tables(self, report: dict[str, Any], is_dry_run: bool) -> None:
        title = "Dry run: nothing was imported" if is_dry_run else f"Imported into {report['dataset']}"
        table = Table("", "files", title=title)
        if is_dry_run:
            table.add_row("would be imported", str(report["would_be_imported"]))
        else:
            table.add_row(f"imported ({report['images']} images)", str(report["imported"]))
        table.add_row(f"already in the {'files or the ' * is_dry_run}collection", str(report["duplicates"]))
        reasons = {row["code"]: row["reason"] for row in reversed(report["rejections"])}
        for code, count in report["rejected"].items():
            table.add_row(f"rejected: {reasons[code]}", str(count), style="yellow")
        table.add_row(
            f"in {report['seconds']} s ({report['files_per_second']} files/s)", str(report["files"])
        )
        console = Console()
        with console.capture() as printed:
            console.print(table)
        self.stdout.write(printed.get())
        if is_dry_run:
            if names := ", ".join(report["names_to_decide"]):
                self.stdout.write(f"Organ names that would wait for a decision: {names}.")
        elif names := ", ".join(undecided().values_list("name", flat=True)[:10]):
            self.stdout.write(
                f"Organ names that wait for a decision, on the page Imports: {names}. "
                "Their images have no label until then."
            )
