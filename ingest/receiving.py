"""Taking files in: their bytes into the storage, a row each into the ledger. Reading them comes later."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import PurePosixPath
from typing import IO, Any

from django.conf import settings
from django.contrib.auth.models import AnonymousUser, User
from django.db import transaction
from django.utils import timezone

from ingest.archives import Allowance, inflated, is_archive, start_of, unpacked
from ingest.dicom_parsing import looks_like_dicomdir
from ingest.image_file import RejectedFile
from ingest.labels import (
    MANIFEST_BYTES,
    NO_CLAIMS,
    Claims,
    Manifest,
    ManifestError,
    claims_for,
    clean_path,
    is_noise,
    manifest_path,
    modality_code,
    organ_slug,
    read_manifest,
    split_name,
)
from ingest.models import Dataset, FileState, LabelSource, UploadBatch, UploadedFile
from ingest.pseudonyms import keyed_hash
from ingest.storing import lock_bytes, original_name, store_once


@dataclass(frozen=True)
class IncomingFile:
    """A file that is about to come in: where it lay, how to open it, what was said of it.

    `open` gives a seekable binary file, or raises RejectedFile.
    """

    path: str
    open: Callable[[], AbstractContextManager[IO[bytes]]]
    claims: Claims = NO_CLAIMS


class TrashError(Exception):
    """A data set in the trash takes nothing in; its text is a sentence for the person."""


def refuse_trashed(dataset_name: str) -> None:
    """Raises TrashError."""
    if Dataset.objects.trashed().filter(name=dataset_name.strip()).exists():
        raise TrashError("The data set of this name is in the trash. Restore it, or choose another name.")


def open_batch(
    dataset_name: str,
    label_source: str,
    user: User | AnonymousUser | None,
    *,
    makes_organs: bool = False,
    is_trusted: bool = False,
    is_dry_run: bool = False,
    source: str = "",
    files_to_come: int = 0,
    manifest_columns: Mapping[str, str] | None = None,
    **of_new_dataset: Any,
) -> UploadBatch:
    """A new batch into the data set of that name, which is made if there is none, with the fields given.

    manifest_columns: what its manifests call our columns, kept with the data set where it is given. Raises
    TrashError.
    """
    refuse_trashed(dataset_name)
    creator = user if isinstance(user, User) else None
    with transaction.atomic():
        dataset, _created = Dataset.objects.get_or_create(
            name=dataset_name.strip(), defaults={"created_by": creator, **of_new_dataset}
        )
        if manifest_columns:
            dataset.manifest_columns = dict(manifest_columns)
            dataset.save(update_fields=["manifest_columns"])
        return UploadBatch.objects.create(
            dataset=dataset,
            label_source=label_source,
            makes_organs=makes_organs,
            is_trusted=is_trusted,
            is_dry_run=is_dry_run,
            source=source,
            files_to_come=files_to_come,
            created_by=creator,
        )


def receive_file(
    batch: UploadBatch, path: str, content: bytes | IO[bytes], claims: Claims = NO_CLAIMS
) -> UploadedFile:
    """Store the bytes under their SHA-256 and queue a row; an empty or too large file is rejected at once.

    `content` is bytes or a seekable binary file.
    """
    stream = BytesIO(content) if isinstance(content, bytes) else content
    stream.seek(0, os.SEEK_END)
    path = clean_path(path)
    row = UploadedFile(
        batch=batch,
        path=path,
        path_key=keyed_hash(path),
        size_bytes=stream.tell(),
        organ_name=organ_slug(claims.organ_name),
        modality_code=modality_code(claims.modality_code),
        group_key=keyed_hash(claims.group),
        split=split_name(claims.split),
    )
    if row.size_bytes == 0:
        return reject_unread(row, "empty_file", "The file is empty.")
    if row.size_bytes > settings.MAX_UPLOAD_BYTES:
        return reject_too_large(row)
    stream.seek(0)
    row.sha256 = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    with transaction.atomic():
        lock_bytes(row.sha256)
        store_once(original_name(row.sha256), stream, row.size_bytes)
        row.save()
    return row


def too_large() -> RejectedFile:
    limit = settings.MAX_UPLOAD_BYTES / 2**20
    return RejectedFile("too_large", f"The file is larger than the limit of {limit:g} MB.")


def reject_too_large(row: UploadedFile) -> UploadedFile:
    refusal = too_large()
    return reject_unread(row, refusal.code, refusal.sentence)


def reject_unread(row: UploadedFile, code: str, sentence: str) -> UploadedFile:
    """Record a file whose bytes were not taken in."""
    row.state, row.reason_code, row.reason = FileState.REJECTED, code, sentence
    row.finished_at = timezone.now()
    row.save()
    return row


def columns_for(dataset_name: str, said: Mapping[str, str]) -> dict[str, str]:
    """What manifests call our columns: as somebody says now, else as was said for the data set before."""
    if given := {ours: theirs for ours, theirs in said.items() if theirs}:
        return given
    known = Dataset.objects.filter(name=dataset_name.strip()).values_list("manifest_columns", flat=True)
    return known.first() or {}


def manifest_among(
    files: Sequence[IncomingFile], folder: str = "", columns: Mapping[str, str] | None = None
) -> Manifest | None:
    """The manifest.csv that came with the files, which all lie in `folder`. Raises ManifestError."""
    by_path = {clean_path(file.path).removeprefix(f"{folder}/"): file for file in files}
    path = manifest_path(by_path)
    if path is None:
        return None
    with by_path[path].open() as stream:
        stream.seek(0)
        content = stream.read(MANIFEST_BYTES + 1)
    if len(content) > MANIFEST_BYTES:
        raise ManifestError(f"The manifest is larger than {MANIFEST_BYTES // 2**20} MB.")
    return read_manifest(content, clean_path(f"{folder}/{path}"), columns)


def receive_all(
    batch: UploadBatch, files: Sequence[IncomingFile], manifest: Manifest | None
) -> Iterator[UploadedFile]:
    """Receive every file but the manifest and hidden ones, and yield the rows. Archives are unpacked.

    The members of an archive that came alone have the paths that they have in it; among other files, and
    inside another archive, an archive is like a folder: `outer.zip/inner.tar/file.dcm`. A file that the
    manifest does not name comes in without labels; one that it names and that is not there is a rejected
    row. A DICOMDIR is the index of the files beside it, which nobody misses: it has no row.
    """
    yield from receive_named(batch, files, manifest, None)


def receive_named(
    batch: UploadBatch, files: Sequence[IncomingFile], manifest: Manifest | None, allowance: Allowance | None
) -> Iterator[UploadedFile]:
    """Receive the files that a manifest is about, and tell which of those it names are not there."""
    ended = set()
    for row in receive_each(batch, files, manifest, allowance):
        ended.add(row.path)
        yield row
    if manifest:
        yield from reject_missing(batch, manifest, ended, ended | {clean_path(file.path) for file in files})


def reject_missing(
    batch: UploadBatch, manifest: Manifest, ended: set[str], present: set[str]
) -> Iterator[UploadedFile]:
    """A rejected row for each file that the manifest names and that is not `present`.

    `ended`: the paths of the rows that there are.
    """
    for path in manifest.claims:
        is_inside_a_refused_archive = not ended.isdisjoint(map(str, PurePosixPath(path).parents))
        if path not in present and not is_inside_a_refused_archive:
            sentence = "The manifest names this file, but it is not there."
            yield reject_unread(UploadedFile(batch=batch, path=path), "missing_file", sentence)


def receive_each(
    batch: UploadBatch,
    files: Sequence[IncomingFile],
    manifest: Manifest | None,
    allowance: Allowance | None,
    is_alone: bool | None = None,
) -> Iterator[UploadedFile]:
    """`allowance` is that of the archive which the files are members of, if they are.

    `is_alone`: whether no other file comes beside; without it, whether `files` has one.
    """
    wanted = [file for file in files if is_received(file, manifest)]
    if is_alone is None:
        is_alone = len(wanted) == 1
    for file in wanted:
        path = clean_path(file.path)
        try:
            with file.open() as stream:
                if is_archive(path, stream):
                    folder = path if allowance or not is_alone else ""
                    yield from receive_members(batch, file, stream, folder, manifest, allowance)
                elif is_alone or not looks_like_dicomdir(start_of(stream)):
                    claims = claims_for(path, batch.label_source, manifest, file.claims)
                    yield receive_file(batch, path, stream, claims)
        except RejectedFile as rejected:
            yield reject_unread(UploadedFile(batch=batch, path=path), rejected.code, rejected.sentence)
        except ManifestError as error:
            yield reject_unread(UploadedFile(batch=batch, path=path), "bad_manifest", str(error))


def receive_members(
    batch: UploadBatch,
    archive: IncomingFile,
    stream: IO[bytes],
    folder: str,
    manifest: Manifest | None,
    allowance: Allowance | None,
) -> Iterator[UploadedFile]:
    """Receive an archive's members under `folder`. Raises RejectedFile and ManifestError before any came in.

    A manifest.csv in the archive's root, or in its only folder, labels the members; without one, the
    manifest beside the archive does. What is said of the archive is said of each of them.
    """
    claims = claims_for(clean_path(archive.path), "", manifest, archive.claims)
    allowance = allowance or Allowance(sent_bytes=stream.seek(0, os.SEEK_END))
    with unpacked(stream, allowance) as members:
        files = [
            IncomingFile(f"{folder}/{clean_path(member.path)}", partial(inflated, member), claims)
            for member in members
        ]
        if own := manifest_among(files, folder, batch.dataset.manifest_columns):
            yield from receive_named(batch, files, own, allowance)
        elif manifest is None and batch.label_source == LabelSource.MANIFEST and claims == NO_CLAIMS:
            raise ManifestError("The archive has no manifest.csv in its root.")
        else:
            yield from receive_each(batch, files, manifest, allowance)


def is_received(file: IncomingFile, manifest: Manifest | None) -> bool:
    path = clean_path(file.path)
    return not is_noise(path) and path != (manifest.path if manifest else None)
