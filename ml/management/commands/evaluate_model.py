"""Measure a model version on the images held out for testing."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as RichTable

from ingest.models import Dataset
from ml.evaluating import EvaluationError, evaluate
from ml.evaluation_report import Table, classification_table, retrieval_table
from ml.models import Evaluation, ModelVersion
from ml.training_images import TrainingError


class Command(BaseCommand):
    help = "Measure a model version on the images held out for testing, and keep the figures."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("model_version", nargs="?", help="such as 3 or v3; default: the active one")
        parser.add_argument("--dataset", action="append", default=[], help="repeatable; default: all of them")
        parser.add_argument("--json", action="store_true", help="Print one JSON object and nothing else.")

    def handle(self, **options: Any) -> None:
        version = version_named(options["model_version"])
        datasets = list(Dataset.objects.present().filter(name__in=options["dataset"]))
        if unknown := set(options["dataset"]) - {dataset.name for dataset in datasets}:
            raise CommandError(f"There is no data set named {', '.join(sorted(unknown))}.")
        try:
            evaluation = evaluate_with_progress(version, datasets)
        except (EvaluationError, TrainingError) as error:
            raise CommandError(str(error)) from error
        if options["json"]:
            self.stdout.write(json.dumps(as_json(evaluation)))
        else:
            console = Console(width=120)
            with console.capture() as printed:
                print_tables(evaluation, console)
            self.stdout.write(printed.get())


def version_named(name: str | None) -> ModelVersion:
    if name is None:
        if version := ModelVersion.objects.active():
            return version
        raise CommandError("No model version is in service; name one.")
    number = name.lower().removeprefix("v")
    found = ModelVersion.objects.filter(pk=number).first() if number.isdecimal() else None
    if found is None:
        raise CommandError(f"There is no model version {name}.")
    return found


def evaluate_with_progress(version: ModelVersion, datasets: list[Dataset]) -> Evaluation:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("Describing and ranking", total=None)
        return evaluate(
            version, datasets, lambda done, total: progress.update(task, completed=done, total=total)
        )


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "model_version": str(evaluation.model_version),
        "queries": evaluation.queries,
        "collection": evaluation.collection,
        **evaluation.metrics,
    }


def print_tables(evaluation: Evaluation, console: Console) -> None:
    title = f"{evaluation.model_version}: {evaluation.queries} queries, {evaluation.collection} images"
    print_table(retrieval_table(evaluation.metrics), console, title)
    print_table(classification_table(evaluation.metrics), console, "what the network sees in the queries")
    console.print("In brackets: 95 % bootstrap intervals over groups (patients or volumes) of queries.")


def print_table(table: Table, console: Console, title: str) -> None:
    printed = RichTable(*table.header, title=title)
    for row in table.rows:
        printed.add_row(*(escape(text) for text in row))
    console.print(printed)
