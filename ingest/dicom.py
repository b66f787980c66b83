"""Reading DICOM: any transfer syntax, whatever is missing or wrong and can be lived with."""

import logging
import re
import warnings
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import config, uid
from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset, read_preamble

from ingest.decoders import decoder_of
from ingest.image_file import MAX_BYTES, Frame, ReadImage, RejectedFile, Tags, check_size, choose_frames
from ingest.windowing import integer_of, storable_text, text_of, to_grey

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
OLDEST_AGE_YEARS = 90  # older patients are few enough to be found again
YEARS_OF_UNIT = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1}
SHARE_THAT_MUST_BE_THERE = 0.95  # of a frame whose last bytes are missing
INFLATED_BYTES_ALWAYS_TAKEN = 64 * 2**20
INFLATION_TAKEN = 100  # times the file's size


def looks_like_dicom(content: bytes) -> bool:
    """A preamble with DICM, or bare data elements starting in group 0002 or 0008 (no preamble)."""
    if content[128:132] == b"DICM" or content[:4] == b"DICM":
        return True
    return len(content) >= 8 and content[:4] in (
        *(b"\x02\x00\x00\x00", b"\x02\x00\x10\x00", b"\x02\x00\x01\x00"),
        *(b"\x08\x00" + bytes([element, 0]) for element in range(0, 0x20)),
        *(b"\x00\x08\x00" + bytes([element]) for element in range(0, 0x20)),
    )


def looks_like_dicomdir(content: bytes) -> bool:
    """The index of a medium (PS3.10): its file header names the class Media Storage Directory Storage."""
    return content[128:132] == b"DICM" and uid.MediaStorageDirectoryStorage.encode() in content[132:512]


def read_dicom(
    content: bytes, *, max_frames: int = 8, frame: int | None = None, middle_frame_only: bool = False
) -> ReadImage:
    """Read a DICOM object's chosen frames. Raises RejectedFile with a sentence for every expected defect."""
    assumptions: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = parse(content, assumptions)
        _require_pixels(ds)
        _require_decoder(ds)
        number_of_frames = count_frames(ds, assumptions)
        chosen = choose_frames(number_of_frames, max_frames, frame, middle_frame_only)
        frames = tuple(
            Frame(to_grey(pixels, ds, index, assumptions), index + 1)
            for index, pixels in decode_frames(ds, chosen, assumptions)
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


def parse(content: bytes, assumptions: list[str]) -> Dataset:
    """The data set of a file, whose transfer syntax is told or assumed. Raises RejectedFile."""
    if content[:4] == b"DICM":
        content = bytes(128) + content
        assumptions.append("The preamble was missing.")
    _refuse_inflation_bomb(content)
    try:
        ds = pydicom.dcmread(BytesIO(content))
    except InvalidDicomError:
        assumptions.append("The file header was missing.")
        ds = pydicom.dcmread(BytesIO(content), force=True)
    except Exception as error:  # pydicom raises many kinds for what is not well formed
        raise RejectedFile("damaged", "The DICOM file is cut off or damaged.") from error
    if not hasattr(ds, "file_meta"):
        ds.file_meta = FileMetaDataset()
    if not ds.file_meta.get("TransferSyntaxUID"):
        implicit, little = ds.original_encoding
        syntax = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
        ds.file_meta.TransferSyntaxUID = syntax if little else uid.ExplicitVRBigEndian
        assumptions.append(
            f"The transfer syntax was missing; {ds.file_meta.TransferSyntaxUID.name} was assumed."
        )
    return ds


def _refuse_inflation_bomb(content: bytes) -> None:
    """A deflated data set (PS3.5 A.5) may not grow beyond reason; what it grows to is not kept."""
    file = BytesIO(content)
    try:
        read_preamble(file, force=True)
        header = read_dataset(file, False, True, stop_when=lambda tag, *_: bool(tag.group != 2))
    except Exception:  # pydicom gets no further with such a header either
        return
    if header.get("TransferSyntaxUID") != uid.DeflatedExplicitVRLittleEndian:
        return
    limit = min(max(INFLATED_BYTES_ALWAYS_TAKEN, INFLATION_TAKEN * len(content)), MAX_BYTES)
    inflater, total, source = zlib.decompressobj(-zlib.MAX_WBITS), 0, file.read()
    while source and total <= limit and not inflater.eof:
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
    try:
        decoder_of(syntax)
    except NotImplementedError as error:
        name = syntax.name if syntax in UID_dictionary else "that the file names"
        raise RejectedFile(
            "unsupported_transfer_syntax", f"No decoder knows the transfer syntax {name}."
        ) from error


def count_frames(ds: Dataset, assumptions: list[str]) -> int:
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
    frame_bytes, held_bytes = _frame_bytes(ds), len(ds.PixelData)
    if number * frame_bytes <= held_bytes + 1:
        return number
    held = int(held_bytes // frame_bytes)
    if held >= 1:
        assumptions.append(f"NumberOfFrames says {number}, but only {held} are there.")
        ds.NumberOfFrames = held
        return held
    if number > 1 or held_bytes < SHARE_THAT_MUST_BE_THERE * frame_bytes:
        raise RejectedFile("damaged", "The pixel data is cut off: fewer bytes than Rows x Columns needs.")
    assumptions.append("The last bytes of the pixel data were missing and taken as 0.")
    ds.PixelData = bytes(ds.PixelData) + bytes(int(frame_bytes - held_bytes + 1) & ~1)
    return number


def _frame_bytes(ds: Dataset) -> float:
    samples = integer_of(ds, "SamplesPerPixel", 1)
    if text_of(ds, "PhotometricInterpretation") == "YBR_FULL_422":
        samples = 2
    bits = integer_of(ds, "BitsAllocated", 8)
    return float(integer_of(ds, "Rows", 0) * integer_of(ds, "Columns", 0) * samples * bits / 8)


def decode_frames(
    ds: Dataset, chosen: list[int], assumptions: list[str]
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Index and pixels of the chosen frames, one in memory at a time; colour comes as RGB."""
    if _frame_bytes(ds) > MAX_BYTES:
        raise RejectedFile("too_large", "One frame of the image is absurdly large.")
    decoder = decoder_of(ds.file_meta.TransferSyntaxUID)
    if not text_of(ds, "PhotometricInterpretation"):
        ds.PhotometricInterpretation = "MONOCHROME2"
        assumptions.append("PhotometricInterpretation was missing; MONOCHROME2 was assumed.")
    for index in chosen:
        try:
            pixels, _ = decoder.as_array(ds, index=index)
        except Exception as error:  # decoders raise many kinds
            if index == chosen[0]:
                raise RejectedFile(
                    "damaged", "The pixel data is damaged: no decoder could read it."
                ) from error
            assumptions.append(f"Frames from number {index + 1} on could not be decoded.")
            return
        yield index, pixels


def _permitted_tags(ds: Dataset) -> Tags:
    tags: Tags = {}
    for keyword in PERMITTED_TAGS:
        if keyword not in ds or ds[keyword].value in (None, ""):
            continue
        value = ds[keyword].value
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
