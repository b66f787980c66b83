"""What a batch's page is made of: pace, causes, cancelling, trying again, the report."""

import csv
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import default_storage
from django.utils import timezone

from ingest.importing import import_claimed, import_queued
from ingest.ledger import cancel, causes_of, pace_of, retry
from ingest.models import FileState, Image, UploadBatch, UploadedFile
from ingest.receiving import open_batch, receive_file
from ingest.reports import report_lines
from ingest.storing import original_name
from ingest.tasks import forget_rejected_files
from tests.factories import claim_one, dicom_bytes, png_bytes

pytestmark = pytest.mark.django_db


@pytest.fixture
def batch() -> UploadBatch:
    return open_batch("ward", "dicom", None)


def states(batch: UploadBatch) -> dict[str, str]:
    return dict(batch.files.values_list("path", "state"))


def rejected_batch(batch: UploadBatch) -> UploadBatch:
    for name, content in {"a.txt": b"a", "b.txt": b"b", "c.dcm": dicom_bytes()[:900], "d.png": b""}.items():
        receive_file(batch, name, content)
    import_queued()
    return batch


def is_stored(row: UploadedFile) -> bool:
    return default_storage.exists(original_name(row.sha256))


def test_causes_are_counted(batch: UploadBatch) -> None:
    found = [(cause.code, cause.files, cause.retryable) for cause in causes_of(rejected_batch(batch))]
    assert found == [("not_an_image", 2, 2), ("damaged", 1, 1), ("empty_file", 1, 0)]
    assert causes_of(batch)[2].sentence == "The file is empty."


def test_cancelling_leaves_what_is_done_and_what_is_being_read(batch: UploadBatch) -> None:
    for seed in range(4):
        receive_file(batch, f"{seed}.png", png_bytes(seed=seed))
    first, second = claim_one(batch), claim_one(batch)
    assert first
    assert second
    import_claimed([first])
    assert cancel(batch) == 2
    import_claimed([second])
    assert list(states(batch).values()) == ["imported", "imported", "rejected", "rejected"]
    assert import_queued() == 0
    assert retry(batch, "cancelled") == 2
    import_queued()
    assert set(states(batch).values()) == {"imported"}
    assert Image.objects.count() == 4


def test_trying_again_all_one_cause_or_one_file(batch: UploadBatch) -> None:
    rejected_batch(batch)
    one = batch.files.get(path="b.txt")
    other = rejected_batch(open_batch("other", "dicom", None))
    assert retry(batch, file=other.files.first().pk) == 0  # type: ignore[union-attr]
    assert retry(batch, file=one.pk) == 1
    assert [path for path, state in states(batch).items() if state == "queued"] == ["b.txt"]
    assert retry(batch, "damaged") == 1
    assert retry(batch) == 1
    assert states(batch)["d.png"] == "rejected"  # its bytes were never taken in
    import_queued()
    assert set(states(batch).values()) == {"rejected"}
    assert set(states(other).values()) == {"rejected"}


def test_what_was_mended_comes_in_when_it_is_tried_again(batch: UploadBatch, monkeypatch: Any) -> None:
    """As after an update that brings a decoder."""
    receive_file(batch, "a.png", png_bytes())
    with monkeypatch.context() as patch:
        patch.setattr("ingest.reading.format_of", lambda content: None)
        import_queued()
    assert states(batch) == {"a.png": "rejected"}
    assert retry(batch) == 1
    import_queued()
    row = batch.files.get()
    assert (row.state, row.reason, row.reason_code, row.is_retryable) == ("imported", "", "", False)


def test_lost_bytes_are_not_tried_again(batch: UploadBatch) -> None:
    row = receive_file(batch, "a.png", png_bytes())
    default_storage.delete(original_name(row.sha256))
    import_queued()
    assert states(batch) == {"a.png": "rejected"}
    assert retry(batch) == 0


def test_rejected_bytes_are_kept_a_while(
    batch: UploadBatch, settings: Any, django_capture_on_commit_callbacks: Any
) -> None:
    same = [receive_file(batch, name, b"no image") for name in ("a.txt", "b.txt")]
    import_queued()
    settings.REJECTED_DAYS = 7
    days_ago = [timezone.now() - timedelta(days=days) for days in (8, 6)]
    for row, finished_at in zip(same, days_ago, strict=True):
        UploadedFile.objects.filter(pk=row.pk).update(finished_at=finished_at)
    with django_capture_on_commit_callbacks(execute=True):
        forget_rejected_files()
    assert is_stored(same[0])  # the other may still be tried again
    UploadedFile.objects.filter(pk=same[1].pk).update(finished_at=days_ago[0])
    with django_capture_on_commit_callbacks(execute=True):
        forget_rejected_files()
    assert not is_stored(same[0])
    assert retry(batch) == 0
    assert batch.files.filter(state=FileState.REJECTED).count() == 2


def test_a_deleted_batch_takes_the_bytes_of_its_rejected_files_with_it(
    batch: UploadBatch, media_root: Path, django_capture_on_commit_callbacks: Any
) -> None:
    rejected_batch(batch)
    receive_file(batch, "in.png", png_bytes())
    import_queued()
    with django_capture_on_commit_callbacks(execute=True):
        batch.delete()
    assert [path.name for path in (media_root / "originals").rglob("*") if path.is_file()] == [
        Image.objects.get().sha256
    ]


def test_pace(batch: UploadBatch) -> None:
    UploadBatch.objects.filter(pk=batch.pk).update(created_at=timezone.now() - timedelta(hours=1))
    batch.refresh_from_db()
    assert (pace_of(batch, 5).files_per_second, pace_of(batch, 5).time_left) == (0, "")
    now = timezone.now()
    ages = [1] * 30 + [90] * 10
    UploadedFile.objects.bulk_create(
        UploadedFile(batch=batch, path=f"{n}", state="imported", finished_at=now - timedelta(seconds=age))
        for n, age in enumerate(ages)
    )
    assert pace_of(batch, 1).files_per_second == 0.5
    told = {left: pace_of(batch, left).time_left for left in (10, 100, 10_000)}
    assert told == {10: "less than a minute left", 100: "about 4 minutes left", 10_000: "about 5 hours left"}


def test_report_has_a_line_for_every_file(batch: UploadBatch) -> None:
    receive_file(batch, "=SUM(A1).txt", b"x")
    receive_file(batch, 'with "quotes", and a comma.png', png_bytes())
    receive_file(batch, "again.png", png_bytes())
    import_queued()
    rows = list(csv.DictReader(StringIO("".join(report_lines(batch)))))
    assert [row["path"] for row in rows] == [
        "'=SUM(A1).txt",
        'with "quotes", and a comma.png',
        "again.png",
    ]
    assert [row["state"] for row in rows] == ["rejected", "imported", "duplicate"]
    assert rows[2]["duplicate_of_image"] == str(Image.objects.get().pk)
    assert rows[0]["reason_code"] == "not_an_image"
    assert all(row["finished_at"] for row in rows)
