"""Watched folders: what comes to lie in them is taken in by itself, once, and stays where it is."""

import hashlib
import os
from datetime import timedelta
from pathlib import Path

from django.db import transaction
from django.utils import timezone

from ingest.models import UploadBatch, WatchedFile, WatchedFolder
from ingest.pending import expect_files
from ingest.receiving import open_batch
from ingest.server_folders import FolderRefused, checked_folder, files_below, pending_file

SETTLED = timedelta(seconds=45)  # a file that did not change between two looks so far apart is complete


def look_at_all() -> int:
    """Look at every watched folder that nobody else is looking at; returns how many files are taken in."""
    taken = 0
    for pk in WatchedFolder.objects.filter(is_active=True).values_list("pk", flat=True):
        with transaction.atomic():
            folders = WatchedFolder.objects.select_for_update(skip_locked=True, of=("self",))
            folder = folders.filter(pk=pk, is_active=True).select_related("dataset").first()
            if folder is not None:
                taken += look_at(folder)
    return taken


def look_at(folder: WatchedFolder) -> int:
    """Note what lies in a locked folder, and take in what is as it was at the look before.

    That a file was taken, and that it is to be read, is committed at once: none is lost or comes in twice.
    """
    now = timezone.now()
    if folder.looked_at and now - folder.looked_at < SETTLED:
        return 0
    folder.looked_at = now
    try:
        top = checked_folder(folder.path)
        found = dict(files_below(top))
        folder.problem = ""
    except FolderRefused as refused:
        folder.problem = str(refused)
    except OSError:
        folder.problem = "The folder, or one in it, may not be read."
    if folder.dataset.trashed_at:
        folder.problem = "Its data set is in the trash."
    folder.save(update_fields=["looked_at", "problem"])
    return 0 if folder.problem else take_settled(folder, top, found)


def take_settled(folder: WatchedFolder, top: Path, found: dict[str, os.stat_result]) -> int:
    known = {file.path_digest: file for file in folder.files.all()}
    new, changed, settled = list[WatchedFile](), list[WatchedFile](), list[WatchedFile]()
    incoming = []
    for path, state in found.items():
        digest = hashlib.sha256(os.fsencode(path)).hexdigest()
        file = known.get(digest) or WatchedFile(folder=folder, path_digest=digest)
        as_it_is = (state.st_size, state.st_mtime_ns)
        if file.pk is None or (file.size_bytes, file.modified) != as_it_is:
            file.size_bytes, file.modified = as_it_is
            file.taken_at = None
            (changed if file.pk else new).append(file)
        elif file.taken_at is None:
            file.taken_at = timezone.now()
            settled.append(file)
            incoming.append((path, state))
    WatchedFile.objects.bulk_create(new)
    WatchedFile.objects.bulk_update(changed, ["size_bytes", "modified", "taken_at"], batch_size=500)
    WatchedFile.objects.bulk_update(settled, ["taken_at"], batch_size=500)
    if settled:
        batch = batch_of_today(folder)
        expect_files(batch, [pending_file(batch.pk, top, *each) for each in incoming])
    return len(settled)


def batch_of_today(folder: WatchedFolder) -> UploadBatch:
    """One batch a day: not one for each look."""
    midnight = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
    alike = UploadBatch.objects.filter(
        source=folder.path,
        dataset=folder.dataset,
        label_source=folder.label_source,
        makes_organs=folder.makes_organs,
        created_by=None,
        created_at__gte=midnight,
    )
    return alike.first() or open_batch(
        folder.dataset.name,
        folder.label_source,
        None,
        makes_organs=folder.makes_organs,
        source=folder.path,
    )
