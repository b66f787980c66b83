"""The bytes of a DICOM file as a data set, before anything is made of it."""

import logging
import zlib
from io import BytesIO

import pydicom
from pydicom import config, uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset, read_partial, read_preamble

from ingest.image_file import MAX_BYTES, RejectedFile

logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its warnings quote values of the file
config.settings.reading_validation_mode = config.IGNORE

BODY_PART_EXAMINED = 0x00180015
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


def parse_dicom(content: bytes, assumptions: list[str]) -> Dataset:
    """The data set, with a file header and its transfer syntax. Raises RejectedFile."""
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


def parse_start(content: bytes) -> Dataset:
    """The attributes up to BodyPartExamined, the patient's among them. Raises whatever pydicom does."""
    if content[:4] == b"DICM":
        content = bytes(128) + content
    _refuse_inflation_bomb(content)
    return read_partial(BytesIO(content), lambda tag, *_: bool(tag > BODY_PART_EXAMINED), force=True)


def _refuse_inflation_bomb(content: bytes) -> None:
    """A deflated data set (PS3.5 A.5) may not grow beyond reason; what it grows to is not kept."""
    if uid.DeflatedExplicitVRLittleEndian.encode() not in content:
        return
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
