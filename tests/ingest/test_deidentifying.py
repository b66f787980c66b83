"""De-identification: nothing of who the patient is stays, what searches need does, and the file says so."""

from datetime import date
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from django.core.files.storage import default_storage
from django.db import connection
from django.test import Client
from django.urls import reverse
from pydicom.dataset import Dataset as DicomDataset
from pydicom.uid import MRImageStorage

from ingest.checking import check_images, check_ledger, check_storage
from ingest.deidentifying import deidentify
from ingest.importing import import_queued
from ingest.models import Dataset, Image, UploadBatch
from ingest.reading import read_image
from ingest.receiving import open_batch, receive_file
from ingest.slices import ALL, SliceRule
from tests.factories import dicom_bytes, make_pixels, make_user, png_bytes

STUDY, SERIES, INSTANCE, FRAME = (f"1.2.276.0.7230010.3.1.{n}.4711" for n in range(1, 5))
IDENTIFYING = [
    *("Meier", "Annabel", "PID-4711", "ACC-0815", "Doktor", "Klinikum", "STATION7", "Musterweg", "19610203"),
    *("20210310", "20210312", "geheim", "Overlaytext", "Preamblename", STUDY, SERIES, INSTANCE, FRAME),
]


def item(**attributes: Any) -> DicomDataset:
    ds = DicomDataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def identified(seed: int = 0, **attributes: Any) -> bytes:
    """A slice with identifiers wherever there is room for them."""
    content = dicom_bytes(
        seed=seed,
        **{
            "PatientName": "Meier^Annabel",
            "PatientID": "PID-4711",
            "OtherPatientIDs": "PID-4711-B",
            "PatientAddress": "Musterweg 3",
            "PatientAge": "094Y",
            "PatientWeight": "71",
            "StudyInstanceUID": STUDY,
            "SeriesInstanceUID": SERIES,
            "SOPInstanceUID": f"{INSTANCE}.{seed}",
            "FrameOfReferenceUID": FRAME,
            "AccessionNumber": "ACC-0815",
            "ReferringPhysicianName": "Doktor^Eisen",
            "InstitutionName": "Klinikum",
            "StationName": "STATION7",
            "StudyDescription": "MRT Meier",
            "ImageComments": "Annabel Meier",
            "ConvolutionKernel": "for Annabel",  # an attribute that the profile lets stand
            "StudyDate": "20210310",
            "ContentDate": "20210312",
            "AcquisitionDateTime": "20210312101500.5+0100",
            "StudyTime": "101500",
            **attributes,
        },
    )
    ds = pydicom.dcmread(BytesIO(content))
    ds.private_block(0x0009, "geheim", create=True).add_new(1, "LO", "geheim Meier")
    ds.RequestAttributesSequence = [item(RequestedProcedureDescription="Meier", StudyInstanceUID=STUDY)]
    ds.ReferencedImageSequence = [
        item(ReferencedSOPClassUID=MRImageStorage, ReferencedSOPInstanceUID=INSTANCE)
    ]
    inner = item(
        FrameContentSequence=[item(FrameAcquisitionDateTime="20210312101500", FrameComments="Meier")]
    )
    inner.private_block(0x0011, "geheim", create=True).add_new(1, "LO", "geheim")
    ds.PerFrameFunctionalGroupsSequence = [inner]
    ds.add_new(0x60003000, "OW", b"Overlaytext ")
    ds.preamble = b"Preamblename".ljust(128, b"\0")
    ds.file_meta.SourceApplicationEntityTitle = "STATION7"
    buffer = BytesIO()
    ds.save_as(buffer)
    return buffer.getvalue()


def words_left(content: bytes) -> list[str]:
    return [word for word in IDENTIFYING if word.lower().encode() in content.lower()]


def cleaned(content: bytes) -> DicomDataset:
    return pydicom.dcmread(BytesIO(deidentify(content).content))


def test_the_file_has_every_word_in_it_before() -> None:
    assert words_left(identified()) == IDENTIFYING


def test_nothing_identifying_is_left() -> None:
    assert words_left(deidentify(identified()).content) == []


def test_what_searches_and_viewers_need_stays() -> None:
    content = identified()
    ds, before, after = cleaned(content), read_image(content), read_image(deidentify(content).content)
    assert np.array_equal(before.frames[0].pixels, after.frames[0].pixels)
    assert (ds.Modality, ds.BodyPartExamined, ds.PatientSex, ds.PatientWeight) == ("CT", "HEAD", "F", 71)
    assert ds.PatientAge == "090Y"  # nobody is older
    assert ds.StudyTime == "101500"
    assert after.tags == {key: value for key, value in before.tags.items() if key != "ConvolutionKernel"}


