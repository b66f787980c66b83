"""Files in, images out: exact counts, duplicates, killed readers, and nothing that names a patient."""

import threading
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import default_storage
from django.db import connection, connections, transaction
from django.utils import timezone

from ingest import importing
from ingest.claiming import CLAIM_BYTES, CLAIM_TIMEOUT, MAX_ATTEMPTS, claim_files, release_stuck_files
from ingest.importing import Known, import_claimed, import_file, import_queued
from ingest.labels import Claims
from ingest.models import FileState, Image, OrganClass, OrganName, UploadBatch, UploadedFile
from ingest.naming import decide
from ingest.pseudonyms import keyed_hash
from ingest.receiving import open_batch, receive_file
from ingest.signals import images_imported
from ingest.storing import original_name
from ingest.tasks import import_queued_files
from tests.factories import claim_one, dicom_bytes, png_bytes

pytestmark = pytest.mark.django_db


@pytest.fixture
def batch() -> UploadBatch:
    return open_batch("ward", "dicom", None, makes_organs=True)


def stored_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_good_and_bad_files_in_one_batch(batch: UploadBatch, django_capture_on_commit_callbacks: Any) -> None:
    receive_file(batch, "a.dcm", dicom_bytes(seed=1))
    receive_file(
        batch, "b.png", png_bytes(seed=2), Claims(organ_name="Chest", modality_code="dx", split="test")
    )
    receive_file(batch, "a again.dcm", dicom_bytes(seed=1))
    receive_file(batch, "page.html", b"<html></html>")
    receive_file(batch, "nothing.dcm", b"")
    receive_file(batch, "cut off.dcm", dicom_bytes(seed=3)[:900])
    with django_capture_on_commit_callbacks(execute=True):
        assert import_queued() == 5
    states = dict(batch.files.values_list("path", "state"))
    assert states == {
        "a.dcm": "imported",
        "b.png": "imported",
        "a again.dcm": "duplicate",
        "page.html": "rejected",
        "nothing.dcm": "rejected",
        "cut off.dcm": "rejected",
    }
    assert batch.is_finished
    assert Image.objects.count() == 2
    assert all(row.reason and row.reason_code for row in batch.files.filter(state=FileState.REJECTED))


def test_labels_come_from_claims_and_tags(batch: UploadBatch) -> None:
    receive_file(batch, "a.dcm", dicom_bytes(seed=1))
    receive_file(batch, "b.png", png_bytes(seed=2), Claims("Left Kidney", "us", "volume 7", "test"))
    import_queued()
    first, second = Image.objects.select_related("organ")
    assert (str(first.organ), first.modality_id, first.body_part_examined) == ("brain", "CT", "HEAD")
    assert (str(second.organ), second.modality_id, second.split) == ("left-kidney", "US", "test")
    assert second.group_key == keyed_hash("volume 7")
    assert first.group_key == first.patient_key == keyed_hash("PID-4711")


def test_bytes_are_stored_once(batch: UploadBatch, media_root: Path) -> None:
    for name in ("a.png", "b.png"):
        receive_file(batch, name, png_bytes())
    assert len(stored_files(media_root / "originals")) == 1
    import_queued()
    image = Image.objects.get()
    assert image.original.name == f"originals/{image.sha256[:2]}/{image.sha256}"
    assert {path.parts[-3] for path in stored_files(media_root)} == {"originals", "renditions", "previews"}
    assert len(stored_files(media_root)) == 3


def test_original_cut_off_by_a_crash_is_stored_again(batch: UploadBatch) -> None:
    row = receive_file(batch, "a.png", png_bytes())
    path = Path(default_storage.path(f"originals/{row.sha256[:2]}/{row.sha256}"))
    path.write_bytes(b"half")
    receive_file(batch, "b.png", png_bytes())
    assert path.read_bytes() == png_bytes()


def test_duplicate_names_the_image_and_fills_its_label(batch: UploadBatch) -> None:
    receive_file(batch, "a.png", png_bytes())
    import_queued()
    image = Image.objects.get()
    assert image.organ is None
    row = receive_file(batch, "b.png", png_bytes(), Claims(organ_name="heart", modality_code="MR"))
    import_queued()
    row.refresh_from_db()
    assert row.reason == f"The same bytes are already in the collection as image {image.pk}."
    assert row.duplicate_of == image
    image.refresh_from_db()
    assert (str(image.organ), str(image.modality)) == ("heart", "MR")
    receive_file(batch, "c.png", png_bytes(), Claims(organ_name="liver"))
    import_queued()
    image.refresh_from_db()
    assert str(image.organ) == "heart"


def test_deleted_image_takes_its_files_with_it(
    batch: UploadBatch, media_root: Path, django_capture_on_commit_callbacks: Any
) -> None:
    receive_file(batch, "a.png", png_bytes())
    import_queued()
    with django_capture_on_commit_callbacks(execute=True):
        Image.objects.get().delete()
    assert stored_files(media_root) == []


