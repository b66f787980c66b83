"""What was stored before files were de-identified is found, and becomes what it would be today."""

import hashlib
import json
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.core.management import CommandError, call_command

from ingest.catching_up import check_originals, deidentify_original, originals_as_they_came
from ingest.checking import check_images, check_ledger, check_storage
from ingest.importing import import_queued
from ingest.models import Dataset, Decision, Image, QuarantinedFile, UploadBatch
from ingest.quarantine import decide
from ingest.reading import read_image
from ingest.receiving import open_batch, receive_file
from search.models import Query, QueryStatus
from tests.factories import dicom_bytes, make_pixels, png_bytes
from tests.ingest.test_deidentifying import everything_stored, identified, words_left
from tests.ingest.test_picture_notes import SECRET, noted_jpeg, noted_tiff

pytestmark = pytest.mark.django_db


@pytest.fixture
def batch() -> UploadBatch:
    """Imported as before there was de-identification: DICOM files, a picture with notes and one without."""
    batch = open_batch("ward", "dicom", None, keeps_identifiers=True)
    for name, content in {
        "Meier/1.dcm": identified(1),
        "Meier/2.dcm": identified(2),
        "a.tif": noted_tiff("L", "L"),
        "b.png": png_bytes(),
        "again/Meier.dcm": identified(1),
    }.items():
        receive_file(batch, name, content)
    import_queued()
    Dataset.objects.update(keeps_identifiers=False)
    return batch


def run(*options: str) -> str:
    out = StringIO()
    call_command("deidentify_originals", *options, stdout=out)
    return out.getvalue()


def row_of(table: str, kind: str) -> list[str]:
    (line,) = (line for line in table.splitlines() if kind in line)
    return [cell.strip() for cell in line.strip("│ ").split("│")][1:]


def stored_query(content: bytes, **fields: Any) -> Query:
    digest = hashlib.sha256(content).hexdigest()
    name = f"queries/{digest[:2]}/{digest}"
    if not default_storage.exists(name):
        default_storage.save(name, ContentFile(content))
    return Query.objects.create(upload=name, sha256=digest, status=QueryStatus.ANSWERED, **fields)


def test_originals_become_what_they_would_be_today(batch: UploadBatch, media_root: Path) -> None:
    before = {image.pk: image for image in Image.objects.all()}
    keys = Image.objects.order_by("pk").values_list("sha256", "group_key", "study_key", "pixel_hash")
    keys_before = list(keys)
    assert words_left(everything_stored(media_root))
    assert row_of(run(), "originals") == ["3", "1", "0"]
    assert words_left(everything_stored(media_root)) == []
    assert SECRET not in everything_stored(media_root)
    assert list(keys) == keys_before
    for image in Image.objects.filter(file_format="DICOM"):
        assert image.deidentification == "113100 113107 113108"
        assert "ConvolutionKernel" not in image.tags  # it named her
        assert "ConvolutionKernel" in before[image.pk].tags
    assert {*batch.files.values_list("path", flat=True)} == {
        *("–/1.dcm", "–/2.dcm", "again/–.dcm", "a.tif", "b.png")
    }
    findings = [*check_ledger(), *check_images(deep=True), *check_storage(), *check_originals()]
    assert [finding.code for finding in findings if finding.left] == []


def test_what_comes_in_again_is_known_and_kept_once(batch: UploadBatch, media_root: Path) -> None:
    run()
    again = open_batch("ward", "dicom", None)
    receive_file(again, "1.dcm", identified(1))
    receive_file(again, "a.tif", noted_tiff("L", "L"))
    import_queued()
    assert {*again.files.values_list("state", flat=True)} == {"duplicate"}
    assert words_left(everything_stored(media_root)) == []


def test_running_again_changes_nothing(batch: UploadBatch, media_root: Path) -> None:
    run()
    before = everything_stored(media_root)
    assert row_of(run(), "originals") == ["0", "1", "0"]
    assert everything_stored(media_root) == before


def test_stopped_it_goes_on_where_it_was(batch: UploadBatch) -> None:
    names = originals_as_they_came()
    deidentify_original(next(names))
    assert [finding.count for finding in check_originals()] == [1]
    assert row_of(run(), "originals") == ["2", "1", "0"]


