"""Watched folders: what comes to lie in them is taken in by itself, once, and stays where it is."""

import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from io import BytesIO

from django.db import transaction
from django.utils import timezone

from ingest.directories import FolderRefused, State
from ingest.image_file import RejectedFile
from ingest.labels import ManifestError, clean_path, has_archive_name, manifest_path
from ingest.models import LabelSource, PendingKind, UploadBatch, WatchedFile, WatchedFolder
from ingest.pending import expect_files
from ingest.receiving import open_batch
from ingest.resumable import store_manifest
from ingest.server_folders import (
    FolderManifest,
    ServerFolder,
    checked_folder,
    manifest_of_folder,
    pending_file,
)

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
        found = dict(top.files())
        folder.problem = ""
    except FolderRefused as refused:
        folder.problem = str(refused)
    if folder.dataset.trashed_at:
        folder.problem = "Its data set is in the trash."
    taken = 0 if folder.problem else take_settled(folder, top, found)
    folder.save(update_fields=["looked_at", "problem"])
    return taken


def take_settled(folder: WatchedFolder, top: ServerFolder, found: dict[str, State]) -> int:
    known = {file.path_digest: file for file in folder.files.all()}
    new, changed, settled = list[WatchedFile](), list[WatchedFile](), dict[str, WatchedFile]()
    for path, state in found.items():
        digest = hashlib.sha256(os.fsencode(path)).hexdigest()
        file = known.get(digest) or WatchedFile(folder=folder, path_digest=digest)
        if file.pk is None or (file.size_bytes, file.modified) != state:
            file.size_bytes, file.modified = state
            file.taken_at = None
            (changed if file.pk else new).append(file)
        else:
            settled[path] = file
    WatchedFile.objects.bulk_create(new)
    WatchedFile.objects.bulk_update(changed, ["size_bytes", "modified", "taken_at"], batch_size=500)
    paths, manifest = [path for path, file in settled.items() if file.taken_at is None], None
    if folder.label_source == LabelSource.MANIFEST:
        paths, manifest = named_in_manifest(folder, top, found, settled.keys(), paths)
    for path in paths:
        settled[path].taken_at = timezone.now()
    WatchedFile.objects.bulk_update([settled[path] for path in paths], ["taken_at"], batch_size=500)
    if paths:
        batch = batch_of_today(folder)
        if manifest:
            batch.pending_files.filter(kind=PendingKind.MANIFEST).delete()  # of an earlier look
            store_manifest(batch, manifest.path, BytesIO(manifest.content), len(manifest.content))
        expect_files(batch, [pending_file(batch.pk, top, path, found[path]) for path in paths])
    return len(paths)


def named_in_manifest(
    folder: WatchedFolder,
    top: ServerFolder,
    found: Mapping[str, State],
    settled: Collection[str],
    paths: Sequence[str],
) -> tuple[list[str], FolderManifest | None]:
    """Which of these paths the folder's manifest.csv names, and the manifest; the others wait, which is told.

    A folder without a manifest may hold archives that have their own.
    """
    path = manifest_path(found)
    paths = [each for each in paths if each != path]
    if path is None:
        archives = [each for each in paths if has_archive_name(each)]
        if len(archives) < len(paths):
            folder.problem = "There is no manifest.csv in the folder."
        return archives, None
    if path not in settled or not paths:
        return [], None
    try:
        file = pending_file(0, top, path, found[path])
        manifest = manifest_of_folder(file, folder.dataset.manifest_columns)
    except (ManifestError, RejectedFile) as error:
        folder.problem = error.sentence if isinstance(error, RejectedFile) else str(error)
        return [], None
    named = [each for each in paths if is_named(clean_path(each), manifest)]
    if waiting := len(paths) - len(named):
        wait = "1 file waits" if waiting == 1 else f"{waiting:,} files wait"
        folder.problem = f"{wait} until the manifest.csv names {'it' if waiting == 1 else 'them'}."
    return named, manifest


def is_named(path: str, manifest: FolderManifest) -> bool:
    """Itself or, of an archive, one of its members."""
    in_archive = f"{path}/"
    return path in manifest.claims or (
        has_archive_name(path) and any(name.startswith(in_archive) for name in manifest.claims)
    )


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
