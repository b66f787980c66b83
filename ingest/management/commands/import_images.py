"""Import a folder, a bucket, a file or an archive into a data set and tell what became of every file."""

import json
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ingest.buckets import SCHEME, BucketFolder
from ingest.directories import FolderRefused
from ingest.folders import import_path
from ingest.image_file import RejectedFile
from ingest.labels import MANIFEST_COLUMNS, ManifestError
from ingest.models import Dataset, LabelSource, SliceChoice, UploadBatch
from ingest.naming import undecided
from ingest.receiving import TrashError
from ingest.reports import batch_report


class Command(BaseCommand):
    help = "Import a folder, a bucket, a file or an archive of images into a data set."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("path", help="Of a folder, a file or an archive, or s3://bucket/prefix.")
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
            "--slices",
            choices=SliceChoice.values,
            help="Which slices of volumes a new data set takes. By default informative.",
        )
        parser.add_argument(
            "--slice-step",
            type=int,
            help="Of how many slices one is taken, with --slices every_nth. By default 10.",
        )
        parser.add_argument(
            "--trusted",
            action="store_true",
            help="No text that tells who a patient is, is burned into the pictures: hold none back.",
        )
        parser.add_argument(
            "--column",
            action="append",
            default=[],
            metavar="OURS=THEIRS",
            help="What manifest.csv calls a column of ours (path, organ, modality, group_id, split), such as "
            "organ=diagnosis; kept with the data set. Common names are known.",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="Import nothing: tell what would become of each file.",
        )
        parser.add_argument("--json", action="store_true", help="Print one JSON object and nothing else.")

    def handle(self, *, path: Path | str, dataset: str, labels: str, **options: Any) -> None:
        source = source_of(str(path))
        if not dataset.strip():
            raise CommandError("The data set needs a name.")
        slices = self.slice_options(dataset, options["slices"], options["slice_step"])
        started = time.monotonic()
        try:
            batch = self.import_with_progress(
                source,
                dataset,
                labels,
                makes_organs=options["new_organs"],
                is_trusted=options["trusted"],
                is_dry_run=options["dry_run"],
                manifest_columns=columns_said(options["column"]),
                **slices,
            )
        except (ManifestError, TrashError, FolderRefused, RejectedFile, OSError) as error:
            raise CommandError(str(error)) from error
        report = batch_report(batch, time.monotonic() - started)
        if options["json"]:
            self.stdout.write(json.dumps(report))
        else:
            self.print_tables(report, batch.is_dry_run)

    def slice_options(self, name: str, choice: str | None, step: int | None) -> dict[str, Any]:
        """Fields of a new data set. Raises CommandError."""
        given = {"slice_choice": choice, "slice_step": step}
        fields = {field: value for field, value in given.items() if value is not None}
        if fields and Dataset.objects.filter(name=name.strip()).exists():
            raise CommandError("The data set is there: its choice of slices is changed on its page.")
        try:
            Dataset(name=name, **fields).clean_fields(exclude={"name"})
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from error
        return fields

    def import_with_progress(
        self, source: Path | BucketFolder, dataset: str, labels: str, **options: Any
    ) -> UploadBatch:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        rate = TextColumn("{task.fields[rate]}")
        started = time.monotonic()
        with Progress(*columns, rate, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
            task = progress.add_task("Importing", total=None, rate="")

            def show(done: int, total: int) -> None:
                speed = done / max(time.monotonic() - started, 1e-6)
                progress.update(task, completed=done, total=total, rate=f"{speed:.0f} files/s")

            return import_path(source, dataset, labels, on_progress=show, **options)

    def print_tables(self, report: dict[str, Any], is_dry_run: bool) -> None:
        title = "Dry run: nothing was imported" if is_dry_run else f"Imported into {report['dataset']}"
        table = Table("", "files", title=title)
        if is_dry_run:
            table.add_row("would be imported", str(report["would_be_imported"]))
        else:
            table.add_row(f"imported ({report['images']} images)", str(report["imported"]))
        table.add_row(f"already in the {'files or the ' * is_dry_run}collection", str(report["duplicates"]))
        if report["left_out"]:
            table.add_row("left out: slices that the data set does not take", str(report["left_out"]))
        if report["quarantined"]:
            table.add_row("held back, on the page Quarantine", str(report["quarantined"]), style="yellow")
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


def source_of(text: str) -> Path | BucketFolder:
    """Raises CommandError."""
    source = BucketFolder.parsed(text) if text.startswith(SCHEME) else Path(text)
    if source is None:
        raise CommandError(f"{text} is no address of a bucket, such as {SCHEME}bucket/prefix.")
    if isinstance(source, Path) and not source.exists():
        raise CommandError(f"There is no file or folder {source}.")
    return source


def columns_said(options: list[str]) -> dict[str, str]:
    """From "ours=theirs". Raises CommandError."""
    said = dict(option.partition("=")[::2] for option in options)
    if not all(said.values()) or not said.keys() <= MANIFEST_COLUMNS.keys():
        raise CommandError(f"A column is OURS=THEIRS, ours being one of {', '.join(MANIFEST_COLUMNS)}.")
    return said
