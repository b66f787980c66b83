"""Measure every system of the paper's tables on a folder of labelled images."""

import platform
import signal
from argparse import ArgumentParser
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

METHODS = [
    *("proposed", "default", "untrained", "alexnet", "resnet18", "overfeat", "multi-instance"),
    *("lbp", "hog", "autoencoder", "autoregressive"),
]  # as ml.comparing.METHODS, which needs torch to be imported
CROSS_VALIDATED = ("proposed", "default")


class Command(BaseCommand):
    help = (
        "Measure the paper's method and every system it is compared with on one folder of labelled images, "
        "and write the paper's tables and figures. Stopped, the same command goes on where it was."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--data", type=Path, required=True, help="folder with a manifest.csv")
        parser.add_argument("--out", type=Path, required=True, help="folder for results and report")
        parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, metavar="METHOD",
                            help=f"of {', '.join(METHODS)}; default: all")  # fmt: skip
        parser.add_argument("--epochs", type=int, help="of every deep method; default: 30, as the paper")
        parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
        parser.add_argument("--folds", type=int, default=0, help="cross-validate the proposed network, as "
                            "the paper with 10")  # fmt: skip

    def handle(self, **options: Any) -> None:
        from ml.comparing import claim, compare, cross_validate
        from ml.comparison_report import write_report
        from ml.training import Stopped

        if options["folds"] == 1 or options["folds"] < 0:
            raise CommandError("Cross validation needs at least 2 folds.")
        if options["epochs"] is not None and options["epochs"] < 1:
            raise CommandError("Learning takes at least 1 epoch.")
        console = Console(width=140, highlight=False)
        out, methods = options["out"], options["methods"]
        stop: list[int] = []
        earlier = signal.signal(signal.SIGINT, lambda number, _: stop.append(number))
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        try:
            with Progress(*columns, console=console) as bar:
                display = Display(bar, methods)
                task = task_of(options, display, lambda: bool(stop))
                results = claim(out, task)
                found = compare(task, methods, results, display.begin)
                chosen = [key for key in CROSS_VALIDATED if key in methods] if options["folds"] else []
                folds = {
                    key: cross_validate(task, key, options["folds"], results, display.begin_folds)
                    for key in chosen
                }
        except Stopped as stopped:
            raise CommandError("Stopped. The same command goes on where it was.") from stopped
        except (OSError, ValueError) as error:
            raise CommandError(str(error)) from error
        finally:
            signal.signal(signal.SIGINT, earlier)
        facts = facts_of(options, task)
        tables = write_report(found, folds, task, facts, out)
        for table in tables:
            print_table(table, console)
        console.print(f"The report: {(out / 'index.html').resolve()}")
        record(out, facts, console)


def task_of(options: dict[str, Any], display: "Display", should_stop: Any) -> Any:
    from ml.comparing import Task, split_in_two
    from ml.labelled_folder import read_labelled_folder
    from ml.network import device_for

    device_for(options["device"])
    images = read_labelled_folder(options["data"], on_read=display.reading)
    for sentence in images.skipped:
        display.say(f"Left out: {sentence}")
    learning, queries = split_in_two(images)
    return Task(
        learning, queries, options["epochs"], options["device"], options["out"] / "states", display.watch,
        should_stop,
    )  # fmt: skip


def facts_of(options: dict[str, Any], task: Any) -> dict[str, str]:
    import torch

    from ml.network import device_for

    cuda = device_for(options["device"]).type == "cuda"
    machine = (
        torch.cuda.get_device_name() if cuda else f"{platform.machine()}, {torch.get_num_threads()} cores"
    )
    epochs = options["epochs"]
    return {
        "Date": f"{datetime.now(UTC):%Y-%m-%d}",
        "Images": f"{len(task.learning):,} to learn from and to search, {len(task.queries):,} to ask with, "
        f"{len(task.learning.organ_names)} organs",
        "Epochs": f"{epochs}, the same for every deep method"
        if epochs
        else "30, as the paper, for every deep method",
        "Machine": f"{machine}, torch {torch.__version__}",
    }


class Display:
    """A line for every method that is done, and a bar for the one at work."""

    def __init__(self, bar: Progress, methods: list[str]) -> None:
        self.bar, self.methods, self.title = bar, methods, "Reading images"
        self.line = bar.add_task(self.title, total=1.0)

    def say(self, sentence: str) -> None:
        self.bar.console.print(escape(sentence))

    def reading(self, done: int, total: int) -> None:
        self.bar.update(self.line, completed=done, total=total)

    def begin(self, key: str, done: bool) -> None:
        place = f"{self.methods.index(key) + 1} of {len(self.methods)}"
        self.title = f"{place}, {key}"
        self.bar.reset(self.line, total=1.0, description=self.title)
        self.say(f"{self.title}: measured before" if done else self.title)

    def begin_folds(self, key: str, fold: int, folds: int) -> None:
        self.title = f"{key}, fold {fold} of {folds}"
        self.bar.reset(self.line, total=1.0, description=self.title)
        self.say(self.title)

    def watch(self, text: str, share: float) -> None:
        self.bar.update(self.line, description=f"{self.title}: {text}", completed=share)


def print_table(table: Any, console: Console) -> None:
    number = f"Table {table.number}: " if table.number else ""
    printed = Table(*table.header, title=f"{number}{table.title}")
    for line in table.lines:
        printed.add_row(*(escape(text) for text in line))
    console.print(printed)


def record(out: Path, facts: dict[str, str], console: Console) -> None:
    """So that the admin shows the report; without a database the files alone remain."""
    from ml.models import Comparison

    try:
        comparison = Comparison.keep(out.resolve(), facts)
    except DatabaseError:
        console.print("No database answers; run the same command again later, and the admin shows it too.")
    else:
        console.print(f"In the admin: comparison {comparison.pk}")
