"""Search the collection from the command line, without a worker."""

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.files.storage import default_storage
from django.core.management import BaseCommand, CommandError
from django.db import transaction
from rich.console import Console
from rich.table import Table

from ingest.models import Modality, OrganClass
from search import answering
from search.models import Query, QueryStatus
from search.options import Scope, SearchOptions
from search.retrieval import ResultPage, search
from search.serializers import HitSerializer, SeenSerializer


class Command(BaseCommand):
    help = "Rank the collection's images by their likeness to a file (DICOM, PNG, JPEG, TIFF, BMP)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--top", type=int, default=10, metavar="N")
        parser.add_argument(
            "--scope", choices=[scope.value for scope in Scope], default=Scope.PREDICTED.value
        )
        parser.add_argument("--organ", default="", help="Search this organ instead of the predicted one.")
        parser.add_argument("--modality", default="", help="A DICOM code: CT, MR, DX, US, ...")
        parser.add_argument("--json", action="store_true", dest="as_json")

    def handle(self, *, file: Path, top: int, as_json: bool, **options: Any) -> None:
        if top < 1:
            raise CommandError("--top is at least 1.")
        wanted = read_options(options["scope"], options["organ"], options["modality"])
        try:
            content = file.read_bytes()
        except OSError as error:
            raise CommandError(f"{file} cannot be read: {error.strerror}.") from error
        query, found = ask_here(content, wanted, top)
        if as_json:
            seen = SeenSerializer(query).data
            context = {"show_files": True}
            hits = [HitSerializer(hit, context=context).data for hit in found.hits]
            self.stdout.write(json.dumps({"query": seen, "results": hits}, indent=2))
        else:
            console = Console()
            with console.capture() as text:
                show(console, query, found)
            self.stdout.write(text.get())


def read_options(scope: str, organ: str, modality: str) -> SearchOptions:
    organs = list(OrganClass.objects.values_list("name", flat=True))
    modalities = list(Modality.objects.values_list("code", flat=True))
    if organ and organ not in organs:
        raise CommandError(f"There is no organ {organ}. Known: {', '.join(organs) or 'none'}.")
    if modality and modality not in modalities:
        raise CommandError(f"There is no modality {modality}. Known: {', '.join(modalities) or 'none'}.")
    return SearchOptions(scope=Scope(scope), organ=organ, modality=modality)


def ask_here(content: bytes, options: SearchOptions, top: int) -> tuple[Query, ResultPage]:
    """Ask, answer and rank in one transaction that is rolled back: no worker hears of it, no row stays."""
    with transaction.atomic():
        query = answering.ask_with_file(content, None)
        answering.answer(query)
        found = search(query, options, page_size=top) if query.status == QueryStatus.ANSWERED else None
        transaction.set_rollback(True)
    forget_files(query)
    if found is None:
        raise CommandError(query.error)
    return query, found


def forget_files(query: Query) -> None:
    """Delete the query's files, unless somebody else asked with the same bytes."""
    if not Query.objects.filter(sha256=query.sha256).exists():
        for field in (query.upload, query.preview, query.rendition):
            if field:
                default_storage.delete(str(field.name))


def show(console: Console, query: Query, found: ResultPage) -> None:
    console.print(f"organ     {query.predicted_organ} ({query.organ_probability:.1%})")
    if query.modality_probability is not None:
        console.print(f"modality  {query.predicted_modality} ({query.modality_probability:.1%})")
    console.print(f"model     {query.model_version}")
    table = Table("rank", "distance", "organ", "modality", "dataset", "file")
    for hit in found.hits:
        table.add_row(str(hit.rank), f"{hit.distance:.4f}", hit.organ, hit.modality, hit.dataset, hit.file)
    console.print(table)
    console.print(f"{len(found.hits)} of {found.total} images")
