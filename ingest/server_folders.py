"""Folders that the server can see, of its file system or in buckets, and how what lies in them comes in.

Each kind says what may be imported, what lies there and how to open it: directories.py and buckets.py.
"""

import os
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO
from urllib.parse import quote, unquote_to_bytes

from django.conf import settings

from ingest.buckets import SCHEME, BucketFolder, opened_object
from ingest.directories import NOTHING_THERE, Directory, FolderRefused, State, opened_file
from ingest.image_file import RejectedFile
from ingest.labels import (
    MANIFEST_BYTES,
    MANIFEST_NAME,
    ManifestError,
    clean_path,
    has_archive_name,
    manifest_path,
    read_manifest,
)
from ingest.models import LabelSource, PendingFile, PendingKind, UploadBatch, UploadedFile
from ingest.receiving import reject_unread

ServerFolder = Directory | BucketFolder


def checked_folder(text: str) -> ServerFolder:
    """The folder of that path or address. Raises FolderRefused unless it is a root or lies below one."""
    if not settings.IMPORT_ROOTS:
        raise FolderRefused("No folder of the server may be imported: CBMIR_IMPORT_ROOTS names none.")
    kind: type[ServerFolder] = BucketFolder if text.startswith(SCHEME) else Directory
    folder = kind.below_a_root(text)
    if folder is None:  # one sentence for all, which tells nothing of other folders
        raise FolderRefused(f"There is no such folder below {' or '.join(settings.IMPORT_ROOTS)}.")
    return folder


def quoted(address: str) -> str:
    return quote(os.fsencode(address))


def unquoted(text: str) -> str:
    return os.fsdecode(unquote_to_bytes(text))


def pending_file(batch_id: int, folder: ServerFolder, path: str, state: State) -> PendingFile:
    return PendingFile(
        batch_id=batch_id,
        kind=PendingKind.FILE,
        path=clean_path(path),
        server_path=quoted(folder.address_of(path)),
        size_bytes=state.size_bytes,
        modified=state.version,
    )


def pending_folder(batch: UploadBatch, folder: ServerFolder) -> PendingFile:
    return PendingFile(
        batch=batch, kind=PendingKind.FOLDER, path=clean_path(folder.name), server_path=quoted(str(folder))
    )


def opened_below_root(file: PendingFile) -> AbstractContextManager[IO[bytes]]:
    """A file of the server, seekable, if it still is what it was when it was listed. Raises RejectedFile."""
    address, state = unquoted(file.server_path), State(file.size_bytes, file.modified)
    return opened_object(address, state) if address.startswith(SCHEME) else opened_file(address, state)


@dataclass(frozen=True)
class FolderManifest:
    """A copy, which counts for the files taken with it: the folder's own may be written on."""

    path: str
    content: bytes
    claims: Collection[str]  # the paths that it names


def manifest_of_folder(file: PendingFile, columns: dict[str, str]) -> FolderManifest:
    """Raises ManifestError and RejectedFile."""
    with opened_below_root(file) as stream:
        content = stream.read(MANIFEST_BYTES + 1)
    if len(content) > MANIFEST_BYTES:
        raise ManifestError(f"The manifest is larger than {MANIFEST_BYTES // 2**20} MB.")
    manifest = read_manifest(content, file.path, columns)
    return FolderManifest(manifest.path, content, manifest.claims)


def list_folder(folder: PendingFile) -> tuple[list[PendingFile], FolderManifest | None]:
    """Unsaved rows for the files of a folder, and its manifest where labels come from one.

    A folder that cannot be read, or whose manifest cannot be used, is one rejected row.
    """
    batch = folder.batch
    try:
        top = checked_folder(unquoted(folder.server_path))
        listed = [pending_file(batch.pk, top, *each) for each in top.files()]
        if not listed:
            raise FolderRefused(NOTHING_THERE)
        if batch.label_source == LabelSource.MANIFEST:
            return apart_from_manifest(listed, batch.dataset.manifest_columns)
        return listed, None
    except FolderRefused as refused:
        reject_unread(UploadedFile(batch=batch, path=folder.path), "unreadable", str(refused))
    except RejectedFile as error:
        reject_unread(UploadedFile(batch=batch, path=MANIFEST_NAME), error.code, error.sentence)
    except ManifestError as error:
        reject_unread(UploadedFile(batch=batch, path=MANIFEST_NAME), "bad_manifest", str(error))
    return [], None


def apart_from_manifest(
    listed: list[PendingFile], columns: dict[str, str]
) -> tuple[list[PendingFile], FolderManifest | None]:
    """The files, and the manifest that is about them. Raises ManifestError and RejectedFile."""
    path = manifest_path(file.path for file in listed)
    if path is None:
        if not all(has_archive_name(file.path) for file in listed):
            raise ManifestError("There is no manifest.csv in the folder.")
        return listed, None
    manifest = next(file for file in listed if file.path == path)
    return [file for file in listed if file.path != path], manifest_of_folder(manifest, columns)
