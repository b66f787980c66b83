"""Reading DICOM: any transfer syntax, to grey frames as a radiologist would see them first.

The grey-scale pipeline is that of PS3.4 N.2: Modality LUT, then VOI LUT or window, then MONOCHROME1.
"""

import logging
import warnings
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import config, uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder

from ingest import decoders
from ingest.image_file import (
    MAX_BYTES,
    Frame,
    ReadImage,
    RejectedFile,
    check_size,
    choose_frames,
)
from ingest.windowing import integer_of, text_of, to_grey

decoders.register()
logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its warnings quote values of the file
config.settings.reading_validation_mode = config.IGNORE

PERMITTED_TAGS = (
    "PhotometricInterpretation",
    "WindowCenter",
    "WindowWidth",
    "PixelSpacing",
    "SliceThickness",
    "ViewPosition",
    "ImageLaterality",
    "Laterality",
    "PatientSex",
    "PatientAge",
    "PatientPosition",
    "Manufacturer",
    "KVP",
    "MagneticFieldStrength",
    "ScanningSequence",
    "RepetitionTime",
    "EchoTime",
    "ImageType",
    "BurnedInAnnotation",
    "ConvolutionKernel",
    "InstanceNumber",
    "RescaleType",
    "Units",
    "LossyImageCompression",
)
OLDEST_AGE = "090Y"  # older patients are few enough to be found again


def looks_like_dicom(content: bytes) -> bool:
    """A preamble with DICM, or bare data elements starting in group 0002 or 0008 (no preamble)."""
    if content[128:132] == b"DICM" or content[:4] == b"DICM":
        return True
    return len(content) >= 8 and content[:4] in (
        *(b"\x02\x00\x00\x00", b"\x02\x00\x10\x00", b"\x02\x00\x01\x00"),
        *(b"\x08\x00" + bytes([element, 0]) for element in range(0, 0x20)),
        *(b"\x00\x08\x00" + bytes([element]) for element in range(0, 0x20)),
    )


def read_dicom(content: bytes, *, max_frames: int = 8, middle_frame_only: bool = False) -> ReadImage:
    """Read a DICOM object's chosen frames. Raises RejectedFile with a sentence for every expected defect."""
    assumptions: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = _parse(content, assumptions)
        _require_pixels(ds)
        _require_decoder(ds)
        number_of_frames = _number_of_frames(ds, assumptions)
        chosen = choose_frames(number_of_frames, max_frames, middle_frame_only)
        frames = tuple(
            Frame(to_grey(pixels, ds, index, assumptions), index + 1)
            for index, pixels in _decode_frames(ds, chosen, number_of_frames, assumptions)
        )
    return ReadImage(
        file_format="DICOM",
        frames=frames,
        number_of_frames=number_of_frames,
        bits_stored=integer_of(ds, "BitsStored", 8),
        modality=text_of(ds, "Modality").upper(),
        body_part_examined=text_of(ds, "BodyPartExamined"),
        patient_id=text_of(ds, "PatientID"),
        study_instance_uid=text_of(ds, "StudyInstanceUID"),
        series_instance_uid=text_of(ds, "SeriesInstanceUID"),
        sop_instance_uid=text_of(ds, "SOPInstanceUID"),
        transfer_syntax_uid=str(ds.file_meta.get("TransferSyntaxUID", "")),
        tags=_permitted_tags(ds),
        assumptions=tuple(dict.fromkeys(assumptions)),
    )


def _parse(content: bytes, assumptions: list[str]) -> Dataset:
    if content[:4] == b"DICM":
        content = bytes(128) + content
        assumptions.append("The preamble was missing.")
    _refuse_inflation_bomb(content)
    try:
        ds = pydicom.dcmread(BytesIO(content))
    except InvalidDicomError:
        assumptions.append("The file header was missing.")
        ds = pydicom.dcmread(BytesIO(content), force=True)
    except (MemoryError, EOFError, OSError) as error:
        raise RejectedFile("damaged", "The DICOM file is cut off or damaged.") from error
    if not hasattr(ds, "file_meta"):
        ds.file_meta = FileMetaDataset()
    if "TransferSyntaxUID" not in ds.file_meta:
        implicit, little = ds.original_encoding
        syntax = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
        ds.file_meta.TransferSyntaxUID = syntax if little else uid.ExplicitVRBigEndian
        assumptions.append(
            f"The transfer syntax was missing; {ds.file_meta.TransferSyntaxUID.name} was assumed."
        )
    return ds


def _refuse_inflation_bomb(content: bytes) -> None:
    """A deflated data set may not grow beyond 64 MB and a hundredfold (PS3.5 A.5)."""
    start = content.find(b"1.2.840.10008.1.2.1.99", 132, 1024)
    if start < 0 or content[128:132] != b"DICM":
        return
    length = 144 + int.from_bytes(
        content[140:144], "little"
    )  # FileMetaInformationGroupLength, first in the header
    limit = max(64 * 2**20, 100 * len(content))
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    total, source = 0, content[length:]
    while source and total <= limit:
        total += len(inflater.decompress(source, 2**22))
        source = inflater.unconsumed_tail
    if total > limit:
        raise RejectedFile("too_large", "The deflated file grows to an absurd size when it is unpacked.")


