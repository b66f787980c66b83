"""Folders that the server can see: which of them may be imported, and what lies in them.

Only what lies below the roots of CBMIR_IMPORT_ROOTS may be read, whatever links or ".." say.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO
from urllib.parse import quote, unquote_to_bytes

from django.conf import settings
from django.utils import timezone

from ingest.image_file import RejectedFile
from ingest.labels import MANIFEST_NAME, ManifestError, clean_path, has_archive_name, is_noise
from ingest.models import LabelSource, PendingFile, PendingKind, UploadBatch, UploadedFile
from ingest.receiving import IncomingFile, manifest_among, reject_unread


class FolderRefused(Exception):
    """A folder that may not be imported; its text is a sentence for the person."""


def roots() -> list[Path]:
    return [Path(root).resolve() for root in settings.IMPORT_ROOTS]


def is_below_a_root(path: Path) -> bool:
    """`path` is resolved: without links and ".."."""
    return any(path.is_relative_to(root) for root in roots())


def checked_folder(text: str) -> Path:
    """The folder of that path, resolved. Raises FolderRefused unless it is a root or lies below one."""
    if not settings.IMPORT_ROOTS:
        raise FolderRefused("No folder of the server may be imported: CBMIR_IMPORT_ROOTS names none.")
    try:
        path = Path(text).resolve()
        is_folder = Path(text).is_absolute() and is_below_a_root(path) and path.is_dir()
    except (OSError, ValueError, RuntimeError):
        is_folder = False
    if not is_folder:  # one sentence for all, which tells nothing of other folders
        raise FolderRefused(f"There is no such folder below {' or '.join(settings.IMPORT_ROOTS)}.")
    return path


def files_below(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """The path inside the folder and the state of every regular file that is not hidden, sorted.

    Links are no regular files here, and are not followed. Raises OSError where the folder cannot be read.
    """
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if is_noise(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            for path, state in files_below(Path(entry.path)):
                yield f"{entry.name}/{path}", state
        elif entry.is_file(follow_symlinks=False):
            yield entry.name, entry.stat(follow_symlinks=False)


def quoted(path: Path) -> str:
    return quote(os.fsencode(path))


def unquoted(text: str) -> Path:
    return Path(os.fsdecode(unquote_to_bytes(text)))


def pending_file(batch_id: int, folder: Path, path: str, state: os.stat_result) -> PendingFile:
    return PendingFile(
        batch_id=batch_id,
        kind=PendingKind.FILE,
        path=clean_path(path),
        server_path=quoted(folder / path),
        size_bytes=state.st_size,
        modified=state.st_mtime_ns,
    )


def pending_folder(batch: UploadBatch, folder: Path) -> PendingFile:
    return PendingFile(
        batch=batch, kind=PendingKind.FOLDER, path=clean_path(folder.name), server_path=quoted(folder)
    )


def list_folder(folder: PendingFile) -> list[PendingFile]:
    """Unsaved rows for the files of a folder, and for its manifest.

    A folder that cannot be read, or whose manifest cannot be used, is one rejected row.
    """
    batch, top = folder.batch, unquoted(folder.server_path)
    try:
        listed = [pending_file(batch.pk, checked_folder(str(top)), *each) for each in files_below(top)]
        if batch.label_source == LabelSource.MANIFEST:
            mark_manifest(listed, batch.dataset.manifest_columns)
        return listed
    except (OSError, FolderRefused) as error:
        sentence = str(error) if isinstance(error, FolderRefused) else "The folder may not be read."
        reject_unread(UploadedFile(batch=batch, path=top.name), "unreadable", sentence)
    except RejectedFile as error:
        reject_unread(UploadedFile(batch=batch, path=MANIFEST_NAME), error.code, error.sentence)
    except ManifestError as error:
        reject_unread(UploadedFile(batch=batch, path=MANIFEST_NAME), "bad_manifest", str(error))
    return []


def mark_manifest(listed: list[PendingFile], columns: Mapping[str, str]) -> None:
    """Tell the manifest from the files that it is about. Raises ManifestError and RejectedFile."""
    files = [IncomingFile(each.path, partial(opened_below_root, each)) for each in listed]
    manifest = manifest_among(files, columns=columns)
    if manifest is None and not all(has_archive_name(each.path) for each in listed):
        raise ManifestError("There is no manifest.csv in the folder.")
    for each in listed:
        if manifest and each.path == manifest.path:
            each.kind, each.received_at = PendingKind.MANIFEST, timezone.now()


@contextmanager
def opened_below_root(file: PendingFile) -> Iterator[IO[bytes]]:
    """A file of the server, if it still is what it was when it was listed. Raises RejectedFile."""
    try:
        path = unquoted(file.server_path)
        # A folder on the way may have become a link since.
        if path.resolve(strict=True) != path or not is_below_a_root(path):
            raise RejectedFile("link", "This is a link to another file. Links are not followed.")
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise RejectedFile("unreadable", "The file may not be read, or is no longer there.") from error
    with os.fdopen(descriptor, "rb") as stream:
        state = os.fstat(stream.fileno())
        if (state.st_size, state.st_mtime_ns) != (file.size_bytes, file.modified):
            raise RejectedFile("changed", "The file was changed before it was taken in.")
        yield stream
