"""Ledger, images and storage: what is damaged is found and mended, and imports go on beside it."""

import hashlib
import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.db import connection, connections, transaction
from django.utils import timezone
from PIL import Image as PillowImage

from ingest import checking
from ingest.checking import Finding, check_images, check_ledger, check_storage
from ingest.claiming import MAX_ATTEMPTS
from ingest.importing import import_claimed, import_queued
from ingest.models import FileState, Image, UploadBatch, UploadedFile
from ingest.picture_notes import without_notes
from ingest.receiving import open_batch, receive_file
from ingest.storing import delete_files_of, delete_unused_original, original_name
from tests.factories import claim_one, dicom_bytes, make_pixels, png_bytes

pytestmark = pytest.mark.django_db

Damage = Callable[[Path], object]
CHECKS = (check_ledger, check_images, check_storage)


def tiff_bytes() -> bytes:
    """A picture of three pages, packed so that it is kept as it is."""
    buffer = BytesIO()
    pages = [PillowImage.fromarray(make_pixels(seed)) for seed in (11, 12, 13)]
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    return without_notes(buffer.getvalue())


@pytest.fixture
def batch() -> UploadBatch:
    return open_batch("ward", "dicom", None)


@pytest.fixture
def images(batch: UploadBatch) -> list[Image]:
    """A DICOM file, three pages of a TIFF and a PNG; beside them a duplicate and a rejected file."""
    for name, content in {
        "a.dcm": dicom_bytes(seed=1),
        "b.tiff": tiff_bytes(),
        "c.png": png_bytes(seed=2),
        "again.png": png_bytes(seed=2),
        "page.html": b"<html></html>",
        "empty.png": b"",
    }.items():
        receive_file(batch, name, content)
    import_queued()
    return list(Image.objects.order_by("pk"))


def found(findings: list[Finding]) -> dict[str, tuple[int, int, list[int]]]:
    """How many, how many repaired, and the numbers of those left, of what was found."""
    return {f.code: (f.count, f.repaired, f.numbers) for f in findings if f.count}


def path_of(name: str | None) -> Path:
    return Path(default_storage.path(str(name)))


def store(name: str, content: bytes = b"left behind", age: timedelta = timedelta(hours=2)) -> Path:
    path = path_of(default_storage.save(name, ContentFile(content)))
    let_age(path, age)
    return path


def let_age(path: Path, age: timedelta = timedelta(hours=2)) -> None:
    moment = time.time() - age.total_seconds()
    os.utime(path, (moment, moment))


def let_all_age(media_root: Path) -> None:
    for path in media_root.rglob("*"):
        let_age(path)


def delete_original_at(name: str) -> None:
    delete_unused_original(name.rsplit("/", 1)[-1])


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def overwrite(path: Path) -> None:
    path.write_bytes(b"x" * path.stat().st_size)


@pytest.mark.parametrize("repair", [False, True])
def test_sound_collection_passes_and_stays_as_it_is(
    images: list[Image], media_root: Path, repair: bool
) -> None:
    let_all_age(media_root)
    before = {path: path.read_bytes() for path in media_root.rglob("*") if path.is_file()}
    assert len(before) == 4 + 5 + 5  # the rejected file's bytes are kept
    assert found(check_ledger(repair)) == {}
    assert found(check_images(repair, deep=True)) == {}
    assert found(check_storage(repair)) == {}
    assert {path: path.read_bytes() for path in media_root.rglob("*") if path.is_file()} == before


def test_empty_collection_passes() -> None:
    assert [found(check()) for check in CHECKS] == [{}, {}, {}]


@pytest.mark.parametrize("kind", ["rendition", "preview"])
@pytest.mark.parametrize(
    ("damage", "deep"),
    [
        pytest.param(Path.unlink, False, id="lost"),
        pytest.param(lambda path: path.write_bytes(b""), False, id="empty"),
        pytest.param(cut_off, True, id="cut off"),
        pytest.param(overwrite, True, id="overwritten"),
    ],
)
def test_picture_is_made_anew_from_its_frame(
    images: list[Image], kind: str, damage: Damage, deep: bool
) -> None:
    image = images[2]
    assert image.frame_number == 2
    path = path_of(getattr(image, kind).name)
    whole = path.read_bytes()
    damage(path)
    assert found(check_images(deep=deep)) == {kind: (1, 0, [image.pk])}
    assert found(check_images(repair=True, deep=deep)) == {kind: (1, 1, [])}
    assert path.read_bytes() == whole
    assert found(check_images(deep=True)) == {}


