"""Phantoms as DICOM objects of the SOP class, depth and photometric interpretation of their modality."""

from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset

from ingest.phantoms.anatomy import PHANTOMS, Phantom
from ingest.phantoms.shapes import SIZE, Canvas, Patient, move

SOP_CLASSES = {
    "CT": uid.CTImageStorage,
    "MR": uid.MRImageStorage,
    "DX": uid.DigitalXRayImageStorageForPresentation,
    "MG": uid.DigitalMammographyXRayImageStorageForPresentation,
    "US": uid.UltrasoundImageStorage,
    "PT": uid.PositronEmissionTomographyImageStorage,
    "OP": uid.OphthalmicPhotography8BitImageStorage,
}
NOISE = {"CT": 0.025, "MR": 0.03, "DX": 0.015, "MG": 0.015, "US": 0.0, "PT": 0.03, "OP": 0.01}
TOMOGRAPHIC = {"CT", "MR", "PT"}  # slices of a volume
SLICE_THICKNESS_MM = 5
HU_CENTER, HU_WIDTH = 40, 400


def write_collection(
    folder: Path,
    *,
    patients_per_class: int,
    slices_per_patient: int,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write <folder>/<organ>/<modality>-<patient>-<slice>.dcm; returns the number of files.

    The same arguments give the same bytes.
    """
    total, done = len(PHANTOMS) * patients_per_class * slices_per_patient, 0
    for phantom in PHANTOMS:
        (folder / phantom.organ).mkdir(parents=True, exist_ok=True)
        for patient in range(1, patients_per_class + 1):
            for number in range(1, slices_per_patient + 1):
                ds = make_phantom(phantom, patient, number, slices_per_patient, seed)
                name = f"{phantom.modality.lower()}-{patient:03d}-{number:02d}.dcm"
                pydicom.dcmwrite(folder / phantom.organ / name, ds, enforce_file_format=True)
                done += 1
                if on_progress:
                    on_progress(done, total)
    return done


def make_phantom(phantom: Phantom, patient: int, number: int, slices: int, seed: int = 0) -> Dataset:
    """One slice (`number` from 1) of a phantom patient."""
    key = crc32(f"{phantom.organ}/{phantom.modality}".encode())
    z = 0.0 if slices == 1 else 2 * (number - 1) / (slices - 1) - 1
    build = Patient((seed, key, patient), 0.7 * z)
    picture = move(phantom.draw(build), build)
    noise = build.slice_rng.standard_normal(picture.shape).astype(np.float32)
    grey = np.clip(picture + NOISE[phantom.modality] * noise, 0, 1)
    ds = _describe(phantom, patient, number, seed)
    _write_pixels(ds, phantom.modality, grey)
    return ds


def _describe(phantom: Phantom, patient: int, number: int, seed: int) -> Dataset:
    entropy = ["cbmir phantom", str(seed), phantom.organ, phantom.modality, str(patient)]
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = SOP_CLASSES[phantom.modality]
    ds.SOPInstanceUID = uid.generate_uid(entropy_srcs=[*entropy, str(number)])
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.StudyInstanceUID = uid.generate_uid(entropy_srcs=[*entropy, "study"])
    ds.SeriesInstanceUID = uid.generate_uid(entropy_srcs=[*entropy, "series"])
    ds.PatientID = f"PHANTOM-{phantom.organ}-{phantom.modality}-{patient:03d}"
    ds.PatientName = f"Example^{patient:03d}"
    ds.PatientBirthDate = ""
    ds.PatientSex, ds.PatientAge = "MF"[patient % 2], f"{30 + 7 * patient % 60:03d}Y"
    ds.StudyDate = ds.SeriesDate = "20170101"
    ds.StudyTime, ds.AccessionNumber, ds.StudyID, ds.ReferringPhysicianName = "120000", "", "1", ""
    ds.Modality, ds.Manufacturer = phantom.modality, "CBMIR phantom"
    ds.BodyPartExamined = phantom.body_part_examined
    ds.SeriesNumber, ds.InstanceNumber = 1, number
    ds.ImageType = ["ORIGINAL", "PRIMARY", *{"CT": ["AXIAL"], "MR": ["OTHER"]}.get(phantom.modality, [])]
    if phantom.modality in TOMOGRAPHIC:
        ds.FrameOfReferenceUID = uid.generate_uid(entropy_srcs=[*entropy, "frame of reference"])
        ds.ImagePositionPatient = [-SIZE / 2, -SIZE / 2, float(SLICE_THICKNESS_MM * (number - 1))]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.SliceThickness = SLICE_THICKNESS_MM
    if phantom.modality in ("DX", "MG"):
        ds.ViewPosition = "CC" if phantom.modality == "MG" else "AP"
    return ds


def _write_pixels(ds: Dataset, modality: str, grey: Canvas) -> None:
    """grey: 0 to 1 as displayed; encoded as the modality stores it."""
    ds.Rows, ds.Columns = grey.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.PixelSpacing = [1.0, 1.0]
    if modality == "CT":
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = -1024, 1, "HU"
        ds.WindowCenter, ds.WindowWidth = HU_CENTER, HU_WIDTH
        hounsfield = (grey - 0.5) * HU_WIDTH + HU_CENTER
        hounsfield[grey <= 0.03] = -1000  # air
        _store(ds, hounsfield + 1024, stored=12)
    elif modality == "MR":
        ds.WindowCenter, ds.WindowWidth = 700, 1400
        _store(ds, grey * 1400, stored=12)
    elif modality in ("DX", "MG"):
        ds.PhotometricInterpretation = "MONOCHROME1" if modality == "DX" else "MONOCHROME2"
        ds.WindowCenter, ds.WindowWidth = 2048, 4096
        _store(ds, 4095 * (1 - grey if modality == "DX" else grey), stored=12)
    elif modality == "PT":
        ds.RescaleIntercept, ds.RescaleSlope, ds.Units = 0, 0.5, "BQML"
        ds.WindowCenter, ds.WindowWidth = 8000, 16000
        _store(ds, grey * 32000, stored=16)
    else:
        _store_colour(ds, grey, fundus=modality == "OP")


def _store(ds: Dataset, values: Canvas, stored: int) -> None:
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, stored, stored - 1, 0
    ds.PixelData = np.clip(values, 0, 2**stored - 1).astype("<u2").tobytes()


def _store_colour(ds: Dataset, grey: Canvas, fundus: bool) -> None:
    tint = np.array([1.0, 0.55, 0.3] if fundus else [1.0, 1.0, 0.97], np.float32)
    rgb = np.clip(grey[..., None] * (1.4 if fundus else 1.0) * tint, 0, 1)
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.PixelData = (rgb * 255).astype(np.uint8).tobytes()
    del ds.PixelSpacing
