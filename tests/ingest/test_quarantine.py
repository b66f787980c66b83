"""Files that may have text burned in wait for a person: who sees them, what is decided, what is masked."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from django.core.files.storage import default_storage
from django.test import Client
from django.urls import reverse
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont
from pydicom.uid import SecondaryCaptureImageStorage

from ingest.burned_in import text_boxes
from ingest.checking import check_images, check_ledger, check_storage
from ingest.importing import import_queued
from ingest.ledger import cancel, retry
from ingest.masking import masked
from ingest.models import Dataset, Decision, Image, QuarantinedFile, UploadBatch
from ingest.quarantine import decide, undecided
from ingest.reading import read_image
from ingest.receiving import open_batch, receive_file
from ingest.reports import batch_report, report_lines
from ingest.slices import ALL, SliceRule
from ingest.storing import original_name
from tests.factories import dicom_bytes, make_pixels, png_bytes

PAGE = "/imports/quarantine/"
TOP = [0.0, 0.0, 1.0, 0.25]  # where the text of `with_text` is


def with_text(seed: int = 0) -> np.ndarray:
    """A brain with a patient's name above it: uint8 (256, 256)."""
    picture = PillowImage.fromarray(make_pixels(seed, size=256))
    ImageDraw.Draw(picture).rectangle((0, 0, 255, 60), fill=0)
    font = ImageFont.load_default(22)
    ImageDraw.Draw(picture).text((12, 16), "MEIER ANNA 1961", fill=255, font=font)
    return np.asarray(picture)


def ultrasound(seed: int = 0, **attributes: Any) -> bytes:
    return dicom_bytes(with_text(seed), seed=seed, **{"Modality": "US", **attributes})


@pytest.fixture
def batch(db: None) -> UploadBatch:
    return open_batch("ward", "dicom", None)


@pytest.fixture
def held(batch: UploadBatch) -> QuarantinedFile:
    receive_file(batch, "a.dcm", ultrasound())
    import_queued()
    return QuarantinedFile.objects.get()


def states(batch: UploadBatch) -> dict[str, str]:
    return dict(batch.files.values_list("path", "state"))


def preview_of(image: Image) -> np.ndarray:
    with image.preview.open() as file:
        return np.asarray(PillowImage.open(file))


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ({}, None),
        ({"Modality": "US"}, "ultrasound"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.3.1"}, "ultrasound"),
        ({"BurnedInAnnotation": "YES"}, "burned_in_annotation"),
        ({"BurnedInAnnotation": "NO"}, None),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, "secondary_capture"),
        ({"ConversionType": "WSD"}, "secondary_capture"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "screen_capture"),
        ({"SeriesDescription": "Dose Report"}, "screen_capture"),
    ],
)
def test_what_is_held_back(attributes: dict[str, Any], code: str | None) -> None:
    why = read_image(dicom_bytes(**attributes)).text_likely
    assert (why and why[0]) == code


def test_text_is_found_where_it_is() -> None:
    boxes = text_boxes(with_text())
    assert boxes
    assert all(box[3] <= 0.25 for box in boxes)
    assert text_boxes(make_pixels(size=256)) == []


def test_a_file_held_back_is_nowhere_but_in_quarantine(batch: UploadBatch, client_of: Any) -> None:
    receive_file(batch, "a.dcm", ultrasound())
    receive_file(batch, "b.dcm", dicom_bytes(seed=2))
    receive_file(batch, "c.png", png_bytes(with_text()))  # a picture says nothing of what is in it
    import_queued()
    assert states(batch) == {"a.dcm": "quarantined", "b.dcm": "imported", "c.png": "imported"}
    assert Image.objects.count() == 2
    held = QuarantinedFile.objects.get()
    assert held.file.reason == "Ultrasound pictures often show the patient's name."
    assert len(held.boxes) >= 1
    counts = client_of("curator").get(f"/api/v1/batches/{batch.pk}/").json()
    assert counts["state"] == "finished"
    assert counts["files"]["quarantined"] == 1
    assert counts["files"]["total"] == sum(counts["files"].values()) - counts["files"]["total"]
    assert batch_report(batch, 1)["quarantined"] == 1
    assert any("a.dcm,quarantined,ultrasound" in line for line in report_lines(batch))
    assert cancel(batch) == retry(batch) == 0
    findings = [*check_ledger(), *check_images(deep=True), *check_storage()]
    assert [finding.code for finding in findings if finding.left] == []


