"""Whether the ledger, the images and the file storage agree; mending what can be mended.

Safe beside imports: what may still be on its way is left alone. Memory stays flat: rows and names are
compared some hundreds at a time.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from io import BytesIO
from itertools import chain, groupby
from typing import Any

from django.core.files.storage import default_storage
from django.db import transaction
from django.db.models import Exists, F, Max, OuterRef, Q, QuerySet
from django.utils import timezone

from ingest.bell import ring
from ingest.claiming import release_stuck_files, stuck_files
from ingest.duplicates import pair_same_pixels, pixel_hash
from ingest.image_file import RejectedFile
from ingest.keeping import stored_original
from ingest.models import FileState, Image, UploadedFile
from ingest.reading import read_image
from ingest.renditions import decode_rendition, network_rendition, preview
from ingest.storing import lock_bytes, store_once

SETTLED = timedelta(hours=1)  # what is younger may still be on its way
CHUNK = 500  # rows, or names
THREADS = 8  # that wait for the storage
MOST_NUMBERS = 1000  # of each finding
FOLDERS = ("originals", "renditions", "previews", "quarantine")
DIGEST = re.compile("[0-9a-f]{64}")


@dataclass
class Finding:
    """Rows or files of which one thing is wrong or, where `is_problem` is False, worth knowing."""

    code: str
    words: str
    of: str = "image"  # whose numbers `numbers` are
    is_problem: bool = True
    count: int = 0
    repaired: int = 0
    numbers: list[int] = field(default_factory=list)  # the first of those that are left

    @property
    def left(self) -> int:
        return self.count - self.repaired if self.is_problem else 0

    def add(self, number: int | None = None, repaired: bool = False) -> None:
        self.count += 1
        self.repaired += repaired
        if number and not repaired and len(self.numbers) < MOST_NUMBERS:
            self.numbers.append(number)

    def add_all(self, rows: QuerySet[Any]) -> None:
        if count := rows.count():
            self.count += count
            self.numbers += rows.order_by("pk").values_list("pk", flat=True)[:MOST_NUMBERS]


def check_ledger(repair: bool = False) -> list[Finding]:
    """Every file is in one state and that state is true; files whose reader died are queued again.

    A row becomes `imported` in the transaction that makes its images: where it has none, they were deleted.
    """
    untrue = Finding("untrue_state", "files whose state is not what became of them", of="file")
    stuck = Finding("stuck", "files whose reader died", of="file")
    deleted = Finding("images_deleted", "imported files whose images were deleted", "file", is_problem=False)
    has_images = Exists(Image.objects.filter(uploaded_file=OuterRef("pk")))
    is_finished = Q(state__in=set(FileState.values) - {FileState.QUEUED, FileState.READING})
    untrue.add_all(
        UploadedFile.objects.filter(
            ~Q(state__in=FileState.values)
            | Q(is_finished, finished_at=None)
            | Q(state__in=[FileState.REJECTED, FileState.LEFT_OUT, FileState.QUARANTINED], reason_code="")
            | Q(state=FileState.QUARANTINED, quarantine=None)
            | Q(~Q(state=FileState.IMPORTED), has_images)
        )
    )
    deleted.add_all(UploadedFile.objects.filter(~has_images, state=FileState.IMPORTED))
    with transaction.atomic():
        for number in stuck_files().values_list("pk", flat=True):
            stuck.add(number, repaired=repair)
        if stuck.repaired:
            release_stuck_files()
            ring("ingest.import_queued_files")
    return [untrue, stuck, deleted]


def check_images(
    repair: bool = False, deep: bool = False, on_progress: Callable[[int, int], None] = lambda *_: None
) -> list[Finding]:
    """Every image has its original, its rendition and its preview; the latter two are made anew of the first.

    With `deep` all of them are read: the original's SHA-256 is that in its name, the pictures decode.
    """
    findings = {
        "original_lost": Finding("original_lost", "images whose original is lost or cut off"),
        "original_damaged": Finding("original_damaged", "images whose original has other bytes"),
        "rendition": Finding("rendition", "images whose rendition is lost or damaged"),
        "preview": Finding("preview", "images whose preview is lost or damaged"),
    }
    done, total = 0, Image.objects.count()
    with ThreadPoolExecutor(THREADS) as pool:
        for images in image_chunks():
            files = [list(frames) for _, frames in groupby(images, key=lambda image: image.sha256)]
            faults_of_all = chain.from_iterable(pool.map(partial(faults_of_file, deep=deep), files))
            for image, faults in zip(images, faults_of_all, strict=True):
                if faults and Image.objects.filter(pk=image.pk).exists():  # or it went with its files
                    repaired = rebuild_pictures(image, faults) if repair else set()
                    for fault in faults:
                        findings[fault].add(image.pk, fault in repaired)
            done += len(images)
            on_progress(done, max(done, total))
    return list(findings.values())


def image_chunks() -> Iterator[list[Any]]:
    """The images that there are now, with the `size_bytes` of their files where these are known."""
    newest = Image.objects.aggregate(newest=Max("pk"))["newest"] or 0
    images = Image.objects.filter(pk__lte=newest).order_by("pk")
    images = images.annotate(size_bytes=F("uploaded_file__size_bytes"))
    images = images.only("sha256", "frame_number", "original", "rendition", "preview")
    last = 0
    while chunk := list(images.filter(pk__gt=last)[:CHUNK]):
        yield chunk
        last = chunk[-1].pk


def faults_of_file(frames: list[Any], deep: bool) -> list[set[str]]:
    """What is wrong with each image of one file. Asks the storage alone: it runs in a thread."""
    of_original = faults_of_original(frames[0], deep)
    return [
        of_original
        | ({"rendition"} if not is_whole(image.rendition.name, deep) else set())
        | ({"preview"} if not is_whole(image.preview.name, deep) else set())
        for image in frames
    ]


def faults_of_original(image: Any, deep: bool) -> set[str]:
    try:
        size_bytes, digest_wanted = default_storage.size(image.original.name), digest_in(image.original.name)
        is_as_it_came = digest_wanted == image.sha256  # of others, which were de-identified, no size is known
        if size_bytes == 0 or (is_as_it_came and size_bytes != (image.size_bytes or size_bytes)):
            return {"original_lost"}
        if deep:
            with default_storage.open(image.original.name) as file:
                digest = hashlib.sha256()
                for part in file.chunks():
                    digest.update(part)
            return {"original_damaged"} if digest.hexdigest() != digest_wanted else set()
    except FileNotFoundError:
        return {"original_lost"}
    return set()


def is_whole(name: str, deep: bool) -> bool:
    """Whether a picture is there and not empty; with `deep` whether it decodes."""
    if not name:
        return False
    try:
        if not deep:
            return default_storage.size(name) > 0
        with default_storage.open(name) as file:
            content = file.read()
    except FileNotFoundError:
        return False
    try:
        decode_rendition(BytesIO(content))
    except Exception:  # Pillow's decoders raise many kinds
        return False
    return True


def rebuild_pictures(image: Image, faults: set[str]) -> set[str]:
    """Make those of the image's pictures anew that are among the faults; returns which were made."""
    makers = {"rendition": network_rendition, "preview": preview}
    wanted = {kind for kind in faults & makers.keys() if getattr(image, kind).name}
    if not wanted:
        return set()
    try:
        content = stored_original(digest_in(image.original.name))
        pixels = read_image(content, frame=image.frame_number).frames[0].pixels
    except RejectedFile:
        return set()
    for kind in wanted:
        name, picture = getattr(image, kind).name, makers[kind](pixels)
        default_storage.delete(name)
        store_once(name, picture, len(picture))
    return wanted


