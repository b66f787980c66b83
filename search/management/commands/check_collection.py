"""Prove that database, file storage and search index agree, and repair what can be repaired."""

import json
import time
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ingest.catching_up import check_originals
from ingest.checking import Finding, check_images, check_ledger, check_pixels, check_storage
from ingest.models import Image
from search.checking import check_embeddings

SHOWN_NUMBERS = 5


class Command(BaseCommand):
    help = (
        "Check that the ledger, the images, their stored files and their embeddings agree. "
        "The exit status is 1 when problems are left."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--repair", action="store_true", help="Mend what can be mended.")
        parser.add_argument(
            "--deep",
            action="store_true",
            help="Read all files: originals by their SHA-256, pictures decoded.",
        )
        parser.add_argument("--json", action="store_true", help="Print one JSON object and nothing else.")

    def handle(self, *, repair: bool, deep: bool, **options: Any) -> None:
        started = time.monotonic()
        images = Image.objects.count()
        try:
            findings = [finding for finding in check_with_progress(repair, deep) if finding.count]
        except OSError as error:  # its own text names files
            raise CommandError(
                f"The file storage failed: {error.strerror or type(error).__name__}."
            ) from error
        seconds = round(time.monotonic() - started, 2)
        if options["json"]:
            found = [{**asdict(finding), "left": finding.left} for finding in findings]
            self.stdout.write(json.dumps({"images": images, "findings": found, "seconds": seconds}))
        else:
            self.print_table(findings, f"{images} images checked in {seconds} s")
        if left := sum(finding.left for finding in findings):
            problems = "1 problem is left" if left == 1 else f"{left} problems are left"
            raise CommandError(f"{problems}; docs/operations.md tells what to do about each.")

    def print_table(self, findings: list[Finding], title: str) -> None:
        table = Table("", "how many", "repaired", "such as", title=title)
        for finding in findings:
            repaired = str(finding.repaired) if finding.is_problem else ""
            style = "yellow" if finding.left else None
            table.add_row(finding.words, str(finding.count), repaired, numbers_of(finding), style=style)
        if not findings:
            table.add_row("nothing is wrong", "0", "0", "")
        console = Console()
        with console.capture() as printed:
            console.print(table)
        self.stdout.write(printed.get())


def check_with_progress(repair: bool, deep: bool) -> list[Finding]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("Looking at images", total=None)
        findings = check_ledger(repair)
        findings += check_images(
            repair, deep, lambda done, total: progress.update(task, completed=done, total=total)
        )
        findings += check_pixels(repair)
        findings += check_originals()
        progress.update(task, description="Looking at the storage")
        findings += check_storage(repair)
        return findings + check_embeddings(repair)


def numbers_of(finding: Finding) -> str:
    """Such as "image 3, 5, 8, ..."."""
    if not finding.numbers:
        return ""
    more = ", ..." if len(finding.numbers) > SHOWN_NUMBERS else ""
    return f"{finding.of} {', '.join(map(str, finding.numbers[:SHOWN_NUMBERS]))}{more}"
