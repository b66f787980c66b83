"""Reading DICOM: any transfer syntax, whatever is missing or wrong and can be lived with."""

import re
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset

from ingest.burned_in import why_likely
from ingest.colours import RETIRED, decode_retired
from ingest.decoders import decoder_of
from ingest.dicom_parsing import parse_dicom
from ingest.functional_groups import frame_value, frames_in_space, is_enhanced
from ingest.image_file import MAX_BYTES, Frame, ReadImage, RejectedFile, Tags
from ingest.mending import (
    body_part_of,
    frame_bytes,
    mend,
    modality_of,
    number_of_frames,
    unused_low_bits,
)
from ingest.slices import SliceRule, parts_of, require_information, require_number, take_frames
from ingest.windowing import integer_of, storable_text, text_of, to_grey

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
OLDEST_AGE_YEARS = 90  # older patients are few enough to be found again
YEARS_OF_UNIT = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1}


def read_dicom(
    content: bytes, rule: SliceRule, *, frame: int | None = None, middle_frame_only: bool = False
) -> ReadImage:
    """Read a DICOM object's chosen frames. Raises RejectedFile with a sentence for every expected defect, and
    LeftOut for a slice of a series that the rule passes over."""
    assumptions: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = parse_dicom(content, assumptions)
        _require_pixels(ds)
        mend(ds, assumptions)
        _require_decoder(ds)
        count = number_of_frames(ds, assumptions)
        is_slice = count == 1 and frame is None and not middle_frame_only and _is_of_volume(ds)
        if is_slice:
            require_number(integer_of(ds, "InstanceNumber", 0), rule)
        order = frames_in_space(ds, count)
        parts = parts_of(order, rule, frame, middle_frame_only, ds.Rows * ds.Columns)
        frames = _show_frames(ds, parts, rule, assumptions)
        if is_slice:
            require_information(frames[0].pixels, rule)
        modality = modality_of(ds, assumptions)
        body_part_examined = body_part_of(ds, frames[0].frame_number - 1, assumptions)
    return ReadImage(
        file_format="DICOM",
        frames=frames,
        number_of_frames=count,
        bits_stored=integer_of(ds, "BitsStored", integer_of(ds, "BitsAllocated", 8)),
        modality=modality,
        body_part_examined=body_part_examined,
        patient_id=text_of(ds, "PatientID"),
        study_instance_uid=text_of(ds, "StudyInstanceUID"),
        series_instance_uid=text_of(ds, "SeriesInstanceUID"),
        sop_instance_uid=text_of(ds, "SOPInstanceUID"),
        transfer_syntax_uid=str(ds.file_meta.get("TransferSyntaxUID", "")),
        tags=_permitted_tags(ds.get),
        text_likely=why_likely(ds),
        assumptions=tuple(dict.fromkeys(assumptions)),
    )


def _is_of_volume(ds: Dataset) -> bool:
    """Whether a single frame is a slice of a series: it has a plane in the patient and is no overview."""
    return bool(ds.get("ImagePositionPatient")) and "LOCALIZER" not in str(ds.get("ImageType"))


def _show_frames(
    ds: Dataset, parts: list[list[int]], rule: SliceRule, assumptions: list[str]
) -> tuple[Frame, ...]:
    """The frames that are taken, as a person would see them. Raises RejectedFile where there is none."""
    if frame_bytes(ds) > MAX_BYTES:
        raise RejectedFile("too_large", "One frame of the image is absurdly large.")
    errors: dict[int, Exception] = {}

    def show(index: int) -> Frame | None:
        try:
            pixels = decode_frame(ds, index)
        except Exception as error:  # decoders raise many kinds
            errors[index + 1] = error
            return None
        assumed: list[str] = []
        grey = to_grey(pixels, ds, index, assumed)
        tags = _permitted_tags(partial(frame_value, ds, index)) if is_enhanced(ds) else {}
        return Frame(grey, index + 1, tags, tuple(assumed))

    frames = take_frames(parts, show, rule)
    if not frames:
        error = next(iter(errors.values()))
        raise RejectedFile("damaged", "The pixel data is damaged: no decoder could read it.") from error
    for each in frames:
        assumptions += each.assumptions
    if errors:
        numbers = ", ".join(str(number) for number in sorted(errors)[:8])
        assumptions.append(f"Some frames could not be decoded, such as number {numbers}.")
    return frames


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
    raise RejectedFile("no_pixel_data", f"This is {_kind_of_object(ds)}: it has no image in it.")


