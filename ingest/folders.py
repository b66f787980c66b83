"""Importing a folder, a file or a zip of this machine, in this process."""

import os
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO

from django.contrib.auth.models import User

from ingest.archives import expand_zip, is_zip
from ingest.image_file import RejectedFile
from ingest.importing import import_queued
from ingest.labels import ManifestError, clean_path, is_noise, manifest_path
from ingest.models import LabelSource, UploadBatch, UploadedFile
from ingest.receiving import IncomingFile, manifest_among, open_batch, receive_all

CHUNK_FILES = 32  # received, then imported, so that the first images can be found early

Progress = Callable[[int, int], None]  # files done, files in all


def import_path(
    path: Path,
    dataset_name: str,
    label_source: str = "",
    user: User | None = None,
    *,
    makes_organs: bool = False,
    on_progress: Progress = lambda done, total: None,
) -> UploadBatch:
    """Import a folder, a file or a zip into one batch, and return it when every file is done.

    Without a label source: a manifest where there is one, else folder names where images lie in folders,
    else DICOM tags. Workers may import beside it. Raises ManifestError, and OSError where `path` cannot be
    read.
    """
    if path.is_file() and is_zip(path.name):
        names = zip_names(path)
        batch = open_batch(
            dataset_name, label_source or natural_label_source(names), user, makes_organs=makes_organs
        )
        with path.open("rb") as file:
            import_rows(batch, expand_zip(batch, path.name, file), len(names), on_progress)
        return batch
    files = files_under(path)
    label_source = label_source or natural_label_source([file.path for file in files])
    manifest = manifest_among(files) if label_source == LabelSource.MANIFEST else None
    if label_source == LabelSource.MANIFEST and manifest is None:
        raise ManifestError("There is no manifest.csv in the folder.")
    batch = open_batch(dataset_name, label_source, user, makes_organs=makes_organs)
    import_rows(batch, receive_all(batch, files, manifest), len(files), on_progress)
    return batch


def import_rows(batch: UploadBatch, rows: Iterator[UploadedFile], total: int, on_progress: Progress) -> None:
    """Receive and import by turns, then wait for what workers took over."""
    received = 0
    while chunk := list(islice(rows, CHUNK_FILES)):
        import_queued(batch)
        received += len(chunk)
        on_progress(received, max(total, received))
    while not batch.is_finished:
        if not import_queued(batch):
            time.sleep(0.2)
    on_progress(received, received)


def natural_label_source(paths: Sequence[str]) -> LabelSource:
    if manifest_path(paths):
        return LabelSource.MANIFEST
    return LabelSource.FOLDER if any("/" in path for path in paths) else LabelSource.DICOM


def zip_names(path: Path) -> list[str]:
    """Cleaned names of a zip's files; none where it cannot be read, which importing it will tell."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [clean_path(member.filename) for member in archive.infolist() if not member.is_dir()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return []
    return [name for name in names if not is_noise(name)]


def files_under(path: Path) -> list[IncomingFile]:
    """Every regular file that is not hidden, sorted; folders behind links are not entered."""
    if path.is_file():
        return [IncomingFile(path.name, partial(opened, path))]
    found = []
    for folder, folders, names in os.walk(path):
        folders.sort()
        found += [Path(folder, name) for name in sorted(names)]
    relative = [(file, file.relative_to(path).as_posix()) for file in found if file.is_file()]
    return [IncomingFile(name, partial(opened, file)) for file, name in relative if not is_noise(name)]


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise RejectedFile("unreadable", "The file may not be read.") from error
    with file:
        yield file