def check_pixels(repair: bool = False) -> list[Finding]:
    """Every image has the hash of its pixels; one that came in before there were any gets it of its file."""
    unhashed = Finding("pixels_unknown", "images not yet compared by their pixels", is_problem=False)
    for image in Image.objects.filter(pixel_hash="").order_by("pk").iterator():
        unhashed.add(image.pk, repaired=repair and hash_pixels(image))
    return [unhashed]


def hash_pixels(image: Image) -> bool:
    """Whether its file could be read."""
    try:
        content = stored_original(digest_in(image.original.name))
        pixels = read_image(content, frame=image.frame_number).frames[0].pixels
    except RejectedFile:
        return False
    with transaction.atomic():
        image.pixel_hash = pixel_hash(pixels)
        Image.objects.filter(pk=image.pk).update(pixel_hash=image.pixel_hash)
        pair_same_pixels([image])
    return True


def check_storage(repair: bool = False) -> list[Finding]:
    """Every stored file is needed; what nothing needs, and has not for an hour, is deleted."""
    orphans = Finding("orphan", "stored files that nothing needs", of="")
    foreign = Finding("foreign", "stored files of other names, left alone", of="", is_problem=False)
    for names in chain.from_iterable(map(stored_names, FOLDERS)):
        ours = [name for name in names if digest_in(name)]
        foreign.count += len(names) - len(ours)
        for name in orphans_among(ours):
            if not repair:
                orphans.add()
            elif delete_orphan(name):
                orphans.add(repaired=True)
    return [orphans, foreign]


def stored_names(folder: str) -> Iterator[list[str]]:
    """Names of the stored files under the folder, by the chunk. One folder's names at a time are held."""
    try:
        folders, names = default_storage.listdir(folder)
    except FileNotFoundError:
        return
    for start in range(0, len(names), CHUNK):
        yield [f"{folder}/{name}" for name in names[start : start + CHUNK]]
    for inner in sorted(folders):
        yield from stored_names(f"{folder}/{inner}")


def digest_in(name: str | None) -> str:
    """The SHA-256 that our files' names begin with; of other files, nothing."""
    found = DIGEST.match((name or "").rsplit("/", 1)[-1])
    return found[0] if found else ""


def without_image(names: Sequence[str]) -> list[str]:
    digests = {digest_in(name) for name in names}
    images = Image.objects.filter(Q(sha256__in=digests) | Q(original__in=names))
    files = images.values_list("original", "rendition", "preview")
    needed = set(chain.from_iterable(files))
    return [name for name in names if name not in needed]


def orphans_among(names: Sequence[str]) -> list[str]:
    """Those that no image needs, nor a file still to be read, and that are old enough.

    A file that is being received has no row yet, and is young or locked (`delete_orphan`).
    """
    settled = [name for name in without_image(names) if is_settled(name)]
    if not settled:
        return []
    # Asked before the images again: an import ends its row and commits its images at once.
    digests = {digest_in(name) for name in settled}
    needing = UploadedFile.objects.needing_bytes().filter(sha256__in=digests)
    awaited = set(needing.values_list("sha256", flat=True))
    return [name for name in without_image(settled) if digest_in(name) not in awaited]


def is_settled(name: str) -> bool:
    try:
        return default_storage.get_modified_time(name) < timezone.now() - SETTLED
    except Exception:  # of many kinds, by the storage
        if default_storage.exists(name):
            raise
        return False  # deleted meanwhile


def delete_orphan(name: str) -> bool:
    """Unless it has come to be needed meanwhile."""
    with transaction.atomic():
        lock_bytes(digest_in(name))
        is_orphan = bool(orphans_among([name]))
        if is_orphan:
            default_storage.delete(name)
        return is_orphan
