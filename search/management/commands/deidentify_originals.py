"""De-identify what was stored before files were de-identified."""

from argparse import ArgumentParser
from collections.abc import Callable, Iterable
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from ingest.catching_up import Outcome, deidentify_original, originals_as_they_came
from search.query_files import deidentify_query_file, query_files_as_they_came


class Command(BaseCommand):
    help = (
        "De-identify originals and query files that are stored as they came, but for data sets that keep "
        "identifiers. It may be stopped, and goes on where it was; nothing is done twice."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--check",
            action="store_true",
            help="Only tell how many files there are to do; the exit status is 1 where there are any.",
        )

    def handle(self, *, check: bool, **options: Any) -> None:
        kinds: dict[str, tuple[Iterable[str], Callable[..., Outcome]]] = {
            "originals": (originals_as_they_came(), deidentify_original),
            "query files": (query_files_as_they_came(), deidentify_query_file),
        }
        try:
            outcomes = {
                kind: deidentify_all(f"Looking at {kind}", names, of_one, only_check=check)
                for kind, (names, of_one) in kinds.items()
            }
        except OSError as error:  # its own text names files
            raise CommandError(
                f"The file storage failed: {error.strerror or type(error).__name__}."
            ) from error
        self.print_table(outcomes, "to be de-identified" if check else "de-identified")
        if failed := sum(outcome.failed for outcome in outcomes.values()):
            raise CommandError(f"Lost, or not to be read: {failed}. check_collection --deep tells which.")
        if check and any(outcome.done for outcome in outcomes.values()):
            raise CommandError("There are files to be de-identified.")

    def print_table(self, outcomes: dict[str, Outcome], done: str) -> None:
        table = Table("", done, "pictures without notes", "lost or unreadable")
        for kind, outcome in outcomes.items():
            style = "yellow" if outcome.failed else None
            table.add_row(kind, str(outcome.done), str(outcome.clean), str(outcome.failed), style=style)
        console = Console()
        with console.capture() as printed:
            console.print(table)
        self.stdout.write(printed.get())


def deidentify_all(
    words: str, names: Iterable[str], of_one: Callable[..., Outcome], *, only_check: bool
) -> Outcome:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    outcome = Outcome()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for name in progress.track(names, description=words):
            outcome += of_one(name, only_check=only_check)
    return outcome