def test_the_file_tells_what_was_done() -> None:
    ds = cleaned(identified())
    assert ds.PatientIdentityRemoved == "YES"
    assert ds.LongitudinalTemporalInformationModified == "MODIFIED"
    assert "PS3.15" in ds.DeidentificationMethod[0]
    codes = [(code.CodeValue, code.CodingSchemeDesignator) for code in ds.DeidentificationMethodCodeSequence]
    assert codes == [("113100", "DCM"), ("113107", "DCM"), ("113108", "DCM")]


def test_dates_keep_their_intervals_and_patients_have_their_own() -> None:
    def day(text: str) -> date:
        return date.fromisoformat(f"{text[:4]}-{text[4:6]}-{text[6:8]}")

    first, second = cleaned(identified()), cleaned(identified(1, StudyDate="20210410"))
    assert (day(second.StudyDate) - day(first.StudyDate)).days == 31
    assert (day(first.ContentDate) - day(first.StudyDate)).days == 2
    assert first.AcquisitionDateTime == f"{first.ContentDate}101500.5+0100"
    frame = first.PerFrameFunctionalGroupsSequence[0].FrameContentSequence[0]
    assert frame.FrameAcquisitionDateTime == f"{first.ContentDate}101500"
    assert day(first.StudyDate) < date(2021, 3, 10)
    assert cleaned(identified(PatientID="PID-4712")).StudyDate != first.StudyDate
    assert first.PatientBirthDate == ""
    assert cleaned(identified(StudyDate="")).StudyDate == ""


def test_pseudonyms_hold_across_files() -> None:
    first, second = cleaned(identified()), cleaned(identified(1, SeriesInstanceUID="1.2.3.9"))
    assert first.PatientID == second.PatientID == first.PatientName
    assert first.StudyInstanceUID == second.StudyInstanceUID
    assert first.StudyInstanceUID.startswith("2.25.")
    assert first.SeriesInstanceUID != second.SeriesInstanceUID
    assert first.SOPInstanceUID == first.file_meta.MediaStorageSOPInstanceUID != second.SOPInstanceUID
    assert first.SOPClassUID.startswith("1.2.840.10008.")
    referenced = first.ReferencedImageSequence[0]
    assert referenced.ReferencedSOPInstanceUID == cleaned(identified(SOPInstanceUID=INSTANCE)).SOPInstanceUID
    assert referenced.ReferencedSOPClassUID == MRImageStorage
    other = cleaned(identified(PatientID="PID-4712"))
    assert other.PatientID != first.PatientID
    assert deidentify(identified()) == deidentify(identified())


def test_pictures_stay_as_they_are() -> None:
    assert deidentify(png_bytes()).content == png_bytes()


@pytest.mark.shared_data
def test_real_files_look_the_same_after(shared_data: Path) -> None:
    seen = 0
    for path in sorted((shared_data / "dicom").glob("*.dcm")):
        content = path.read_bytes()
        before, kept = read_image(content, SliceRule(ALL, most=2)), deidentify(content)
        after = read_image(kept.content, SliceRule(ALL, most=2))
        for one, other in zip(before.frames, after.frames, strict=True):
            assert np.array_equal(one.pixels, other.pixels), path.name
        assert not pydicom.dcmread(BytesIO(kept.content), stop_before_pixels=True).get("PatientBirthDate")
        seen += 1
    assert seen > 90


# Imports


@pytest.fixture
def batch(db: None) -> UploadBatch:
    return open_batch("ward", "dicom", None)


def everything_stored(media_root: Path) -> bytes:
    """The bytes of all stored files and their names, and all that the tables of this product hold."""
    files = [path for path in media_root.rglob("*") if path.is_file()]
    parts = [str(path.relative_to(media_root)).encode() for path in files]
    parts += [path.read_bytes() for path in files]
    with connection.cursor() as cursor:
        for name in connection.introspection.table_names():
            if name.startswith(("ingest_", "search_", "ml_")):
                cursor.execute(f'SELECT t::text FROM "{name}" t')
                parts += [row[0].encode() for row in cursor.fetchall()]
    return b"\n".join(parts)


def test_nothing_identifying_is_stored_by_an_import(batch: UploadBatch, media_root: Path) -> None:
    receive_file(batch, "Meier^Annabel/PID-4711/1.dcm", identified())
    assert words_left(everything_stored(media_root))  # it still waits
    import_queued()
    row = batch.files.get()
    assert (row.state, row.path) == ("imported", "–^–/–/1.dcm")
    assert words_left(everything_stored(media_root)) == []
    image = Image.objects.get()
    assert image.deidentification == "113100 113107 113108"
    with image.original.open() as file:
        assert pydicom.dcmread(file).PatientID == image.patient_key


