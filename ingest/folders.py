"""Importing a folder, a file or a zip of this machine, in this process."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import batched
from pathlib import Path
from typing import IO

from django.contrib.auth.models import AbstractBaseUser

from ingest.archives import expand_zip, is_zip
from ingest.image_file import RejectedFile
from ingest.importing import import_queued
from ingest.labels import MANIFEST_NAME, clean_path, is_noise
from ingest.models import LabelSource, UploadBatch, UploadedFile
from ingest.receiving import IncomingFile, manifest_among, open_batch, receive_all

CHUNK_FILES = 16  # received, then imported, so that the first images can be found early

Progress = Callable[[int, int], None]  # files done, files in all


def import_path(
    path: Path,
    dataset_name: str,
    label_source: str = "",
    user: AbstractBaseUser | None = None,
    on_progress: Progress = lambda done, total: None,
) -> UploadBatch:
    """Import everything under `path` into one batch and return it when each file is done.

    Workers may import beside it. Raises ManifestError, and FileNotFoundError where `path` does not exist.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    if path.is_file() and is_zip(path.name):
        return import_zip(path, dataset_name, label_source, user, on_progress)
    files = files_under(path)
    label_source = label_source or natural_label_source([file.path for file in files])
    manifest = manifest_among(files) if label_source == LabelSource.MANIFEST else None
    batch = open_batch(dataset_name, label_source, user)
    import_rows(batch, receive_all(batch, files, manifest), len(files) - (manifest is not None), on_progress)
    return batch


def import_zip(
    path: Path, dataset_name: str, label_source: str, user: AbstractBaseUser | None, on_progress: Progress
) -> UploadBatch:
    import zipfile

    paths = zipfile.Path(path)
    raise NotImplementedError(paths)
