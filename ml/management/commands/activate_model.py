"""Put a model version into service, a new one or an earlier one."""

import time
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from ml.models import ModelVersion, VersionStatus
from ml.workers import worker_listens_to

NO_WORKER = (
    "{version} goes into service when the collection is indexed with it. No {queue} worker is there: "
    "start one."
)


class Command(BaseCommand):
    help = "Put a model version into service once the collection is indexed with it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("version", help="number of the version, such as 3 or v3")

    def handle(self, **options: Any) -> None:
        number = options["version"].lower().removeprefix("v")
        version = ModelVersion.objects.filter(pk=number).first() if number.isdecimal() else None
        if version is None:
            raise CommandError(f"There is no model version {options['version']}.")
        version.request_activation()
        self.stdout.write(tell_when_active(version))


def tell_when_active(version: ModelVersion) -> str:
    """Wait while the workers prepare the version, and say how it went."""
    version.refresh_from_db()
    for queue in ("indexing", "upkeep"):
        if version.status != VersionStatus.ACTIVE and not worker_listens_to(queue):
            return NO_WORKER.format(version=version, queue=queue)
    while version.status == VersionStatus.PREPARING:
        time.sleep(1)
        version.refresh_from_db()
    if version.status == VersionStatus.ACTIVE:
        return f"{version} is in service."
    return f"{version} is not in service: another version was asked for in the meantime."