def test_the_same_file_is_known_again_and_leaves_nothing(batch: UploadBatch, media_root: Path) -> None:
    receive_file(batch, "1.dcm", identified())
    import_queued()
    before = everything_stored(media_root)
    again = open_batch("ward", "dicom", None)
    receive_file(again, "PID-4711.dcm", identified())
    import_queued()
    assert [row.state for row in again.files.all()] == ["duplicate"]
    assert again.files.get().path == "–.dcm"
    assert words_left(everything_stored(media_root)) == []
    assert len([path for path in media_root.rglob("*") if path.is_file()]) == 3
    assert len(before) < len(everything_stored(media_root))


def test_patients_group_across_imports(batch: UploadBatch) -> None:
    receive_file(batch, "1.dcm", identified())
    import_queued()
    other = open_batch("other", "dicom", None)
    receive_file(other, "2.dcm", identified(1))
    receive_file(other, "3.dcm", identified(2, PatientID="PID-4712"))
    import_queued()
    first, second, third = Image.objects.order_by("pk")
    assert first.group_key == second.group_key != third.group_key
    assert first.study_key == second.study_key


def test_a_lost_original_comes_back_de_identified(batch: UploadBatch, media_root: Path) -> None:
    receive_file(batch, "1.dcm", identified())
    import_queued()
    name = str(Image.objects.get().original.name)
    default_storage.delete(name)
    assert [finding.count for finding in check_images() if finding.code == "original_lost"] == [1]
    receive_file(open_batch("ward", "dicom", None), "1.dcm", identified())
    import_queued()
    assert default_storage.exists(name)
    assert words_left(everything_stored(media_root)) == []
    findings = [*check_ledger(), *check_images(deep=True), *check_storage()]
    assert [finding.code for finding in findings if finding.left] == []


def test_files_that_differ_in_what_was_removed_share_an_original(
    batch: UploadBatch, django_capture_on_commit_callbacks: Any
) -> None:
    for number, comment in enumerate(("one", "two")):
        receive_file(batch, f"{number}.dcm", identified(ImageComments=comment))
    import_queued()
    first, second = Image.objects.order_by("pk")
    assert first.original.name == second.original.name
    for image, is_there in ((first, True), (second, False)):
        with django_capture_on_commit_callbacks(execute=True):
            image.delete()
        assert default_storage.exists(str(second.original.name)) == is_there


def test_a_data_set_that_keeps_identifiers_keeps_the_file(batch: UploadBatch) -> None:
    Dataset.objects.filter(pk=batch.dataset_id).update(keeps_identifiers=True)
    receive_file(batch, "Meier/1.dcm", identified())
    import_queued()
    image = Image.objects.get()
    assert (image.deidentification, image.source_path) == ("", "Meier/1.dcm")
    with image.original.open() as file:
        assert file.read() == identified()


@pytest.mark.parametrize(("role", "may"), [("admin", True), ("curator", False)])
def test_only_who_may_lets_a_data_set_keep_identifiers(
    batch: UploadBatch, client_of: Any, role: str, may: bool
) -> None:
    client: Client = client_of(role)
    url = reverse("ingest:dataset_detail", args=[batch.dataset_id])
    assert ("keeps_identifiers" in client.get(url).content.decode()) == may
    client.post(url, {"burned_in_text": "detect", "keeps_identifiers": "on"})
    dataset = Dataset.objects.get()
    assert (dataset.keeps_identifiers, dataset.burned_in_text) == (may, "detect")
    admin_url = reverse("admin:ingest_dataset_change", args=[dataset.pk])
    slices = {"slice_choice": "informative", "slice_step": 10}
    keeps = {"keeps_identifiers": "" if may else "on"}
    client.post(admin_url, {"name": "ward", "burned_in_text": "check", **slices, **keeps})
    dataset.refresh_from_db()
    assert (dataset.keeps_identifiers, dataset.burned_in_text) == (False, "check")


def test_the_image_tells_how_it_was_de_identified(batch: UploadBatch, client_of: Any) -> None:
    receive_file(batch, "1.dcm", identified())
    import_queued()
    pk, client = Image.objects.get().pk, client_of("clinician")
    page = client.get(reverse("search:image_detail", args=[pk])).content.decode()
    assert "Basic Application Confidentiality Profile" in page
    assert client.get(f"/api/v1/images/{pk}/").json()["deidentification"] == "113100 113107 113108"
    Image.objects.update(deidentification="")
    page = client.get(reverse("search:image_detail", args=[pk])).content.decode()
    assert "the file is kept as it came in" in page


def test_pixels_are_those_that_came(batch: UploadBatch) -> None:
    receive_file(batch, "1.dcm", identified(3))
    import_queued()
    with Image.objects.get().original.open() as file:
        stored = pydicom.dcmread(file).pixel_array
    assert np.array_equal(stored, make_pixels(3).astype(np.uint16) * 16)


def test_nobody_has_the_permission_but_administrators(db: None) -> None:
    roles = ("clinician", "curator", "integration", "admin")
    assert [make_user(role).has_perm("ingest.keep_identifiers") for role in roles] == [False] * 3 + [True]
