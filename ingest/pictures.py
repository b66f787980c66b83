"""Reading PNG, JPEG, TIFF and BMP pictures."""

import warnings
from functools import partial
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ingest.image_file import Frame, ReadImage, RejectedFile, check_size, luma, scale_to_bytes, stretch
from ingest.slices import SliceRule, parts_of, take_frames

FORMATS_BY_START = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"II+\x00": "TIFF",  # BigTIFF
    b"MM\x00+": "TIFF",
    b"BM": "BMP",
}
BITS_OF_MODE = {"1": 1, "I;16": 16, "I;16L": 16, "I;16B": 16, "I": 32, "F": 32}
Image.MAX_IMAGE_PIXELS = None  # check_size refuses bombs with a sentence of its own


def format_of(content: bytes) -> str:
    """The picture format that the first bytes tell of; empty where it is none that is read here."""
    return next((name for start, name in FORMATS_BY_START.items() if content.startswith(start)), "")


def read_picture(
    content: bytes, rule: SliceRule, *, frame: int | None = None, middle_frame_only: bool = False
) -> ReadImage:
    """Read a picture; pages of a TIFF are its frames. Raises RejectedFile."""
    file_format = format_of(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(BytesIO(content), formats=[file_format]) as picture:
                check_size(picture.height, picture.width)
                number_of_frames = getattr(picture, "n_frames", 1) if file_format == "TIFF" else 1
                pages = range(number_of_frames)
                parts = parts_of(pages, rule, frame, middle_frame_only, picture.height * picture.width)
                frames = take_frames(parts, partial(_read_page, picture), rule)
                bits_stored = BITS_OF_MODE.get(picture.mode, 8)
        except RejectedFile:
            raise
        except Exception as error:  # Pillow's decoders raise many kinds
            raise RejectedFile("damaged", "The picture is damaged or cut off.") from error
    return ReadImage(file_format, frames, number_of_frames, bits_stored)


def _read_page(picture: Image.Image, index: int) -> Frame:
    if index:
        picture.seek(index)
    check_size(picture.height, picture.width)
    return Frame(to_grey(picture), index + 1)


def to_grey(picture: Image.Image) -> NDArray[np.uint8]:
    """uint8 (rows, columns): upright by EXIF, transparency on black, more than 8 bits by percentiles."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith(("I", "F")):
        return stretch(np.asarray(picture))
    if picture.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        picture = Image.alpha_composite(black, picture)
    if picture.mode in ("1", "L"):
        return np.asarray(picture.convert("L"), np.uint8)
    return scale_to_bytes(luma(np.asarray(picture.convert("RGB"))), 0, 255)