def test_too_large_file_is_rejected_unread(batch: UploadBatch, media_root: Path, settings: Any) -> None:
    settings.MAX_UPLOAD_BYTES = 100
    row = receive_file(batch, "big.png", png_bytes())
    assert (row.state, row.reason_code) == (FileState.REJECTED, "too_large")
    assert stored_files(media_root) == []


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("../../etc/passwd", "etc/passwd"),
        ("/srv/x/a.dcm", "srv/x/a.dcm"),
        ("C:\\scans\\..\\a.dcm", "scans/a.dcm"),
        ("a\x00b.dcm", "ab.dcm"),
        ("\udcff.dcm", "?.dcm"),
        ("..", "unnamed"),
    ],
)
def test_path_is_cleaned(batch: UploadBatch, given: str, stored: str) -> None:
    row = receive_file(batch, given, png_bytes())
    row.refresh_from_db()
    assert row.path == stored


def test_killed_reader_is_taken_up_again(batch: UploadBatch) -> None:
    receive_file(batch, "a.png", png_bytes())
    assert claim_one()
    assert claim_one() is None
    assert import_queued() == 0, "a fresh claim is left to its reader"
    UploadedFile.objects.update(claimed_at=timezone.now() - CLAIM_TIMEOUT - timedelta(seconds=1))
    assert import_queued() == 1
    row = batch.files.get()
    assert (row.state, row.attempts) == (FileState.IMPORTED, 2)


def test_file_that_kills_its_readers_is_given_up(batch: UploadBatch) -> None:
    receive_file(batch, "a.png", png_bytes())
    claim_one()
    UploadedFile.objects.update(claimed_at=timezone.now() - timedelta(hours=1), attempts=MAX_ATTEMPTS)
    assert import_queued() == 0
    row = batch.files.get()
    assert (row.state, row.reason_code) == (FileState.REJECTED, "crashed_reader")


def test_a_disk_that_fails_costs_no_file_an_attempt(batch: UploadBatch, media_root: Path) -> None:
    receive_file(batch, "a.dcm", dicom_bytes(seed=1))
    (media_root / "renditions").write_text("a file where a folder has to be")
    for _ in range(MAX_ATTEMPTS + 1):
        with pytest.raises(OSError, match="renditions"):
            import_queued()
    row = batch.files.get()
    assert (row.state, row.attempts) == (FileState.QUEUED, 0)

    (media_root / "renditions").unlink()
    import_queued()
    row.refresh_from_db()
    assert row.state == FileState.IMPORTED


def test_small_files_are_claimed_together_and_large_ones_alone(batch: UploadBatch) -> None:
    rows = [receive_file(batch, f"{n}.png", png_bytes(seed=n)) for n in range(5)]
    batch.files.filter(pk=rows[2].pk).update(size_bytes=CLAIM_BYTES)
    claims = [[row.pk for row in claim_files()] for _ in range(3)]
    assert claims == [[rows[0].pk, rows[1].pk], [rows[2].pk], [rows[3].pk, rows[4].pk]]
    assert [row.pk for row in claim_files()] == []


def test_file_that_kills_its_reader_is_not_taken_with_others_again(batch: UploadBatch) -> None:
    rows = [receive_file(batch, f"{n}.png", png_bytes(seed=n)) for n in range(3)]
    assert len(claim_files()) == 3
    UploadedFile.objects.update(claimed_at=timezone.now() - timedelta(hours=1))
    release_stuck_files()
    assert [[row.pk for row in claim_files()] for _ in range(4)] == [[row.pk] for row in rows] + [[]]
    assert set(batch.files.values_list("attempts", flat=True)) == {2}