@pytest.mark.parametrize(
    ("setting", "is_trusted", "expected"),
    [
        ("check", False, ["quarantined", "imported", "imported"]),
        ("detect", False, ["quarantined", "quarantined", "imported"]),
        ("trusted", False, ["imported"] * 3),
        ("detect", True, ["imported"] * 3),
    ],
)
def test_settings_decide_what_waits(
    batch: UploadBatch, setting: str, is_trusted: bool, expected: list[str]
) -> None:
    Dataset.objects.update(burned_in_text=setting)
    batch = open_batch("ward", "dicom", None, is_trusted=is_trusted)
    receive_file(batch, "a.dcm", ultrasound())
    receive_file(batch, "b.png", png_bytes(with_text(1)))
    receive_file(batch, "c.png", png_bytes(make_pixels(2, size=256)))
    import_queued()
    assert list(states(batch).values()) == expected


def test_masking_blackens_everything_that_is_stored(held: QuarantinedFile, user_of: Any) -> None:
    curator = user_of("curator")
    before = with_text()
    assert decide(Decision.MASK, {held.pk: [TOP]}, curator) == 1
    assert held.file.batch.files.get().state == "queued"
    import_queued()
    image = Image.objects.get()
    assert image.deidentification.split()[-1] == "113101"
    with image.original.open() as file:
        stored = pydicom.dcmread(file)
    assert stored.pixel_array[:64].max() == before.min()
    assert np.array_equal(stored.pixel_array[64:], before[64:].astype(np.uint16) * 16)
    assert stored.BurnedInAnnotation == "NO"
    with image.rendition.open() as file:
        assert np.asarray(PillowImage.open(file))[:63].max() <= 2
    assert preview_of(image)[:56].max() <= 12  # a JPEG
    held.refresh_from_db()
    assert (held.decision, held.decided_by, held.boxes) == ("mask", curator, [TOP])
    assert held.decided_at
    assert not default_storage.exists(original_name(held.file.sha256))  # what came in is gone
    again = open_batch("ward", "dicom", None)
    receive_file(again, "a.dcm", ultrasound())
    import_queued()
    assert list(states(again).values()) == ["duplicate"]
    findings = [*check_ledger(), *check_images(deep=True), *check_storage()]
    assert [finding.code for finding in findings if finding.left] == []


def test_as_it_is_changes_no_pixel(held: QuarantinedFile, user_of: Any) -> None:
    decide(Decision.AS_IS, {held.pk: []}, user_of("curator"))
    import_queued()
    image = Image.objects.get()
    with image.original.open() as file:
        assert np.array_equal(pydicom.dcmread(file).pixel_array, with_text().astype(np.uint16) * 16)
    assert "113101" not in image.deidentification


