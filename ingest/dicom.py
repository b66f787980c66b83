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
from pydicom.pixels import apply_modality_lut, apply_voi_lut, get_decoder
from pydicom.pixels.processing import apply_color_lut

from ingest import decoders
from ingest.image_file import (
    MAX_BYTES, Frame, ReadImage, RejectedFile, check_size, choose_frames, luma, scale_to_bytes, stretch,
)

decoders.register()
logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its warnings quote values of the file
config.settings.reading_validation_mode = config.IGNORE

PERMITTED_TAGS = (
    "PhotometricInterpretation", "WindowCenter", "WindowWidth", "PixelSpacing", "SliceThickness", "ViewPosition",
    "ImageLaterality", "Laterality", "PatientSex", "PatientAge", "PatientPosition", "Manufacturer", "KVP",
    "MagneticFieldStrength", "ScanningSequence", "RepetitionTime", "EchoTime", "ImageType", "BurnedInAnnotation",
    "ConvolutionKernel", "InstanceNumber", "RescaleType", "Units", "LossyImageCompression",
)  # fmt: skip
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
            Frame(_to_grey(pixels, ds, index, assumptions), index + 1)
            for index, pixels in _decode_frames(ds, chosen, number_of_frames, assumptions)
        )
    return ReadImage(
        file_format="DICOM",
        frames=frames,
        number_of_frames=number_of_frames,
        bits_stored=_integer(ds, "BitsStored", 8),
        modality=_text(ds, "Modality").upper(),
        body_part_examined=_text(ds, "BodyPartExamined"),
        patient_id=_text(ds, "PatientID"),
        study_instance_uid=_text(ds, "StudyInstanceUID"),
        series_instance_uid=_text(ds, "SeriesInstanceUID"),
        sop_instance_uid=_text(ds, "SOPInstanceUID"),
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
        assumptions.append(f"The transfer syntax was missing; {ds.file_meta.TransferSyntaxUID.name} was assumed.")
    return ds


def _refuse_inflation_bomb(content: bytes) -> None:
    """A deflated data set may not grow beyond 64 MB and a hundredfold (PS3.5 A.5)."""
    start = content.find(b"1.2.840.10008.1.2.1.99", 132, 1024)
    if start < 0 or content[128:132] != b"DICM":
        return
    length = 144 + int.from_bytes(content[140:144], "little")  # FileMetaInformationGroupLength, first in the header
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
            if not _integer(ds, keyword, 0):
                raise RejectedFile("damaged", f"The required attribute {keyword} is missing.")
        return
    if not len(ds):
        raise RejectedFile("damaged", "The DICOM file is cut off: it holds no data elements.")
    kind = _text(ds, "SOPClassUID") or str(ds.file_meta.get("MediaStorageSOPClassUID", ""))
    name = uid.UID(kind).name if kind else ""
    if "DirectoryRecordSequence" in ds:
        name = "DICOMDIR index"
    what = f"a {name}" if name and not name[0].isdigit() else f"a DICOM object of modality {_text(ds, 'Modality') or '?'}"
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
    check_size(_integer(ds, "Rows", 0), _integer(ds, "Columns", 0))
    if ds.file_meta.TransferSyntaxUID.is_encapsulated:
        if number > max(len(ds.PixelData) // 8, 1):
            raise RejectedFile("damaged", f"The file claims {number} frames, more than its pixel data can hold.")
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
    samples = _integer(ds, "SamplesPerPixel", 1)
    if _text(ds, "PhotometricInterpretation") == "YBR_FULL_422":
        samples = 2
    bits = _integer(ds, "BitsAllocated", 8)
    return float(_integer(ds, "Rows", 0) * _integer(ds, "Columns", 0) * samples * bits / 8)


def _decode_frames(
    ds: Dataset, chosen: list[int], number: int, assumptions: list[str]
) -> list[tuple[int, NDArray[Any]]]:
    syntax = ds.file_meta.TransferSyntaxUID
    if _frame_bytes(ds) > MAX_BYTES:
        raise RejectedFile("too_large", "One frame of the image is absurdly large.")
    decoder = get_decoder(syntax)
    if _text(ds, "PhotometricInterpretation") == "":
        ds.PhotometricInterpretation = "MONOCHROME2"
        assumptions.append("PhotometricInterpretation was missing; MONOCHROME2 was assumed.")
    frames = []
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


def _to_grey(pixels: NDArray[Any], ds: Dataset, index: int, assumptions: list[str]) -> NDArray[np.uint8]:
    """uint8 (rows, columns) of one decoded frame."""
    photometric = _text(ds, "PhotometricInterpretation")
    if photometric == "PALETTE COLOR" and "RedPaletteColorLookupTableData" in ds:
        return _colour_to_grey(apply_color_lut(pixels, ds))
    if pixels.ndim == 3:
        return _colour_to_grey(pixels)
    if _integer(ds, "BitsStored", 8) == 1:
        return (pixels > 0).astype(np.uint8) * np.uint8(255)
    grey = _window(pixels, ds, index, assumptions)
    return 255 - grey if photometric == "MONOCHROME1" else grey


def _colour_to_grey(rgb: NDArray[Any]) -> NDArray[np.uint8]:
    grey = luma(rgb)
    if rgb.dtype.itemsize > 1:
        return scale_to_bytes(grey, 0, 65535 if grey.max() > 255 else 255)
    return np.clip(grey + 0.5, 0, 255).astype(np.uint8)


def _window(pixels: NDArray[Any], ds: Dataset, index: int, assumptions: list[str]) -> NDArray[np.uint8]:
    """Modality LUT, then VOI LUT or window of this frame, or a percentile window where there is none."""
    source = _with_functional_groups(ds, index)
    padding = _padding(pixels, ds)
    try:
        values = apply_modality_lut(pixels, source)
    except Exception:  # malformed lookup tables come in many kinds
        assumptions.append("The Modality LUT could not be applied and was left out.")
        values = pixels
    try:
        if source.get("VOILUTSequence"):
            return _voi_lut(values, source)
        if source.get("WindowCenter") not in (None, "") and source.get("WindowWidth") not in (None, ""):
            return _linear_or_sigmoid_window(values, source)
    except Exception:  # likewise
        assumptions.append("The VOI LUT or window could not be applied.")
    assumptions.append("No window was given; the 1st to 99th percentile of the values is shown.")
    return stretch(values, padding)


def _voi_lut(values: NDArray[Any], ds: Dataset) -> NDArray[np.uint8]:
    bits = int(ds.VOILUTSequence[0].LUTDescriptor[2]) or 16
    return scale_to_bytes(apply_voi_lut(values, ds), 0, float(max(2**bits - 1, 1)))


def _linear_or_sigmoid_window(values: NDArray[Any], ds: Dataset) -> NDArray[np.uint8]:
    """PS3.3 C.11.2.1.2 and .3; the values' percentiles where the window would show one flat grey."""
    center, width = _first_number(ds.WindowCenter), max(_first_number(ds.WindowWidth), 1.0)
    function = _text(ds, "VOILUTFunction") or "LINEAR"
    if function == "SIGMOID":
        grey = scale_to_bytes(255 / (1 + np.exp(-4 * (values.astype(np.float32) - center) / width)), 0, 255)
    else:
        offset, span = (0.5, max(width - 1, 1.0)) if function == "LINEAR" else (0.0, width)
        low = center - offset - span / 2
        grey = scale_to_bytes(values, low, low + span)
    return stretch(values) if grey.min() == grey.max() and values.min() != values.max() else grey


def _padding(pixels: NDArray[Any], ds: Dataset) -> NDArray[np.bool_] | None:
    if "PixelPaddingValue" not in ds or not isinstance(ds.PixelPaddingValue, int):
        return None
    first, last = ds.PixelPaddingValue, _integer(ds, "PixelPaddingRangeLimit", ds.PixelPaddingValue)
    return np.asarray((pixels >= min(first, last)) & (pixels <= max(first, last)))


def _with_functional_groups(ds: Dataset, index: int) -> Dataset:
    """The attributes of PS3.3 C.7.6.16 that the grey-scale pipeline asks for, this frame's before the shared."""
    if "SharedFunctionalGroupsSequence" not in ds and "PerFrameFunctionalGroupsSequence" not in ds:
        return ds
    merged = Dataset()
    for keyword in ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction",
                    "ModalityLUTSequence", "VOILUTSequence", "PixelRepresentation", "BitsStored"):  # fmt: skip
        if keyword in ds:
            merged[keyword] = ds[keyword]
    shared, frames = ds.get("SharedFunctionalGroupsSequence"), ds.get("PerFrameFunctionalGroupsSequence")
    for group in [*(shared or [])[:1], *(frames or [])[index : index + 1]]:
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in (group.get(name) or [])[:1]:
                merged.update(item)
    return merged


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


def _first_number(value: Any) -> float:
    return float(value[0] if isinstance(value, (list, pydicom.multival.MultiValue)) else value)


def _text(ds: Dataset, keyword: str) -> str:
    value = ds.get(keyword)
    return "" if value is None else str(value).replace("\x00", "").strip()[:64]


def _integer(ds: Dataset, keyword: str, default: int) -> int:
    try:
        return int(ds.get(keyword) if ds.get(keyword) is not None else default)
    except (TypeError, ValueError):
        return default