def test_what_came_in_is_deleted_though_the_worker_was_killed_before(
    batch: UploadBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [receive_file(batch, f"{n}.dcm", dicom_bytes(seed=n)) for n in range(2)]
    with monkeypatch.context() as killed:
        killed.setattr("ingest.importing.tidy", lambda rows: None)
        import_queued()
    came_in = [original_name(row.sha256) for row in rows]
    assert all(map(default_storage.exists, came_in))
    release_stuck_files()
    assert all(map(default_storage.exists, came_in)), "a fresh claim is left to its worker"
    UploadedFile.objects.update(claimed_at=timezone.now() - timedelta(hours=1))
    release_stuck_files()
    assert not any(map(default_storage.exists, came_in))
    assert not UploadedFile.objects.filter(claimed_at__isnull=False).exists()
    assert all(default_storage.exists(str(image.original.name)) for image in Image.objects.all())


def test_trouble_with_one_file_frees_those_claimed_with_it(batch: UploadBatch, media_root: Path) -> None:
    for n in range(3):
        receive_file(batch, f"{n}.png", png_bytes(seed=n))
    (media_root / "renditions").write_text("a file where a folder has to be")
    with pytest.raises(OSError, match="renditions"):
        import_queued()
    assert set(batch.files.values_list("state", "attempts")) == {("queued", 0)}


def test_name_decided_on_between_two_files_labels_the_second(batch: UploadBatch) -> None:
    batch = open_batch("other ward", "folder", None)
    for n in range(2):
        receive_file(batch, f"{n}.png", png_bytes(seed=n), Claims(organ_name="Herz"))
    rows = claim_files()
    known = Known.of(rows)
    import_file(rows[0], known)
    decide(OrganName.objects.get(name="herz"), OrganClass.objects.create(name="heart"), None)
    import_file(rows[1], known)
    assert set(Image.objects.values_list("organ__name", flat=True)) == {"heart"}


@pytest.mark.django_db(transaction=True)
def test_class_that_goes_between_two_files_costs_none_of_them() -> None:
    batch = open_batch("ward", "folder", None, makes_organs=True)
    for n in range(2):
        receive_file(batch, f"{n}.png", png_bytes(seed=n), Claims(organ_name="heart"))
    rows = claim_files()
    known = Known.of(rows)
    import_file(rows[0], known)
    Image.objects.update(organ=None)
    OrganClass.objects.all().delete()
    import_file(rows[1], known)
    assert set(batch.files.values_list("state", "attempts")) == {("imported", 1), ("queued", 1)}
    import_queued()
    assert set(batch.files.values_list("state", flat=True)) == {"imported"}


def test_late_reader_leaves_a_row_that_was_taken_over(batch: UploadBatch) -> None:
    receive_file(batch, "a.png", png_bytes())
    slow = claim_one()
    UploadedFile.objects.update(claimed_at=timezone.now() - timedelta(hours=1))
    import_queued()
    assert slow
    import_claimed([slow])
    assert Image.objects.count() == 1


def test_unforeseen_error_is_recorded_without_detail(
    batch: UploadBatch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name = "Mei" + "er"  # the log shows lines of source too

    def fail(*_: object, **__: object) -> None:
        raise ValueError(name)

    receive_file(batch, f"{name}.png", png_bytes())
    monkeypatch.setattr(importing, "read_image", fail)
    import_queued()
    row = batch.files.get()
    assert (row.state, row.reason_code) == (FileState.REJECTED, "internal_error")
    assert name not in row.reason + caplog.text
    assert "ValueError" in caplog.text


def test_images_are_announced_as_they_come(
    batch: UploadBatch, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    monkeypatch.setattr(importing, "claim_files", partial(claim_files, most=2))
    announced: list[list[int]] = []

    def hear(image_ids: list[int], **_: Any) -> None:
        announced.append(image_ids)

    for seed in range(5):
        receive_file(batch, f"{seed}.png", png_bytes(seed=seed))
    images_imported.connect(hear)
    try:
        with django_capture_on_commit_callbacks(execute=True):
            import_queued_files()
    finally:
        images_imported.disconnect(hear)
    assert [len(ids) for ids in announced] == [2, 2, 1]
    assert sorted(pk for ids in announced for pk in ids) == sorted(Image.objects.values_list("pk", flat=True))


def test_nothing_that_names_the_patient_is_in_the_database(batch: UploadBatch) -> None:
    receive_file(batch, "a.dcm", dicom_bytes(), Claims(group="PID-4711"))
    import_queued()
    assert Image.objects.count() == 1
    secrets = ("Meier", "Anna", "PID-4711", "19610203", "1961-02-03")
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT string_agg(t::text, ' ') FROM \"{table}\" t")
            text = cursor.fetchone()[0] or ""
            assert not [secret for secret in secrets if secret in text], table


@pytest.mark.django_db(transaction=True)
def test_many_workers_import_each_file_once() -> None:
    batch = open_batch("ward", "folder", None, makes_organs=True)
    for copy in range(2):
        for seed in range(8):
            receive_file(
                batch, f"{copy}/{seed}.png", png_bytes(seed=seed), Claims(organ_name=f"organ {seed % 3}")
            )

    def work() -> None:
        import_queued()
        connections.close_all()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = {state: batch.files.filter(state=state).count() for state in FileState.values}
    assert {state: count for state, count in counts.items() if count} == {"imported": 8, "duplicate": 8}
    assert Image.objects.count() == 8
    assert OrganClass.objects.count() == 3
    assert set(batch.files.values_list("attempts", flat=True)) == {1}


@pytest.mark.django_db(transaction=True)
def test_slow_reader_keeps_its_file() -> None:
    receive_file(open_batch("ward", "folder", None), "a.png", png_bytes())
    row = claim_one()
    assert row
    UploadedFile.objects.update(claimed_at=timezone.now() - timedelta(hours=1))

    def release() -> None:
        release_stuck_files()
        connections.close_all()

    with transaction.atomic():
        UploadedFile.objects.select_for_update().get()
        other = threading.Thread(target=release)
        other.start()
        other.join()
    row.refresh_from_db()
    assert row.state == FileState.READING