def test_pictures_are_read_only_when_looked_at_deeply(images: list[Image]) -> None:
    overwrite(path_of(images[0].preview.name))
    overwrite(path_of(images[0].original.name))
    assert found(check_images()) == {}


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b""), cut_off])
def test_lost_original_is_told_by_its_images_until_it_comes_in_again(
    images: list[Image], batch: UploadBatch, damage: Damage
) -> None:
    frames = images[1:4]
    numbers = [image.pk for image in frames]
    damage(path_of(frames[0].original.name))
    path_of(frames[0].preview.name).unlink()
    assert found(check_images(repair=True)) == {
        "original_lost": (3, 0, numbers),
        "preview": (1, 0, numbers[:1]),  # there is nothing to make it of
    }
    receive_file(batch, "b.tiff", tiff_bytes())
    assert found(check_images(repair=True)) == {"preview": (1, 1, [])}
    assert found(check_images(deep=True)) == {}


def test_empty_original_is_lost_whatever_came_in(images: list[Image]) -> None:
    Image.objects.update(uploaded_file=None)
    path_of(images[0].original.name).write_bytes(b"")
    assert found(check_images()) == {"original_lost": (1, 0, [images[0].pk])}


def test_image_that_is_deleted_meanwhile_is_no_problem(images: list[Image]) -> None:
    waiting = [images[0]]

    def delete_after_question(execute: Any, sql: str, *arguments: Any) -> Any:
        answer = execute(sql, *arguments)
        if "rendition" in sql and waiting:
            image = waiting.pop()
            image.delete()
            delete_files_of(image)
        return answer

    with connection.execute_wrapper(delete_after_question):
        assert found(check_images()) == {}
    assert not waiting


def test_damaged_original_is_found_by_its_bytes_and_makes_no_pictures(images: list[Image]) -> None:
    image = images[0]
    overwrite(path_of(image.original.name))
    rendition = path_of(image.rendition.name)
    rendition.unlink()
    assert found(check_images(repair=True, deep=True)) == {
        "original_damaged": (1, 0, [image.pk]),
        "rendition": (1, 0, [image.pk]),
    }
    assert not rendition.exists()


def test_images_are_looked_at_in_chunks(images: list[Image], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "CHUNK", 2)
    for image in images:
        path_of(image.preview.name).unlink()
    told: list[tuple[int, int]] = []
    findings = check_images(on_progress=lambda *done: told.append(done))
    assert found(findings) == {"preview": (5, 0, [image.pk for image in images])}
    assert told == [(2, 5), (4, 5), (5, 5)]


def test_numbers_of_a_finding_are_limited(images: list[Image], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "MOST_NUMBERS", 2)
    for image in images:
        path_of(image.preview.name).unlink()
    UploadedFile.objects.update(state="lost")
    assert found(check_images())["preview"] == (5, 0, [image.pk for image in images[:2]])
    (count, _, numbers) = found(check_ledger())["untrue_state"]
    assert (count, len(numbers)) == (6, 2)


def test_orphans_are_deleted(images: list[Image], media_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "CHUNK", 2)
    let_all_age(media_root)
    digest = images[0].sha256
    orphans = [
        store(f"originals/ab/ab{'0' * 62}"),
        store(f"renditions/ab/ab{'0' * 62}-1.png"),
        store(f"previews/ab/ab{'0' * 62}-1.jpg"),
        store(f"previews/{digest[:2]}/{digest}-9.jpg"),  # a frame that the image's file does not have
        store(f"{images[0].original.name}_Ab3dE6g"),  # the storage's other name for what came second
        store(f"originals/{'c' * 64}"),
    ]
    assert found(check_storage()) == {"orphan": (6, 0, [])}
    assert all(path.exists() for path in orphans)
    assert found(check_storage(repair=True)) == {"orphan": (6, 6, [])}
    assert not any(path.exists() for path in orphans)
    assert found(check_storage()) == found(check_images(deep=True)) == {}


def test_files_that_are_not_ours_are_left_alone(images: list[Image]) -> None:
    strangers = [store("originals/README"), store("previews/ab/.nfs0001"), store("queries/ab/" + "0" * 64)]
    findings = check_storage(repair=True)
    assert found(findings) == {"foreign": (2, 0, [])}
    assert not any(finding.left for finding in findings)
    assert all(path.exists() for path in strangers)


def test_young_file_may_be_on_its_way(images: list[Image]) -> None:
    young = store(f"originals/ab/ab{'0' * 62}", age=timedelta(minutes=50))
    assert found(check_storage(repair=True)) == {}
    assert young.exists()


@pytest.mark.parametrize("claimed", [False, True])
def test_what_a_file_still_to_be_read_needs_is_kept(
    batch: UploadBatch, media_root: Path, claimed: bool
) -> None:
    row = receive_file(batch, "a.png", png_bytes())
    rendition = store(f"renditions/{row.sha256[:2]}/{row.sha256}-1.png")
    let_all_age(media_root)
    if claimed:
        claim_one()
    assert found(check_storage(repair=True)) == {}
    assert path_of(original_name(row.sha256)).exists()
    assert rendition.exists()
    UploadedFile.objects.update(state=FileState.REJECTED)
    assert found(check_storage(repair=True)) == {"orphan": (2, 2, [])}


