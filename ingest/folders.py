"""Importing a folder, a file or an archive of this machine, or a bucket, in this process."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any

from django.contrib.auth.models import User

from ingest.archives import DAMAGED, Allowance, is_archive, members_of
from ingest.buckets import BucketFolder, fetched
from ingest.directories import NOTHING_THERE, FolderRefused
from ingest.image_file import RejectedFile
from ingest.importing import import_queued
from ingest.labels import (
    ManifestError,
    clean_path,
    folder_of,
    has_archive_name,
    is_noise,
    manifest_path,
)
from ingest.models import LabelSource, UploadBatch, UploadedFile
from ingest.receiving import IncomingFile, columns_for, manifest_among, open_batch, receive_all

CHUNK_FILES = 32  # received, then imported, so that the first images can be found early

Progress = Callable[[int, int], None]  # files done, files in all


def import_path(
    path: Path | BucketFolder,
    dataset_name: str,
    label_source: str = "",
    user: User | None = None,
    *,
    makes_organs: bool = False,
    is_trusted: bool = False,
    manifest_columns: Mapping[str, str] | None = None,
    is_dry_run: bool = False,
    on_progress: Progress = lambda done, total: None,
    **of_new_dataset: Any,
) -> UploadBatch:
    """Import a folder, a bucket, a file or an archive into one batch; returns it when every file is done.

    Without a label source: a manifest where there is one, else folder names where images lie in folders,
    else DICOM tags. Archives in a folder are unpacked as well. Workers may import beside it. A dry
    run imports nothing and tells what would happen. Raises ManifestError, FolderRefused and RejectedFile.
    """
    files = files_under(path)
    paths = [inside for file in files for inside in paths_inside(file, is_alone=len(files) == 1)]
    label_source = label_source or natural_label_source(paths)
    columns = columns_for(dataset_name, manifest_columns or {})
    manifest = manifest_among(files, columns=columns) if label_source == LabelSource.MANIFEST else None
    may_be_inside = bool(files) and all(map(holds_archive, files))
    if label_source == LabelSource.MANIFEST and manifest is None and not may_be_inside:
        raise ManifestError("There is no manifest.csv in the folder.")
    batch = open_batch(
        dataset_name,
        label_source,
        user,
        makes_organs=makes_organs,
        is_trusted=is_trusted,
        is_dry_run=is_dry_run,
        manifest_columns=columns,
        **of_new_dataset,
    )
    import_rows(batch, receive_all(batch, files, manifest), len(paths), on_progress)
    return batch


def import_rows(batch: UploadBatch, rows: Iterator[UploadedFile], total: int, on_progress: Progress) -> None:
    """Receive and import by turns, then wait for what workers took over."""
    received = 0
    while chunk := list(islice(rows, CHUNK_FILES)):
        import_queued(batch)
        received += len(chunk)
        on_progress(received, max(total, received))
    import_rest(batch)
    on_progress(received, received)


def import_rest(batch: UploadBatch) -> None:
    """Import what is queued of the batch, and wait for what workers took over."""
    while not batch.is_finished:
        if not import_queued(batch):
            time.sleep(0.2)


def natural_label_source(paths: Sequence[str]) -> LabelSource:
    if manifest_path(paths):
        return LabelSource.MANIFEST
    return LabelSource.FOLDER if any(map(folder_of, paths)) else LabelSource.DICOM


def holds_archive(file: IncomingFile) -> bool:
    with suppress(RejectedFile), file.open() as stream:
        return is_archive(file.path, stream)
    return False


def paths_inside(file: IncomingFile, is_alone: bool) -> list[str]:
    """The file's path or, of an archive, those that its members will have; an archive in it counts as one.

    Of many files, only those named like archives are opened for this.
    """
    if not (is_alone or has_archive_name(file.path)) or not holds_archive(file):
        return [file.path]
    folder = "" if is_alone else f"{file.path}/"
    with suppress(RejectedFile, *DAMAGED), file.open() as stream, ExitStack() as stack:
        members = members_of(stream, Allowance(stream.seek(0, os.SEEK_END)), stack)
        names = [clean_path(member.path) for member in members]
        return [folder + name for name in names if not is_noise(name)]
    return [file.path]


def files_under(path: Path | BucketFolder) -> list[IncomingFile]:
    """Every regular file that is not hidden, sorted; folders behind links are not entered."""
    if isinstance(path, BucketFolder):
        return objects_in(path)
    if path.is_file():
        return [IncomingFile(path.name, partial(opened, path))]
    found = []
    for folder, folders, names in os.walk(path):
        folders.sort()
        found += [Path(folder, name) for name in sorted(names)]
    relative = [(file, file.relative_to(path).as_posix()) for file in found if file.is_file()]
    return [IncomingFile(name, partial(opened, file)) for file, name in relative if not is_noise(name)]


def objects_in(folder: BucketFolder) -> list[IncomingFile]:
    """Raises FolderRefused, also where there are none: a mistyped prefix looks like an empty one."""
    found = [
        IncomingFile(name, partial(fetched, folder.bucket, folder.start + name, state))
        for name, state in folder.files()
    ]
    if not found:
        raise FolderRefused(NOTHING_THERE)
    return found


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise RejectedFile("unreadable", "The file may not be read.") from error
    with file:
        yield file
