"""Fetch the paper's collection: public images of its 24 classes, a limited number of each, with labels."""

from argparse import ArgumentParser
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import InterfaceError, OperationalError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from ingest.fetching import (
    LIMIT,
    MANIFEST,
    Collection,
    Fetch,
    Plan,
    number_of,
    plan_of,
    read_collection,
)
from ingest.labels import ManifestError
from ingest.tcia import Archive, FetchError, Series

SHOWN_FAILURES = 3  # of each class
GOES_ON = "What came in stays; the same command goes on from there."


@dataclass
class Outcome:
    """What became of a class."""

    organ: str
    wanted: int
    before: int
    after: int = 0
    asked: list[str] = field(default_factory=list)  # names of sources
    plans: list[Plan] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether the class has as many as were wanted, or all that there are."""
        return self.after >= self.wanted or not self.failures


class Command(BaseCommand):
    help = (
        "Fetch public images of the paper's classes from The Cancer Imaging Archive, and import them with "
        "their labels. Called again, it goes on where it was. The exit status is 1 when something is missing."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--classes", default="", help="Only these, with commas: brain,liver.")
        parser.add_argument("--limit", type=int, default=LIMIT, help=f"Images of each class: {LIMIT}.")
        parser.add_argument(
            "--dir",
            type=Path,
            default=settings.DATA_DIR / "fetched",
            help="Where series lie while they are brought in, and the folders of images that are no series.",
        )
        parser.add_argument("--keep", action="store_true", help="Keep the zips of the series.")
        parser.add_argument("--dry-run", action="store_true", help="Only tell what would be fetched.")
        parser.add_argument("--manifest", type=Path, default=MANIFEST, help="Another list of collections.")

    def handle(self, *, limit: int, dir: Path, manifest: Path, classes: str, **options: Any) -> None:
        try:
            collection = read_collection(manifest)
        except ManifestError as error:
            raise CommandError(str(error)) from error
        organs = [name.strip() for name in classes.split(",") if name.strip()] or collection.organs
        if unknown := [name for name in organs if name not in collection.organs]:
            known = ", ".join(collection.organs)
            raise CommandError(f"The manifest has no class {', '.join(unknown)}. It has {known}.")
        if limit < 1:
            raise CommandError("The limit is at least 1.")
        try:
            if options["dry_run"]:
                outcomes = [looked_for(organ, collection, dir, limit) for organ in organs]
                self.stdout.write(printed(plan_table(outcomes)))
            else:
                outcomes = fetch_all(organs, collection, dir, limit, options["keep"])
                self.stdout.write(printed(outcome_table(outcomes)))
        except KeyboardInterrupt:
            raise CommandError(f"Stopped. {GOES_ON}", returncode=130) from None
        except (OperationalError, InterfaceError) as error:
            raise CommandError(f"The database failed. {GOES_ON}") from error
        except OSError as error:
            raise CommandError(f"The disk failed: {error.strerror or type(error).__name__}.") from error
        self.tell_failures(outcomes, "" if options["dry_run"] else GOES_ON)

    def tell_failures(self, outcomes: list[Outcome], goes_on: str) -> None:
        for outcome in outcomes:
            for failure in outcome.failures[:SHOWN_FAILURES]:
                self.stdout.write(f"{outcome.organ}: {failure}")
            if len(outcome.failures) > SHOWN_FAILURES:
                self.stdout.write(f"{outcome.organ}: {len(outcome.failures) - SHOWN_FAILURES} more failures.")
        if lacking := [outcome.organ for outcome in outcomes if not outcome.is_complete]:
            raise CommandError(f"Not complete: {', '.join(lacking)}. {goes_on}")


def looked_for(organ: str, collection: Collection, folder: Path, limit: int) -> Outcome:
    """What would be taken of a class; asks the archive, fetches nothing."""
    sources = [source for source in collection.sources if source.organ == organ]
    before = number_of(sources)
    outcome, archive = Outcome(organ, limit, before, before), Archive(collection.address)
    for source in sources:
        if outcome.after >= limit:
            break
        outcome.asked.append(source.name)
        try:
            outcome.plans.append(plan_of(source, archive, folder, limit - outcome.after))
            outcome.after += outcome.plans[-1].expected(limit - outcome.after)
        except FetchError as error:
            outcome.failures.append(str(error))
    return outcome


def fetch_all(
    organs: list[str], collection: Collection, folder: Path, limit: int, keep: bool
) -> list[Outcome]:
    outcomes = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("images,"))
    megabytes = TextColumn("{task.fields[megabytes]:.0f} MB")
    with Progress(*columns, megabytes, console=Console(stderr=True)) as bar:
        for organ in organs:
            outcomes.append(fetch_class(organ, collection, folder, limit, keep, bar))
    return outcomes


def fetch_class(
    organ: str, collection: Collection, folder: Path, limit: int, keep: bool, bar: Progress
) -> Outcome:
    """Fill a class from its sources, one after the other, until the limit is reached."""
    sources = [source for source in collection.sources if source.organ == organ]
    outcome, archive = Outcome(organ, limit, number_of(sources)), Archive(collection.address)
    outcome.after, fetched_bytes = outcome.before, 0
    task = bar.add_task(organ, total=limit, completed=outcome.before, megabytes=0.0)

    def show(files: int, size_bytes: int) -> None:
        nonlocal fetched_bytes
        fetched_bytes += size_bytes
        bar.update(task, completed=outcome.after + files, megabytes=fetched_bytes / 2**20)

    for source in sources:
        if outcome.after >= limit:
            break
        outcome.asked.append(source.name)
        try:
            outcome.plans.append(plan_of(source, archive, folder, limit - outcome.after))
        except FetchError as error:
            outcome.failures.append(str(error))
            continue
        fetch = Fetch(outcome.plans[-1], archive, folder, keep)
        fetch.run(limit - outcome.after, show)
        outcome.failures += fetch.failures
        outcome.after = number_of(sources)
    return outcome


def plan_table(outcomes: list[Outcome]) -> Table:
    table = Table("class", "from", "here", "to fetch", "series", "patients", "MB", title="Would be fetched")
    for outcome in outcomes:
        slices, series = 0, list[Series]()
        for plan in outcome.plans:
            left = outcome.wanted - outcome.before - slices
            series += [each for each, _ in plan.taken(left)]
            slices += plan.expected(left)
        patients = len({each.patient_id for each in series})
        megabytes = sum(each.size_bytes for each in series) / 2**20
        numbers = [outcome.before, slices, len(series), patients, f"{megabytes:.0f}"]
        table.add_row(outcome.organ, ", ".join(outcome.asked), *map(str, numbers), style=style_of(outcome))
    return table


def outcome_table(outcomes: list[Outcome]) -> Table:
    table = Table("class", "from", "before", "new", "now", "wanted", "failures", title="Fetched")
    for outcome in outcomes:
        new = outcome.after - outcome.before
        numbers = [outcome.before, new, outcome.after, outcome.wanted, len(outcome.failures)]
        table.add_row(outcome.organ, ", ".join(outcome.asked), *map(str, numbers), style=style_of(outcome))
    return table


def style_of(outcome: Outcome) -> str | None:
    return None if outcome.is_complete else "yellow"


def printed(table: Table) -> str:
    console = Console()
    with console.capture() as captured:
        console.print(table)
    return captured.get()
