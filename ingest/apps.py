from functools import partial
from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_delete


class IngestConfig(AppConfig):
    name = "ingest"

    def ready(self) -> None:
        post_delete.connect(
            forget_files, sender="ingest.Image", dispatch_uid="ingest.forget_files", weak=False
        )


def forget_files(instance: Any, **_: Any) -> None:
    """An image that is deleted takes its files with it."""
    from django.db import transaction

    from ingest.storing import delete_files_of

    transaction.on_commit(partial(delete_files_of, instance))
