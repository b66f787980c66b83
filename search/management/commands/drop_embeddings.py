"""Take the embeddings of a model version away that serves no more; the version itself stays."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from ml.models import ModelVersion
from search.indexing import InServiceError, drop_embeddings
from search.models import Embedding


class Command(BaseCommand):
    help = "Drop the embeddings and the index of a model version that is not in service."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("version", help="number of the version, such as 3 or v3")
        parser.add_argument("--yes", action="store_true", help="do not ask")

    def handle(self, **options: Any) -> None:
        number = options["version"].lower().removeprefix("v")
        version = ModelVersion.objects.filter(pk=number).first() if number.isdecimal() else None
        if version is None:
            raise CommandError(f"There is no model version {options['version']}.")
        if not options["yes"]:
            images = Embedding.objects.for_version(version).count()
            question = f"Drop what {version} sees in {images} images? Its searches lose their results. [y/N] "
            if input(question).strip().lower() not in {"y", "yes"}:
                raise CommandError("Nothing was dropped.")
        try:
            number_dropped = drop_embeddings(version)
        except InServiceError as refusal:
            raise CommandError(str(refusal)) from refusal
        self.stdout.write(f"{number_dropped} embeddings of {version} were dropped.")
