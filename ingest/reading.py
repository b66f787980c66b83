"""The one door for files: bytes in, display-ready grey frames and the file's own claims out."""

import logging

from ingest.dicom import read_dicom
from ingest.dicom_parsing import looks_like_dicom
from ingest.image_file import NOT_AN_IMAGE, Frame, ReadImage, RejectedFile
from ingest.pictures import format_of, read_picture
from ingest.slices import INFORMATIVE_SLICES, SliceRule

__all__ = ["Frame", "ReadImage", "RejectedFile", "SliceRule", "read_image"]

logger = logging.getLogger(__name__)


def read_image(
    content: bytes,
    rule: SliceRule = INFORMATIVE_SLICES,
    *,
    frame: int | None = None,
    middle_frame_only: bool = False,
) -> ReadImage:
    """Read a DICOM object or a PNG, JPEG, TIFF or BMP picture, told apart by content, never by name.

    Of many frames those that the rule chooses are decoded, or the middle one alone, or frame number `frame`
    (from 1). Raises RejectedFile and nothing else, whatever the bytes are; LeftOut is one.
    """
    try:
        if not content:
            raise RejectedFile("empty_file", "The file is empty.")
        if looks_like_dicom(content):  # first: a DICOM preamble may hold a TIFF header
            return read_dicom(content, rule, frame=frame, middle_frame_only=middle_frame_only)
        if format_of(content):
            return read_picture(content, rule, frame=frame, middle_frame_only=middle_frame_only)
    except RejectedFile:
        raise
    except Exception as error:
        logger.warning("A file could not be read: %s", type(error).__name__)
        raise RejectedFile("damaged", "The file is damaged: its contents could not be decoded.") from error
    raise RejectedFile(*NOT_AN_IMAGE)