def test_rejecting_deletes_the_bytes(
    held: QuarantinedFile, user_of: Any, media_root: Path, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        assert decide(Decision.REJECT, {held.pk: []}, user_of("curator")) == 1
    row = held.file.batch.files.get()
    assert (row.state, row.reason_code, row.is_retryable) == ("rejected", "kept_out", False)
    assert [path for path in media_root.rglob("*") if path.is_file()] == []
    assert decide(Decision.AS_IS, {held.pk: []}, None) == 0  # decided already
    assert retry(held.file.batch) == 0


def test_the_same_bytes_are_decided_on_once(held: QuarantinedFile) -> None:
    receive_file(held.file.batch, "b.dcm", ultrasound())
    import_queued()
    assert undecided().count() == 2
    assert decide(Decision.AS_IS, {held.pk: []}, None) == 2
    import_queued()
    assert states(held.file.batch) == {"a.dcm": "imported", "b.dcm": "duplicate"}


def test_a_decided_file_may_be_cancelled_and_tried_again(held: QuarantinedFile) -> None:
    decide(Decision.AS_IS, {held.pk: []}, None)
    assert cancel(held.file.batch) == 1
    assert retry(held.file.batch) == 1
    import_queued()
    assert states(held.file.batch) == {"a.dcm": "imported"}


@pytest.mark.parametrize(
    ("role", "status"), [("curator", 200), ("admin", 200), ("clinician", 403), ("nobody", 403), (None, 302)]
)
def test_only_curators_see_the_quarantine(
    held: QuarantinedFile, client_of: Any, role: str | None, status: int
) -> None:
    client: Client = client_of(role)
    assert client.get(PAGE).status_code == status
    assert client.get(reverse("ingest:quarantine_picture", args=[held.pk, 1])).status_code == status
    answer = client.post(f"{PAGE}decide/", {"decision": f"reject {held.pk}"})
    assert answer.status_code == (302 if status == 200 else status)
    held.refresh_from_db()
    assert held.decision == ("reject" if status == 200 else "")


def test_the_page_masks_what_is_ticked(held: QuarantinedFile, client_of: Any) -> None:
    client: Client = client_of("curator")
    page = client.get(PAGE).content.decode()
    assert "Ultrasound pictures often show" in page
    assert page.count('class="mask-box"') == page.count("% from the top, ") == len(held.boxes)
    ticked = ["0,0,1,0.25", "0.1,0.9,0.05,0.2", "no box"]  # the others are no boxes
    client.post(f"{PAGE}decide/", {"decision": f"mask {held.pk}", f"box-{held.pk}": ticked})
    held.refresh_from_db()
    assert (held.decision, held.boxes) == ("mask", [TOP])
    assert "No file waits" in client.get(PAGE).content.decode()
    assert client.get(reverse("ingest:quarantine_picture", args=[held.pk, 1])).status_code == 404


@pytest.mark.parametrize("decision", ["", "burn", "mask", "mask 999999", "mask x"])
def test_bad_answers_change_nothing(held: QuarantinedFile, client_of: Any, decision: str) -> None:
    client: Client = client_of("curator")
    answer = client.post(f"{PAGE}decide/", {"decision": decision, "file": [held.pk]}, follow=True)
    assert answer.status_code == 200
    assert "message-warning" in answer.content.decode()
    held.refresh_from_db()
    assert held.decision == ""


def test_a_whole_page_is_decided_at_once(batch: UploadBatch, client_of: Any) -> None:
    for seed in range(3):
        receive_file(batch, f"{seed}.dcm", ultrasound(seed))
    import_queued()
    files = list(QuarantinedFile.objects.values_list("pk", flat=True))
    posted = {f"box-{pk}": "0,0,1,0.25" for pk in files}
    client: Client = client_of("curator")
    client.post(f"{PAGE}decide/", {"decision": "mask", "file": files, **posted})
    import_queued()
    assert set(states(batch).values()) == {"imported"}
    assert all(preview_of(image)[:56].max() <= 12 for image in Image.objects.all())


def test_pages_tell_of_the_quarantine(held: QuarantinedFile, client_of: Any) -> None:
    client: Client = client_of("curator")
    for url in ("/imports/", f"/imports/{held.file.batch_id}/"):
        assert "1 file waits in quarantine" in client.get(url).content.decode()
    assert "1 in quarantine" in client.get("/imports/").content.decode()


def tiff_bytes() -> bytes:
    buffer = BytesIO()
    pages = [PillowImage.fromarray(np.full((40, 60), 200, np.uint8)) for _ in range(3)]
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    return buffer.getvalue()


def jpeg_bytes() -> bytes:
    buffer = BytesIO()
    exif = PillowImage.Exif()
    exif[0x010E] = "Meier Anna"
    PillowImage.fromarray(np.full((40, 60, 3), 200, np.uint8)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def colour_dicom() -> bytes:
    pixels = np.full((40, 60, 3), 200, np.uint8)
    attributes: dict[str, Any] = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "Rows": 40}
    attributes |= {"Columns": 60, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PlanarConfiguration": 0}
    return dicom_bytes(np.zeros((40, 60)), PixelData=pixels.tobytes(), **attributes)


@pytest.mark.parametrize("content", [tiff_bytes(), jpeg_bytes(), colour_dicom(), png_bytes()])
def test_every_frame_is_masked(content: bytes) -> None:
    before, kept = read_image(content), masked(content, [[0.0, 0.0, 0.5, 0.5]])
    after = read_image(kept)
    assert len(after.frames) == len(before.frames)
    for one, other in zip(before.frames, after.frames, strict=True):
        rows, columns = one.pixels.shape
        assert other.pixels[: rows // 2, : columns // 2].max() == 0
        assert np.array_equal(one.pixels[rows // 2 :], other.pixels[rows // 2 :])


def test_a_masked_picture_has_its_pixels_alone() -> None:
    assert b"Meier" in jpeg_bytes()
    assert b"Meier" not in masked(jpeg_bytes(), [TOP])


@pytest.mark.shared_data
def test_every_real_file_can_be_masked(shared_data: Path) -> None:
    for path in sorted((shared_data / "dicom").glob("*.dcm")):
        kept = read_image(masked(path.read_bytes(), [[0.1, 0.2, 0.6, 0.5]]), SliceRule(ALL, most=2))
        for frame in kept.frames:
            rows, columns = frame.pixels.shape
            inside = frame.pixels[int(0.2 * rows) : rows // 2, int(0.1 * columns) : int(0.6 * columns)]
            assert inside.size == 0 or inside.min() == inside.max(), path.name
