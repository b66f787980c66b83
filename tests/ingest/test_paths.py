"""Where a file lay is told without the words by which it names the patient, whatever became of it."""

import pytest
from django.db.models import QuerySet

from ingest.deidentifying import identifiers_in
from ingest.importing import import_queued
from ingest.ledger import retry
from ingest.models import Dataset, UploadedFile
from ingest.receiving import open_batch, receive_file
from ingest.slices import EVERY_NTH
from tests.factories import png_bytes
from tests.ingest.test_deidentifying import identified

pytestmark = pytest.mark.django_db

PATH, MASKED = "Meier_Annabel/PID-4711/{}.dcm", "–_–/–/{}.dcm"


def without_pixels() -> bytes:
    """As a report is, or a plan."""
    content = identified()
    return content[: content.index(b"\xe0\x7f\x10\x00")]


def sent(*contents: bytes, **options: bool) -> QuerySet[UploadedFile]:
    """Rows of files that came in and were read."""
    batch = open_batch("ward", "dicom", None, **options)
    for number, content in enumerate(contents):
        receive_file(batch, PATH.format(number), content)
    import_queued()
    return batch.files.order_by("pk")


def told(rows: QuerySet[UploadedFile]) -> list[tuple[str, str]]:
    return list(rows.values_list("state", "path"))


def test_rejected_files() -> None:
    cut_off = identified()[:3000]
    rows = sent(without_pixels(), cut_off, identified(BitsAllocated=7, PixelData=b"1234"))
    assert told(rows) == [("rejected", MASKED.format(number)) for number in range(3)]


def test_rejected_files_of_an_earlier_version_that_are_tried_again() -> None:
    rows = sent(without_pixels())
    rows.update(path=PATH.format(0))
    assert retry(rows.get().batch) == 1
    import_queued()
    assert told(rows) == [("rejected", MASKED.format(0))]


def test_left_out_slices() -> None:
    Dataset.objects.create(name="ward", slice_choice=EVERY_NTH, slice_step=10)
    in_space = {"ImagePositionPatient": [0, 0, 0], "InstanceNumber": 2}
    rows = sent(identified(**in_space))
    assert told(rows) == [("left_out", MASKED.format(0))]
    assert retry(rows.get().batch, "not_nth_slice") == 1
    Dataset.objects.update(slice_choice="all")
    import_queued()
    assert told(rows) == [("imported", MASKED.format(0))]


def test_held_back_files() -> None:
    assert told(sent(identified(Modality="US"))) == [("quarantined", MASKED.format(0))]


def test_duplicates_and_what_is_tried_out() -> None:
    content = identified()
    rows = sent(content, content, without_pixels(), is_dry_run=True)
    states = ["checked", "duplicate", "rejected"]
    assert told(rows) == [(state, MASKED.format(number)) for number, state in enumerate(states)]
    assert "Meier" not in "".join(rows.values_list("reason", flat=True))
    assert told(sent(content, content))[1] == ("duplicate", MASKED.format(1))
    rows = sent(content, is_dry_run=True)
    assert told(rows) == [("duplicate", MASKED.format(0))]


def test_what_the_file_does_not_tell_stays() -> None:
    """A picture has no patient, and a file of another patient another name."""
    rows = sent(png_bytes(), b"Meier", identified(PatientName="Schulz^Eva", PatientID="", OtherPatientIDs=""))
    assert [path for _, path in told(rows)] == [PATH.format(number) for number in range(3)]


def test_data_sets_that_keep_identifiers_keep_paths() -> None:
    Dataset.objects.create(name="ward", keeps_identifiers=True)
    assert told(sent(without_pixels())) == [("rejected", PATH.format(0))]


def test_whatever_is_cut_off_is_no_trouble() -> None:
    content = identified()
    name_ends = content.index(b"PID-4711-B") + 20
    for size in range(name_ends, len(content), 97):
        assert {"Meier", "Annabel", "PID-4711"} <= {*identifiers_in(content[:size])}
    for size in range(0, name_ends, 31):
        identifiers_in(content[:size])
