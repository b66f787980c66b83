"""Measure a model version on the images held out for testing."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ingest.models import Dataset
from ml.evaluating import EvaluationError, evaluate
from ml.models import Evaluation, ModelVersion
from ml.training_images import TrainingError

SCOPES = {"all": "whole collection", "predicted": "predicted organ"}
RELEVANCE = {"organ": "organ", "organ_and_modality": "organ and modality"}
MEASURES = {
    "map": "mAP", "map_macro": "mAP macro", "map_at_10": "mAP@10",
    "precision_at_1": "P@1", "precision_at_5": "P@5", "precision_at_10": "P@10",
}  # fmt: skip


class Command(BaseCommand):
    help = "Measure a model version on the images held out for testing, and keep the figures."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("model_version", nargs="?", help="such as 3 or v3; default: the active one")
        parser.add_argument("--dataset", action="append", default=[], help="repeatable; default: all of them")
        parser.add_argument("--json", action="store_true", help="Print one JSON object and nothing else.")

    def handle(self, **options: Any) -> None:
        version = version_named(options["model_version"])
        datasets = list(Dataset.objects.filter(name__in=options["dataset"]))
        if unknown := set(options["dataset"]) - {dataset.name for dataset in datasets}:
            raise CommandError(f"There is no data set named {', '.join(sorted(unknown))}.")
        try:
            evaluation = evaluate_with_progress(version, datasets)
        except (EvaluationError, TrainingError) as error:
            raise CommandError(str(error)) from error
        if options["json"]:
            self.stdout.write(json.dumps(as_json(evaluation)))
        else:
            console = Console(width=110)
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
        task = progress.add_task("Describing", total=None)
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
    metrics = evaluation.metrics
    title = f"{evaluation.model_version}: {evaluation.queries} queries, {evaluation.collection} images"
    table = Table("ranked within", "relevant: same", *MEASURES.values(), title=title)
    for scope, found in metrics["retrieval"].items():
        for relevance, values in found.items():
            table.add_row(SCOPES[scope], RELEVANCE[relevance], *(share(values[name]) for name in MEASURES))
    console.print(table)
    modality = share(metrics["modality_accuracy"])
    console.print(f"organ top-1 {share(metrics['organ_accuracy'])}, modality top-1 {modality}")
    console.print("organ, macro: " + ", ".join(f"{k} {share(v)}" for k, v in metrics["organ_macro"].items()))


def share(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
