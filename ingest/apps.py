from functools import partial
from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_delete


class IngestConfig(AppConfig):
    name = "ingest"

    def ready(self) -> None:
        receivers = {"Image": forget_files, "UploadedFile": forget_original, "PendingFile": forget_parts}
        for sender, receiver in receivers.items():
            post_delete.connect(
                receiver, sender=f"ingest.{sender}", dispatch_uid=f"ingest.{receiver.__name__}", weak=False
            )


def forget_files(instance: Any, **_: Any) -> None:
    """An image that is deleted takes its files with it."""
    from django.db import transaction

    from ingest.storing import delete_files_of

    transaction.on_commit(partial(delete_files_of, instance))


def forget_original(instance: Any, **_: Any) -> None:
    """A file of the ledger that is deleted takes its bytes with it, if nothing else needs them."""
    from django.db import transaction

    from ingest.storing import delete_unused_original

    if instance.sha256:
        transaction.on_commit(partial(delete_unused_original, instance.sha256))


def forget_parts(instance: Any, **_: Any) -> None:
    """A file on its way in that is deleted takes with it what had come of it."""
    from django.db import transaction

    from ingest.resumable import delete_parts

    if instance.received_at is None or instance.kind == "manifest":
        transaction.on_commit(partial(delete_parts, instance.pk, instance.received_bytes))