def test_checking_changes_nothing_and_tells_how_many(batch: UploadBatch, media_root: Path) -> None:
    stored_query(identified(5))
    before = everything_stored(media_root)
    out = StringIO()
    with pytest.raises(CommandError, match="There are files"):
        call_command("deidentify_originals", "--check", stdout=out)
    assert row_of(out.getvalue(), "originals") == ["3", "1", "0"]
    assert row_of(out.getvalue(), "query files") == ["1", "0", "0"]
    assert everything_stored(media_root) == before
    run()
    assert row_of(run("--check"), "query files") == ["0", "0", "0"]


def test_data_sets_that_keep_identifiers_are_left_alone(batch: UploadBatch, media_root: Path) -> None:
    Dataset.objects.update(keeps_identifiers=True)
    before = everything_stored(media_root)
    assert row_of(run(), "originals") == ["0", "0", "0"]
    assert everything_stored(media_root) == before
    assert [finding.count for finding in check_originals()] == [0]


def test_an_original_that_a_keeping_data_set_needs_too_stays_for_it(batch: UploadBatch) -> None:
    keeping = Dataset.objects.create(name="keeping", keeps_identifiers=True)
    first, second = Image.objects.filter(file_format="TIFF").order_by("pk")
    Image.objects.filter(pk=second.pk).update(dataset=keeping)
    run()
    for image, is_noted in ((first, False), (second, True)):
        image.refresh_from_db()
        with image.original.open() as file:
            assert (SECRET in file.read()) == is_noted


def test_a_masked_file_stays_masked(media_root: Path) -> None:
    batch = open_batch("ward", "dicom", None, keeps_identifiers=True)
    receive_file(batch, "1.dcm", identified(Modality="US"))
    import_queued()
    held = QuarantinedFile.objects.get()
    decide(Decision.MASK, {held.pk: [(0.0, 0.0, 0.5, 0.5)]}, None)
    import_queued()
    Dataset.objects.update(keeps_identifiers=False)
    assert words_left(everything_stored(media_root))
    run()
    image = Image.objects.get()
    assert image.deidentification == "113100 113107 113108 113101"
    with image.original.open() as file:
        pixels = read_image(file.read()).frames[0].pixels
    assert not pixels[:32, :32].any()
    assert np.array_equal(pixels[32:], read_image(dicom_bytes(make_pixels())).frames[0].pixels[32:])
    assert words_left(everything_stored(media_root)) == []


def test_a_lost_original_is_told_and_the_others_are_done(batch: UploadBatch) -> None:
    lost = Image.objects.order_by("pk")[0]
    default_storage.delete(str(lost.original.name))
    out = StringIO()
    with pytest.raises(CommandError, match="Lost, or not to be read: 1"):
        call_command("deidentify_originals", stdout=out)
    assert row_of(out.getvalue(), "originals") == ["2", "1", "1"]
    assert [finding.numbers for finding in check_originals()] == [[lost.pk]]


def test_check_collection_tells_what_was_not_de_identified(batch: UploadBatch) -> None:
    out = StringIO()
    with pytest.raises(CommandError, match="problem"):
        call_command("check_collection", "--json", stdout=out)
    found = {finding["code"]: finding["count"] for finding in json.loads(out.getvalue())["findings"]}
    assert found["not_deidentified"] == 2


def test_query_files_become_what_they_would_be_today(media_root: Path) -> None:
    dicom, again = stored_query(identified()), stored_query(identified())
    noted, clean, letter = (stored_query(content) for content in (noted_jpeg(), png_bytes(), b"Meier"))
    waiting = stored_query(identified(7))
    Query.objects.filter(pk=waiting.pk).update(status=QueryStatus.WAITING)
    assert row_of(run(), "query files") == ["3", "1", "0"]
    for query in (dicom, again, noted, clean, letter):
        query.refresh_from_db()
    assert dicom.upload.name == again.upload.name
    assert dicom.sha256 == hashlib.sha256(identified()).hexdigest()
    assert not letter.upload
    with noted.upload.open() as file:
        assert SECRET not in file.read()
    with clean.upload.open() as file:
        assert file.read() == png_bytes()
    Query.objects.filter(pk=waiting.pk).update(status=QueryStatus.ANSWERED)  # then by the next run
    assert row_of(run(), "query files") == ["1", "1", "0"]
    assert words_left(everything_stored(media_root)) == []
