"""Search the collection from the command line, without a worker."""

import json
from argparse import ArgumentParser, ArgumentTypeError
from pathlib import Path
from typing import Any

from django.core.files.storage import default_storage
from django.core.management import BaseCommand, CommandError
from django.db import transaction
from rich.console import Console
from rich.table import Table

from ingest.models import Modality, OrganClass
from search import answering, asking
from search.models import Query, QueryStatus
from search.options import AGE_BANDS, Collapse, Scope, SearchOptions
from search.pictures import Region
from search.result_serializers import HitSerializer, PlanSerializer, SearchSerializer
from search.retrieval import ResultPage, search
from search.serializers import SeenSerializer

FILTERS = {
    "dataset": "Only images of this data set.",
    "view": "Only images of this ViewPosition: AP, PA, CC, ...",
    "sex": "Only images of patients of this PatientSex: F, M or O.",
    "age": f"Only images of patients of this age in years: {', '.join(AGE_BANDS)}.",
    "words": "Only images whose files say these words of themselves.",
    "imported_from": "Only images that came in on this day or later: 2026-01-31.",
    "imported_to": "Only images that came in on this day or earlier.",
}


class Command(BaseCommand):
    help = "Rank the collection's images by their likeness to a file, or to several files together."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "files", nargs="+", type=Path, metavar="file", help="DICOM, PNG, JPEG, TIFF, BMP."
        )
        parser.add_argument("--top", type=int, default=10, metavar="N")
        parser.add_argument("--scope", choices=[scope.value for scope in Scope], default=Scope.BLENDED.value)
        parser.add_argument("--organ", default="", help="Search this organ instead of the predicted one.")
        parser.add_argument("--modality", default="", help="A DICOM code: CT, MR, DX, US, ...")
        for name, text in FILTERS.items():
            parser.add_argument(f"--{name.replace('_', '-')}", default=None, help=text)
        parser.add_argument(
            "--collapse",
            choices=[kind.value for kind in Collapse],
            default=Collapse.SERIES.value,
            help="Of each of these only the nearest image is shown.",
        )
        parser.add_argument(
            "--region",
            type=read_region,
            metavar="L,T,R,B",
            help="Search with a part of the picture: its edges as shares of the width and height, 0 to 1.",
        )
        parser.add_argument("--explain", action="store_true", help="Say how the ranking was found.")
        parser.add_argument("--json", action="store_true", dest="as_json")

    def handle(
        self, *, files: list[Path], top: int, as_json: bool, region: Region | None, **options: Any
    ) -> None:
        if top < 1:
            raise CommandError("--top is at least 1.")
        wanted = read_options(options)
        try:
            contents = [file.read_bytes() for file in files]
        except OSError as error:
            raise CommandError(f"{error.filename} cannot be read: {error.strerror}.") from error
        query, found = ask_here(contents, region, wanted, top)
        plans = found.plans if options["explain"] else []
        if as_json:
            answer = {"query": SeenSerializer(query).data, "results": as_json_hits(found)}
            if options["explain"]:
                answer["plans"] = PlanSerializer(plans, many=True).data
            self.stdout.write(json.dumps(answer, indent=2))
        else:
            console = Console(markup=False)
            with console.capture() as text:
                show(console, query, found)
                for plan in plans:
                    counts = f"{plan.kept} kept, {plan.candidates} candidates, {plan.ranked} ranked on FC1"
                    console.print(f"{plan.organ or 'all'}: {plan.path.value}, {counts}")
            self.stdout.write(text.get())


def read_region(text: str) -> Region:
    try:
        left, top, right, bottom = map(float, text.split(","))
    except ValueError:
        raise ArgumentTypeError("give four numbers: left,top,right,bottom") from None
    return [left, top, right, bottom]


def read_options(options: dict[str, Any]) -> SearchOptions:
    """Raises CommandError."""
    organs = list(OrganClass.objects.values_list("name", flat=True))
    modalities = list(Modality.objects.values_list("code", flat=True))
    organ, modality = options["organ"], options["modality"]
    if organ and organ not in organs:
        raise CommandError(f"There is no organ {organ}. Known: {', '.join(organs) or 'none'}.")
    if modality and modality not in modalities:
        raise CommandError(f"There is no modality {modality}. Known: {', '.join(modalities) or 'none'}.")
    names = ("scope", "organ", "modality", "collapse", *FILTERS)
    asked = SearchSerializer(data={name: options[name] for name in names if options[name]})
    if not asked.is_valid():
        raise CommandError("\n".join(f"--{name}: {' '.join(said)}" for name, said in asked.errors.items()))
    return asked.options()


def ask_here(
    contents: list[bytes], region: Region | None, options: SearchOptions, top: int
) -> tuple[Query, ResultPage]:
    """Ask, answer and rank in one transaction that is rolled back: no worker hears of it, no row stays."""
    found, sentence = None, ""
    with transaction.atomic():
        query = asking.ask_with_several(contents, None)
        answering.answer(query)
        asked = [query, *query.parts.all()]
        if region and query.status == QueryStatus.ANSWERED:
            try:
                query = asking.ask_with_region(query, region, None)
                answering.answer(query)
                asked.append(query)
            except asking.RefinementError as error:
                sentence = str(error)
        if query.status == QueryStatus.ANSWERED and not sentence:
            found = search(query, options, page_size=top)
        transaction.set_rollback(True)
    for one in asked:
        forget_files(one)
    if found is None:
        raise CommandError(sentence or query.error)
    return query, found


def as_json_hits(found: ResultPage) -> list[Any]:
    return [HitSerializer(hit, context={"show_files": True}).data for hit in found.hits]


def forget_files(query: Query) -> None:
    """Delete those of the query's files that no other query has."""
    for name in ("upload", "preview", "rendition"):
        file = getattr(query, name)
        if file and not Query.objects.filter(**{name: file.name}).exists():
            default_storage.delete(str(file.name))


def show(console: Console, query: Query, found: ResultPage) -> None:
    console.print(f"organ     {query.predicted_organ} ({query.organ_probability:.1%})")
    if query.modality_probability is not None:
        stated = f"; its file says {query.modality}" if query.modality else ""
        console.print(f"modality  {query.predicted_modality} ({query.modality_probability:.1%}{stated})")
    console.print(f"model     {query.model_version}")
    table = Table("rank", "distance", "match", "organ", "modality", "dataset", "file")
    for hit in found.hits:
        match = hit.match.word if hit.match else ""
        table.add_row(
            str(hit.rank), f"{hit.distance:.4f}", match, hit.organ, hit.modality, hit.dataset, hit.file
        )
    console.print(table)
    if query.is_unlike:
        console.print("There is no good match: nothing in the collection resembles this image well.")
    console.print(f"{len(found.hits)} of {found.total} images")
