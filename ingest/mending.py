"""Attributes of the image pixel description (PS3.3 C.7.6.3) that are missing or wrong get what they must be.

What was assumed is recorded as sentences.
"""

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels.common import PhotometricInterpretation
from pydicom.uid import UID

from ingest.functional_groups import anatomic_region
from ingest.image_file import RejectedFile, check_size
from ingest.windowing import integer_of, storable_text, text_of

MODALITY_OF_KIND = {  # by what the SOP class's name has in it
    "CT Image": "CT", "MR Image": "MR", "MR Color Image": "MR", "Ultrasound": "US", "US Volume": "US",
    "Mammography": "MG", "Breast Tomosynthesis": "MG", "Computed Radiography": "CR", "Digital X-Ray": "DX",
    "Intra-Oral": "IO", "X-Ray Angiographic": "XA", "XA Image": "XA", "X-Ray 3D Angiographic": "XA",
    "Radiofluoroscopic": "RF", "XRF Image": "RF", "Nuclear Medicine": "NM", "PET": "PT",
    "Positron Emission": "PT", "VL Endoscopic": "ES", "Whole Slide": "SM", "VL Photographic": "XC",
    "Ophthalmic Photography": "OP", "Ophthalmic Tomography": "OPT", "Segmentation": "SEG",
    "RT Dose": "RTDOSE",
}  # fmt: skip
KNOWN = {str(photometric): photometric for photometric in PhotometricInterpretation}
SAMPLES_OF = {"MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1, "ARGB": 4, "CMYK": 4}
SHARE_THAT_MUST_BE_THERE = 0.95  # of a frame whose last bytes are missing
DEPTHS = (1, 8, 16, 32, 64)  # Bits Allocated of integers


def mend(ds: Dataset, assumptions: list[str]) -> None:
    """Mend what decoding needs. Rows, Columns and the pixel data are there already."""
    _mend_colour(ds, assumptions)
    if "PixelData" in ds:
        _mend_bits(ds, assumptions)


def _mend_colour(ds: Dataset, assumptions: list[str]) -> None:
    written = text_of(ds, "PhotometricInterpretation")
    photometric = written.upper().replace("PALETTE_COLOR", "PALETTE COLOR")
    samples = integer_of(ds, "SamplesPerPixel", 0)
    if samples < 1:
        samples = SAMPLES_OF.get(photometric, 3) if photometric in KNOWN else 1
        assumptions.append(f"SamplesPerPixel was missing; {samples} was assumed.")
    if photometric not in KNOWN or SAMPLES_OF.get(photometric, 3) != samples:
        photometric = {3: "RGB", 4: "ARGB"}.get(samples, "MONOCHROME2")
        state = "missing" if not written else "not one that fits"
        assumptions.append(f"PhotometricInterpretation was {state}; {photometric} was assumed.")
    ds.PhotometricInterpretation, ds.SamplesPerPixel = photometric, samples
    if samples > 1 and integer_of(ds, "PlanarConfiguration", -1) not in (0, 1):
        ds.PlanarConfiguration = 0
        if not ds.file_meta.TransferSyntaxUID.is_encapsulated:  # others do not go by it
            assumptions.append("PlanarConfiguration was missing; interleaved samples were assumed.")


def _mend_bits(ds: Dataset, assumptions: list[str]) -> None:
    allocated, stored = integer_of(ds, "BitsAllocated", 0), integer_of(ds, "BitsStored", 0)
    if 8 < allocated < 16 and not ds.file_meta.TransferSyntaxUID.is_encapsulated:
        _unpack(ds, allocated)
        allocated = 16
    if allocated not in DEPTHS:
        allocated = 8 if stored and stored <= 8 else _bits_that_fit(ds)
        assumptions.append(f"BitsAllocated was missing or wrong; {allocated} was assumed.")
    if not 1 <= stored <= allocated:
        stored = allocated
        assumptions.append(f"BitsStored was missing or wrong; {stored} was assumed.")
    if integer_of(ds, "PixelRepresentation", -1) not in (0, 1):
        ds.PixelRepresentation = 0
        assumptions.append("PixelRepresentation was missing; unsigned values were assumed.")
    if not stored <= integer_of(ds, "HighBit", -1) + 1 <= allocated:
        ds.HighBit = stored - 1
    ds.BitsAllocated, ds.BitsStored = allocated, stored


def _unpack(ds: Dataset, allocated: int) -> None:
    """Cells of 9 to 15 bits without gaps, as they were allowed once, become cells of 16 bits."""
    bits = np.unpackbits(np.frombuffer(ds.PixelData, np.uint8), bitorder="little")
    cells = bits[: bits.size // allocated * allocated].reshape(-1, allocated)
    values = sum(cells[:, bit].astype("<u2") << bit for bit in range(allocated))
    ds.PixelData = np.asarray(values, "<u2").tobytes()


def _bits_that_fit(ds: Dataset) -> int:
    """The depth at which uncompressed pixel data has the length it has; 16 where that is not to be known."""
    samples = integer_of(ds, "Rows", 1) * integer_of(ds, "Columns", 1) * integer_of(ds, "SamplesPerPixel", 1)
    samples *= max(integer_of(ds, "NumberOfFrames", 1), 1)
    bits = 8 * len(ds.PixelData) // samples if samples > 0 else 0
    return bits if bits in DEPTHS and not ds.file_meta.TransferSyntaxUID.is_encapsulated else 16


def unused_low_bits(ds: Dataset) -> int:
    """How far up the stored bits lie in their cells (PS3.5 8.1.1): more than 0 in old objects only."""
    syntax = ds.file_meta.TransferSyntaxUID
    if "PixelData" not in ds or (syntax.is_encapsulated and syntax.name != "RLE Lossless"):
        return 0
    return integer_of(ds, "HighBit", 0) + 1 - integer_of(ds, "BitsStored", 0)


def number_of_frames(ds: Dataset, assumptions: list[str]) -> int:
    try:
        number = max(1, int(str(ds.get("NumberOfFrames") or 1)))
    except (ValueError, TypeError):
        assumptions.append("NumberOfFrames was not a number; one frame was assumed.")
        ds.NumberOfFrames = number = 1
    check_size(integer_of(ds, "Rows", 0), integer_of(ds, "Columns", 0))
    if ds.file_meta.TransferSyntaxUID.is_encapsulated:
        if number > max(len(ds.PixelData) // 8, 1):
            raise RejectedFile(
                "damaged", f"The file claims {number} frames, more than its pixel data can hold."
            )
        return number
    return _frames_held(ds, number, assumptions) if "PixelData" in ds else number


def _frames_held(ds: Dataset, number: int, assumptions: list[str]) -> int:
    """How many of the uncompressed frames are there; a few missing bytes of the only one are taken as 0."""
    wanted_bytes, held_bytes = frame_bytes(ds), len(ds.PixelData)
    if number * wanted_bytes <= held_bytes + 1:
        return number
    held = int(held_bytes // wanted_bytes)
    if held >= 1:
        assumptions.append(f"NumberOfFrames says {number}, but only {held} are there.")
        ds.NumberOfFrames = held
        return held
    if number > 1 or held_bytes < SHARE_THAT_MUST_BE_THERE * wanted_bytes:
        raise RejectedFile("damaged", "The pixel data is cut off: fewer bytes than Rows x Columns needs.")
    assumptions.append("The last bytes of the pixel data were missing and taken as 0.")
    ds.PixelData = bytes(ds.PixelData) + bytes(int(wanted_bytes - held_bytes + 1) & ~1)
    return number


def frame_bytes(ds: Dataset) -> float:
    samples = integer_of(ds, "SamplesPerPixel", 1)
    if text_of(ds, "PhotometricInterpretation") in ("YBR_FULL_422", "YBR_PARTIAL_422"):
        samples = 2
    bits = integer_of(ds, "BitsAllocated", 8)
    return float(integer_of(ds, "Rows", 0) * integer_of(ds, "Columns", 0) * samples * bits / 8)


def modality_of(ds: Dataset, assumptions: list[str]) -> str:
    """Modality, else what the SOP class says."""
    if modality := text_of(ds, "Modality").upper():
        return modality
    kind = UID(text_of(ds, "SOPClassUID") or str(ds.file_meta.get("MediaStorageSOPClassUID", "")))
    modality = next((code for start, code in MODALITY_OF_KIND.items() if start in kind.name), "")
    if modality:
        assumptions.append(f"Modality was missing; {modality} was assumed, by the SOP class.")
    return modality


def body_part_of(ds: Dataset, index: int, assumptions: list[str]) -> str:
    """BodyPartExamined, else the anatomic region of the frame or of the object."""
    if part := text_of(ds, "BodyPartExamined"):
        return part
    if region := storable_text(anatomic_region(ds, index)):
        assumptions.append("BodyPartExamined was missing; the anatomic region was taken.")
    return region