def _require_pixels(ds: Dataset) -> None:
    if any(keyword in ds for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        if "PixelData" in ds and not ds["PixelData"].value:
            raise RejectedFile("no_pixel_data", "The file has an empty pixel data element.")
        for keyword in ("Rows", "Columns"):
            if not integer_of(ds, keyword, 0):
                raise RejectedFile("damaged", f"The required attribute {keyword} is missing.")
        return
    if not len(ds):
        raise RejectedFile("damaged", "The DICOM file is cut off: it holds no data elements.")
    kind = text_of(ds, "SOPClassUID") or str(ds.file_meta.get("MediaStorageSOPClassUID", ""))
    name = uid.UID(kind).name if kind else ""
    if "DirectoryRecordSequence" in ds:
        name = "DICOMDIR index"
    what = (
        f"a {name}"
        if name and not name[0].isdigit()
        else f"a DICOM object of modality {text_of(ds, 'Modality') or '?'}"
    )
    raise RejectedFile("no_pixel_data", f"This is {what}: it has no image in it.")


def _require_decoder(ds: Dataset) -> None:
    syntax = ds.file_meta.TransferSyntaxUID
    try:
        get_decoder(syntax)
    except NotImplementedError as error:
        raise RejectedFile(
            "unsupported_transfer_syntax", f"No decoder knows the transfer syntax {syntax.name}."
        ) from error


def _number_of_frames(ds: Dataset, assumptions: list[str]) -> int:
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
    frame_bytes = _frame_bytes(ds)
    if "PixelData" in ds and number * frame_bytes > len(ds.PixelData) + 1:
        held = len(ds.PixelData) // frame_bytes
        if number > 1 and held >= 1:
            assumptions.append(f"NumberOfFrames says {number}, but only {held} are there.")
            ds.NumberOfFrames = number = int(held)
        elif number > 1 or len(ds.PixelData) < 0.95 * frame_bytes:
            raise RejectedFile("damaged", "The pixel data is cut off: fewer bytes than Rows x Columns needs.")
        else:
            assumptions.append("The last bytes of the pixel data were missing and taken as 0.")
            ds.PixelData = bytes(ds.PixelData) + bytes(int(frame_bytes - len(ds.PixelData) + 1) & ~1)
    return number


def _frame_bytes(ds: Dataset) -> float:
    samples = integer_of(ds, "SamplesPerPixel", 1)
    if text_of(ds, "PhotometricInterpretation") == "YBR_FULL_422":
        samples = 2
    bits = integer_of(ds, "BitsAllocated", 8)
    return float(integer_of(ds, "Rows", 0) * integer_of(ds, "Columns", 0) * samples * bits / 8)


def _decode_frames(
    ds: Dataset, chosen: list[int], number: int, assumptions: list[str]
) -> list[tuple[int, NDArray[Any]]]:
    syntax = ds.file_meta.TransferSyntaxUID
    if _frame_bytes(ds) > MAX_BYTES:
        raise RejectedFile("too_large", "One frame of the image is absurdly large.")
    decoder = get_decoder(syntax)
    if text_of(ds, "PhotometricInterpretation") == "":
        ds.PhotometricInterpretation = "MONOCHROME2"
        assumptions.append("PhotometricInterpretation was missing; MONOCHROME2 was assumed.")
    frames: list[tuple[int, NDArray[Any]]] = []
    for index in chosen:
        try:
            pixels, properties = decoder.as_array(ds, index=index)
        except Exception as error:  # decoders raise many kinds
            if frames:
                assumptions.append(f"Frames from number {index + 1} on could not be decoded.")
                break
            raise RejectedFile("damaged", "The pixel data is damaged: no decoder could read it.") from error
        if "RGB" in str(properties.get("photometric_interpretation")):
            ds.PhotometricInterpretation = "RGB"
        frames.append((index, pixels))
    return frames


def _permitted_tags(ds: Dataset) -> dict[str, Any]:
    tags: dict[str, Any] = {}
    for keyword in PERMITTED_TAGS:
        if keyword not in ds or ds[keyword].value in (None, ""):
            continue
        value = ds[keyword].value
        if isinstance(value, (list, pydicom.multival.MultiValue)):
            tags[keyword] = [_plain(item) for item in value[:16]]
        else:
            tags[keyword] = _plain(value)
    if str(tags.get("PatientAge", "")).endswith("Y") and str(tags["PatientAge"]) > OLDEST_AGE:
        tags["PatientAge"] = OLDEST_AGE
    return tags


def _plain(value: Any) -> str | int | float:
    if isinstance(value, int):
        return int(value)
    try:
        number = float(value)
        return number if np.isfinite(number) else str(value)
    except (TypeError, ValueError):
        return str(value).replace("\x00", "")[:64]
