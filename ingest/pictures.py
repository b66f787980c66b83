"""Reading PNG, JPEG, TIFF and BMP pictures."""

import warnings
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageSequence

from ingest.image_file import Frame, ReadImage, RejectedFile, check_size, choose_frames, luma, stretch

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
Image.MAX_IMAGE_PIXELS = None  # check_size refuses bombs with a sentence of its own


def is_picture(content: bytes) -> bool:
    """Whether the first bytes are those of a picture format that is read here."""
    return content.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*", b"BM"))


def read_picture(content: bytes, *, max_frames: int = 8, middle_frame_only: bool = False) -> ReadImage:
    """Read a picture; pages of a TIFF are its frames. Raises RejectedFile."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(BytesIO(content), formats=FORMATS) as picture:
                check_size(picture.height, picture.width)
                return _read(picture, max_frames, middle_frame_only)
        except RejectedFile:
            raise
        except Exception as error:  # Pillow's decoders raise many kinds
            raise RejectedFile("damaged", "The picture is damaged or cut off.") from error


def _read(picture: Image.Image, max_frames: int, middle_frame_only: bool) -> ReadImage:
    number_of_frames = getattr(picture, "n_frames", 1) if picture.format == "TIFF" else 1
    chosen = choose_frames(number_of_frames, max_frames, middle_frame_only)
    bits = 16 if picture.mode.startswith(("I", "F")) else 8
    frames = []
    for index, page in enumerate(ImageSequence.Iterator(picture)):
        if index in chosen:
            check_size(page.height, page.width)
            frames.append(Frame(to_grey(page), index + 1))
        if index >= chosen[-1]:
            break
    return ReadImage(str(picture.format), tuple(frames), number_of_frames, bits)


def to_grey(picture: Image.Image) -> NDArray[np.uint8]:
    """uint8 (rows, columns): upright by EXIF, transparency on black, deep ones by percentile window."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith(("I", "F")):
        return stretch(np.asarray(picture))
    if picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        picture = Image.alpha_composite(black, picture)
    if picture.mode in ("1", "L"):
        return np.asarray(picture.convert("L"), np.uint8)
    return np.asarray(np.clip(luma(np.asarray(picture.convert("RGB"))) + 0.5, 0, 255), np.uint8)