def _kind_of_object(ds: Dataset) -> str:
    if "DirectoryRecordSequence" in ds:
        return "a DICOMDIR, an index of other files"
    kind = text_of(ds, "SOPClassUID") or str(ds.file_meta.get("MediaStorageSOPClassUID", ""))
    if kind in UID_dictionary:
        return f"a DICOM object of the kind {uid.UID(kind).name}"
    modality = text_of(ds, "Modality")
    known = re.fullmatch("[A-Z]{2,16}", modality)  # whatever else a damaged file has there is not repeated
    return f"a DICOM object of modality {modality}" if known else "a DICOM object"


def _require_decoder(ds: Dataset) -> None:
    syntax = ds.file_meta.TransferSyntaxUID
    name = syntax.name if syntax in UID_dictionary else "that the file names"
    try:
        decoder_of(syntax)
    except NotImplementedError as error:
        what = "The file holds a video" if "MPEG" in name or "HEVC" in name else "The file is not read"
        raise RejectedFile(
            "unsupported_transfer_syntax", f"{what}: no decoder knows the transfer syntax {name}."
        ) from error
    photometric = ds.PhotometricInterpretation
    if photometric == "YBR_PARTIAL_420" or (photometric in RETIRED and syntax.is_encapsulated):
        raise RejectedFile(
            "unsupported_photometric_interpretation",
            f"No decoder knows the photometric interpretation {photometric} in {name}.",
        )


def decode_frame(ds: Dataset, index: int) -> NDArray[Any]:
    """Stored values (rows, columns) or RGB (rows, columns, 3) of the frame at `index`, from 0.

    The data set is mended. Raises whatever decoders raise.
    """
    decoder = decoder_of(ds.file_meta.TransferSyntaxUID)
    if ds.PhotometricInterpretation in RETIRED:
        return decode_retired(decoder, ds, index)
    low_bits = unused_low_bits(ds)
    if low_bits:
        pixels, _ = decoder.as_array(ds, index=index, bits_stored=ds.BitsStored + low_bits)
        return pixels >> low_bits
    pixels, _ = decoder.as_array(ds, index=index)
    return pixels


def _permitted_tags(value_of: Callable[[str], Any]) -> Tags:
    """What `value_of` gives for the permitted keywords; None and "" for what is not there."""
    tags: Tags = {}
    for keyword in PERMITTED_TAGS:
        value = value_of(keyword)
        if value in (None, ""):
            continue
        if isinstance(value, (list, pydicom.multival.MultiValue)):
            tags[keyword] = [_plain(item) for item in value[:16]]
        else:
            tags[keyword] = _plain(value)
    if "PatientAge" in tags:
        tags["PatientAge"] = capped_age(str(tags["PatientAge"]))
    return {keyword: value for keyword, value in tags.items() if value not in ("", [])}


def capped_age(age: str) -> str:
    """A DICOM age string (PS3.5 6.2, AS), nobody's above 90 years; what is no age string is left out."""
    parts = re.fullmatch(r"(\d{1,3})([DWMY])", age)
    if not parts:
        return ""
    years = int(parts[1]) * YEARS_OF_UNIT[parts[2]]
    return f"{OLDEST_AGE_YEARS:03d}Y" if years > OLDEST_AGE_YEARS else age


def _plain(value: Any) -> str | int | float:
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and np.isfinite(value):
        return float(value)
    return storable_text(value)