@pytest.mark.django_db(transaction=True)
def test_orphan_that_is_coming_in_again_is_kept() -> None:
    """Its receiver has found the old file there, and has not committed its row yet."""
    batch, content = open_batch("ward", "dicom", None), png_bytes()
    path = store(original_name(hashlib.sha256(content).hexdigest()), content)
    assert found(check_storage()) == {"orphan": (1, 0, [])}
    received = threading.Event()

    def receive() -> None:
        with transaction.atomic():
            receive_file(batch, "a.png", content)
            received.set()
            time.sleep(0.3)
        connections.close_all()

    receiver = threading.Thread(target=receive)
    receiver.start()
    assert received.wait(10)
    assert found(check_storage(repair=True)) == {}
    receiver.join()
    assert path.exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("questions", [1, 2])
@pytest.mark.parametrize("delete", [checking.delete_orphan, delete_original_at])
def test_file_is_kept_that_an_import_comes_to_need_between_two_questions(
    delete: Callable[[str], object], questions: int
) -> None:
    batch = open_batch("ward", "dicom", None)
    row = receive_file(batch, "a.png", png_bytes())
    name = original_name(row.sha256)
    let_age(path_of(name))
    claimed = claim_one()
    asked, readers = 0, list[threading.Thread]()

    assert claimed

    def finish_import() -> None:
        import_claimed([claimed])
        connections.close_all()

    def import_between(execute: Any, sql: str, *arguments: Any) -> Any:
        nonlocal asked
        answer = execute(sql, *arguments)
        asked += "ingest_" in sql
        if "ingest_" in sql and asked == questions:
            readers.append(threading.Thread(target=finish_import))
            readers[0].start()
            readers[0].join(
                timeout=1
            )  # it may have to wait until the file is deleted, and then stores it again
        return answer

    with connection.execute_wrapper(import_between):
        delete(name)
    if not readers:  # it asked no second question
        import_claimed([claimed])
    for reader in readers:
        reader.join()
    assert Image.objects.count() == 1
    assert path_of(name).exists()


def test_collection_that_is_being_imported_passes(batch: UploadBatch, media_root: Path) -> None:
    receive_file(batch, "a.dcm", dicom_bytes(seed=1))
    receive_file(batch, "b.png", png_bytes(seed=2))
    claim_one()
    let_all_age(media_root)
    assert [found(check(repair=True)) for check in CHECKS] == [{}, {}, {}]
    assert sorted(batch.files.values_list("state", flat=True)) == ["queued", "reading"]


@pytest.mark.parametrize("claimed_at", [None, timezone.now() - timedelta(hours=1)])
def test_file_whose_reader_died_is_queued_again(
    batch: UploadBatch,
    claimed_at: Any,
    rung: Callable[[], set[str]],
    django_capture_on_commit_callbacks: Any,
) -> None:
    row = receive_file(batch, "a.png", png_bytes())
    claim_one()
    UploadedFile.objects.update(claimed_at=claimed_at)
    assert found(check_ledger()) == {"stuck": (1, 0, [row.pk])}
    row.refresh_from_db()
    assert row.state == FileState.READING
    with django_capture_on_commit_callbacks(execute=True):
        assert found(check_ledger(repair=True)) == {"stuck": (1, 1, [])}
    assert rung() == {"ingest.import_queued_files"}
    assert found(check_ledger()) == {}
    assert import_queued() == 1
    assert Image.objects.count() == 1


def test_file_that_stopped_its_readers_is_given_up(batch: UploadBatch) -> None:
    row = receive_file(batch, "a.png", png_bytes())
    claim_one()
    UploadedFile.objects.update(claimed_at=None, attempts=MAX_ATTEMPTS)
    assert found(check_ledger(repair=True)) == {"stuck": (1, 1, [])}
    row.refresh_from_db()
    assert (row.state, row.reason_code) == (FileState.REJECTED, "crashed_reader")
    assert found(check_ledger()) == {}


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("a.dcm", {"state": "lost"}),
        ("a.dcm", {"state": FileState.QUEUED}),  # it has an image
        ("a.dcm", {"finished_at": None}),
        ("page.html", {"reason_code": ""}),
    ],
)
def test_state_that_is_not_true_is_found(
    images: list[Image], batch: UploadBatch, path: str, values: dict[str, Any]
) -> None:
    row = batch.files.get(path=path)
    UploadedFile.objects.filter(pk=row.pk).update(**values)
    assert found(check_ledger(repair=True)) == {"untrue_state": (1, 0, [row.pk])}


def test_file_whose_images_were_deleted_is_no_problem(images: list[Image], batch: UploadBatch) -> None:
    images[0].delete()
    findings = check_ledger()
    assert found(findings) == {"images_deleted": (1, 0, [batch.files.get(path="a.dcm").pk])}
    assert not any(finding.left for finding in findings)
