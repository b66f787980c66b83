"""The demo collection: true DICOM, the same bytes every time, classes that can be told apart."""

from collections.abc import Callable
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from django.core.management import call_command
from PIL import Image as PillowImage
from pydicom import uid
from pydicom.dataset import Dataset

from ingest.models import FileState, Image, LabelSource, UploadedFile
from ingest.phantoms import PHANTOMS, write_collection
from ingest.phantoms.writing import SOP_CLASSES, make_phantom
from ingest.reading import read_image
from ingest.renditions import decode_rendition, network_rendition

PATIENTS, SLICES = 3, 2
MONOCHROME = {"CT", "MR", "DX", "MG", "PT"}


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    write_collection(folder, patients_per_class=PATIENTS, slices_per_patient=SLICES)
    return folder


@pytest.fixture(scope="module")
def files(collection: Path) -> dict[str, Dataset]:
    """Every file by its path, read as anybody would: by its preamble, file meta and data elements."""
    return {p.relative_to(collection).as_posix(): pydicom.dcmread(p) for p in sorted(collection.rglob("*"))
            if p.is_file()}  # fmt: skip


@pytest.fixture(scope="module")
def of_modality(files: dict[str, Dataset]) -> Callable[[str], list[Dataset]]:
    return lambda modality: [ds for ds in files.values() if ds.Modality == modality]


@pytest.fixture(scope="module")
def thumbnails(collection: Path, files: dict[str, Dataset]) -> dict[str, np.ndarray]:
    """What the network sees of every file, downsampled to 16x16 and flattened, 0 to 1."""
    return {path: thumbnail_of((collection / path).read_bytes()) for path in files}


def thumbnail_of(content: bytes) -> np.ndarray:
    rendition = decode_rendition(BytesIO(network_rendition(read_image(content).frames[0].pixels)))
    small = PillowImage.fromarray(rendition).resize((16, 16), PillowImage.Resampling.BOX)
    return np.asarray(small, np.float64).ravel() / 255


def class_of(path: str) -> str:
    return path.split("-0")[0]  # <organ>/<modality>


def patient_of(path: str) -> str:
    return path.split("-")[-2]


def content_of(ds: Dataset) -> bytes:
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def test_every_class_has_every_patient_and_slice(files: dict[str, Dataset]) -> None:
    assert sorted(files) == sorted(
        f"{phantom.organ}/{phantom.modality.lower()}-{patient:03d}-{number:02d}.dcm"
        for phantom in PHANTOMS
        for patient in range(1, PATIENTS + 1)
        for number in range(1, SLICES + 1)
    )
    assert {phantom.modality for phantom in PHANTOMS} == set(SOP_CLASSES)


def test_progress_counts_every_file(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    count = write_collection(
        tmp_path,
        patients_per_class=1,
        slices_per_patient=1,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert count == len(PHANTOMS)
    assert seen == [(done, count) for done in range(1, count + 1)]


@pytest.mark.parametrize("phantom", PHANTOMS, ids=lambda p: f"{p.organ}-{p.modality}")
def test_same_arguments_give_the_same_bytes(collection: Path, phantom: Any) -> None:
    again = content_of(make_phantom(phantom, patient=2, number=1, slices=SLICES))
    assert (collection / phantom.organ / f"{phantom.modality.lower()}-002-01.dcm").read_bytes() == again


def test_another_seed_gives_other_patients() -> None:
    one, other = (make_phantom(PHANTOMS[0], 1, 1, 1, seed) for seed in (0, 1))
    assert one.PixelData != other.PixelData
    assert one.SOPInstanceUID != other.SOPInstanceUID
    assert one.StudyInstanceUID != other.StudyInstanceUID


def test_every_file_has_what_the_standard_asks_of_any_image(files: dict[str, Dataset]) -> None:
    for path, ds in files.items():
        assert ds.file_meta.TransferSyntaxUID == uid.ExplicitVRLittleEndian
        assert ds.file_meta.MediaStorageSOPClassUID == ds.SOPClassUID == SOP_CLASSES[ds.Modality], path
        assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
        for value in (ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID):
            assert value.is_valid
        for keyword in ("PatientName", "PatientID", "PatientSex", "PatientBirthDate", "StudyDate"):
            assert keyword in ds, (path, keyword)
        assert (ds.SeriesNumber, ds.InstanceNumber) == (1, int(path[-6:-4]))
        assert ds.BodyPartExamined.isupper()
        assert ds.BitsStored <= ds.BitsAllocated
        assert ds.HighBit == ds.BitsStored - 1
        assert len(ds.PixelData) == ds.Rows * ds.Columns * ds.SamplesPerPixel * ds.BitsAllocated // 8


def test_slices_of_a_patient_share_study_and_series(files: dict[str, Dataset]) -> None:
    studies: dict[str, set[tuple[str, str, str]]] = {}
    for path, ds in files.items():
        key = path.rpartition("-")[0]
        studies.setdefault(key, set()).add((ds.PatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID))
    assert len(studies) == len(PHANTOMS) * PATIENTS
    assert all(len(found) == 1 for found in studies.values())
    for column in range(3):
        assert len({next(iter(found))[column] for found in studies.values()}) == len(studies)
    assert len({ds.SOPInstanceUID for ds in files.values()}) == len(files)


def test_slices_lie_above_each_other_in_the_frame_of_their_patient(files: dict[str, Dataset]) -> None:
    positions: dict[str, list[float]] = {}
    for path, ds in sorted(files.items()):
        assert ds.ImageType[:2] == ["ORIGINAL", "PRIMARY"]
        assert (ds.Modality in {"CT", "MR", "PT"}) == ("FrameOfReferenceUID" in ds), path
        if "FrameOfReferenceUID" in ds:
            assert ds.ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
            positions.setdefault(ds.FrameOfReferenceUID, []).append(ds.ImagePositionPatient[2])
            assert ds.SliceThickness == 5
    assert all(found == [0, 5] for found in positions.values())
    assert len(positions) == PATIENTS * sum(p.modality in {"CT", "MR", "PT"} for p in PHANTOMS)


def test_ct_is_in_hounsfield_units(of_modality: Callable[[str], list[Dataset]]) -> None:
    for ds in of_modality("CT"):
        assert (ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType) == (-1024, 1, "HU")
        assert (ds.WindowCenter, ds.WindowWidth, ds.BitsStored) == (40, 400, 12)
        hounsfield = ds.pixel_array.astype(int) + ds.RescaleIntercept
        assert hounsfield.min() == -1000  # air
        assert -100 < np.median(hounsfield[hounsfield > -150]) < 150  # soft tissue
        assert hounsfield.max() < 3000


def test_mr_is_twelve_bits_within_its_window(of_modality: Callable[[str], list[Dataset]]) -> None:
    for ds in of_modality("MR"):
        assert (ds.BitsStored, ds.PhotometricInterpretation) == (12, "MONOCHROME2")
        assert 255 < ds.pixel_array.max() <= ds.WindowCenter + ds.WindowWidth / 2
        assert "RescaleType" not in ds


def test_x_rays_are_stored_inverted_and_shown_upright(of_modality: Callable[[str], list[Dataset]]) -> None:
    for ds in of_modality("DX"):
        assert (ds.PhotometricInterpretation, ds.BitsStored) == ("MONOCHROME1", 12)
        assert ds.ViewPosition
        shown = read_image(content_of(ds)).frames[0].pixels
        assert np.corrcoef(shown.ravel(), ds.pixel_array.ravel())[0, 1] < -0.9
    assert all(ds.PhotometricInterpretation == "MONOCHROME2" for ds in of_modality("MG"))


def test_pet_has_units_and_a_rescale(of_modality: Callable[[str], list[Dataset]]) -> None:
    for ds in of_modality("PT"):
        assert (ds.Units, ds.BitsStored, ds.RescaleSlope) == ("BQML", 16, 0.5)
        assert ds.pixel_array.max() > 4095


def test_ultrasound_and_fundus_photographs_are_colour(of_modality: Callable[[str], list[Dataset]]) -> None:
    for modality in ("US", "OP"):
        for ds in of_modality(modality):
            assert (ds.SamplesPerPixel, ds.PhotometricInterpretation) == (3, "RGB")
            assert (ds.BitsStored, ds.PlanarConfiguration) == (8, 0)
    for ds in of_modality("OP"):
        red, green, blue = (float(ds.pixel_array[..., channel].mean()) for channel in range(3))
        assert red > green > blue > 0


def test_grey_modalities_have_one_sample(of_modality: Callable[[str], list[Dataset]]) -> None:
    for modality in MONOCHROME:
        assert all(ds.SamplesPerPixel == 1 and ds.BitsAllocated == 16 for ds in of_modality(modality))


def test_nothing_has_to_be_assumed_to_read_them(files: dict[str, Dataset]) -> None:
    for path, ds in files.items():
        image = read_image(content_of(ds))
        assert (image.file_format, image.assumptions) == ("DICOM", ()), path
        assert np.ptp(image.frames[0].pixels) > 100, path


def test_classes_look_different(thumbnails: dict[str, np.ndarray]) -> None:
    """The nearest mean of the other patients is the right class nearly always (by chance: 1 of 26)."""
    classes = sorted({class_of(path) for path in thumbnails})
    right = 0
    for patient in {patient_of(path) for path in thumbnails}:
        means = np.stack(
            [
                np.mean(
                    [t for p, t in thumbnails.items() if class_of(p) == c and patient_of(p) != patient], 0
                )
                for c in classes
            ]
        )
        for path, seen in thumbnails.items():
            if patient_of(path) == patient:
                right += classes[np.linalg.norm(means - seen, axis=1).argmin()] == class_of(path)
    assert right / len(thumbnails) > 0.8


def test_patients_of_a_class_look_different(thumbnails: dict[str, np.ndarray]) -> None:
    first_slices = [path for path in sorted(thumbnails) if path.endswith("-01.dcm")]
    for first, second in pairwise(first_slices):
        if class_of(first) == class_of(second):
            assert np.abs(thumbnails[first] - thumbnails[second]).max() > 0.05, (first, second)


def test_no_two_images_have_the_same_pixels(files: dict[str, Dataset]) -> None:
    assert len({ds.PixelData for ds in files.values()}) == len(files)


@pytest.mark.django_db
@pytest.mark.parametrize("labels", [LabelSource.FOLDER, LabelSource.DICOM])
def test_the_collection_comes_in_by_the_ordinary_door(tmp_path: Path, labels: str) -> None:
    write_collection(tmp_path, patients_per_class=1, slices_per_patient=2)
    call_command(
        "import_images",
        str(tmp_path),
        dataset="demo",
        labels=labels,
        json=True,
        new_organs=True,
        trusted=True,
    )

    assert set(UploadedFile.objects.values_list("state", flat=True)) == {FileState.IMPORTED}
    images = Image.objects.values_list("source_path", "organ__name", "modality__code", "assumptions")
    assert len(images) == 2 * len(PHANTOMS)
    expected = {f"{p.organ}/{p.modality.lower()}": p for p in PHANTOMS}
    for path, organ, modality, assumptions in images:
        phantom = expected[class_of(path)]
        assert modality == phantom.modality
        assert organ == organ_expected(phantom, labels)
        assert assumptions == []
    assert Image.objects.values("group_key").distinct().count() == len(PHANTOMS)
    assert not Image.objects.filter(source_path__contains="PHANTOM").exists()


def organ_expected(phantom: Any, labels: str) -> str:
    """By folder our organ; by tag alone CT of the lungs is of the chest and the neck of the neck."""
    from_tag = {"lungs": "chest", "head-neck": "neck"}
    return from_tag.get(phantom.organ, phantom.organ) if labels == LabelSource.DICOM else phantom.organ
