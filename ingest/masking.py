"""Blackening parts of a file's pictures, in all its frames."""

from collections.abc import Iterable, Sequence
from io import BytesIO
from math import ceil, floor
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from ingest.dicom import decode_frame
from ingest.dicom_parsing import looks_like_dicom, parse_dicom
from ingest.image_file import MAX_BYTES, RejectedFile
from ingest.mending import mend, number_of_frames
from ingest.pictures import format_of
from ingest.windowing import to_grey

OVERLAYS = range(0x6000, 0x6020)  # groups
THUMBNAILS = {0x00880200}  # IconImageSequence
ITEM_GROUP = 0xFFFE  # of items and their ends: stray ones are no attributes
Box = Sequence[float]  # left, top, right, bottom, each 0 to 1


def masked(content: bytes, boxes: Iterable[Box]) -> bytes:
    """The file with its pictures blackened within the boxes, and nothing of what was there left in it.

    DICOM comes out uncompressed, without thumbnails and overlays; a picture as PNG, several pages as TIFF,
    without what its maker noted beside the pixels. Raises RejectedFile.
    """
    try:
        if looks_like_dicom(content):
            return masked_dicom(parse_dicom(content, []), list(boxes))
        return masked_picture(content, list(boxes))
    except RejectedFile:
        raise
    except Exception as error:  # decoders raise many kinds
        raise RejectedFile("not_masked", "The file could not be masked, so it was not taken in.") from error


def edges(box: Box, rows: int, columns: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom in pixels: every pixel that the box touches."""
    left, top, right, bottom = box
    return (
        max(0, floor(left * columns)),
        max(0, floor(top * rows)),
        min(columns, ceil(right * columns)),
        min(rows, ceil(bottom * rows)),
    )


def masked_dicom(ds: Dataset, boxes: list[Box]) -> bytes:
    mend(ds, [])
    frames, total = [], 0
    for index in range(number_of_frames(ds, [])):
        pixels = decode_frame(ds, index)
        total += pixels.nbytes
        if total > MAX_BYTES:
            raise RejectedFile("too_large", "The image is too large to be masked.")
        frames.append(blackened(pixels, darkest(pixels, ds, index), boxes))
    for tag in list(ds.keys()):
        if tag.group in OVERLAYS or tag.group == ITEM_GROUP or tag in THUMBNAILS:
            del ds[tag]
    set_pixels(ds, frames)
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.BurnedInAnnotation = "NO"
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, ds, implicit_vr=False, little_endian=True)
    return buffer.getvalue()


def darkest(pixels: NDArray[Any], ds: Dataset, index: int) -> Any:
    """The value of a decoded frame that is shown darkest."""
    return 0 if pixels.ndim == 3 else pixels.flat[to_grey(pixels, ds, index, []).argmin()]


def blackened(pixels: NDArray[Any], dark: Any, boxes: list[Box]) -> NDArray[Any]:
    """A copy of (rows, columns) or RGB with the value `dark` within the boxes."""
    pixels = pixels.copy()
    for box in boxes:
        left, top, right, bottom = edges(box, *pixels.shape[:2])
        pixels[top:bottom, left:right] = dark
    return pixels


def set_pixels(ds: Dataset, frames: list[NDArray[Any]]) -> None:
    """Put decoded frames in the place of the pixel data, in whatever of the three attributes it is."""
    data = b"".join(frame.astype(frame.dtype.newbyteorder("<")).tobytes() for frame in frames)
    for keyword in ("FloatPixelData", "DoubleFloatPixelData"):
        if keyword in ds:
            ds[keyword].value = data
            return
    ds.NumberOfFrames, ds.BitsAllocated = len(frames), frames[0].dtype.itemsize * 8
    ds.PixelRepresentation = int(frames[0].dtype.kind == "i")
    ds.HighBit = ds.BitsStored - 1
    if frames[0].ndim == 3:
        ds.PhotometricInterpretation, ds.PlanarConfiguration = "RGB", 0
    ds.PixelData = data + bytes(len(data) % 2)
    ds["PixelData"].VR = "OB" if ds.BitsAllocated == 8 else "OW"
    ds["PixelData"].is_undefined_length = False
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in ds:
            del ds[keyword]


def masked_picture(content: bytes, boxes: list[Box]) -> bytes:
    pages = []
    with Image.open(BytesIO(content), formats=[format_of(content)]) as picture:
        number_of_pages = getattr(picture, "n_frames", 1) if picture.format == "TIFF" else 1
        for index in range(number_of_pages):
            picture.seek(index)
            pages.append(blackened_page(picture, boxes))
    buffer = BytesIO()
    if len(pages) == 1:
        pages[0].save(buffer, "PNG")
    else:
        pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:], compression="tiff_deflate")
    return buffer.getvalue()


def blackened_page(picture: Image.Image, boxes: list[Box]) -> Image.Image:
    """A copy that has the pixels alone, upright, without palette, transparency and notes."""
    page = ImageOps.exif_transpose(picture)
    if page.mode.startswith(("I", "F")):
        values = np.asarray(page)
        return Image.fromarray(blackened(values, values.min(), boxes))
    if page.mode not in ("1", "L"):
        black = Image.new("RGBA", page.size, (0, 0, 0, 255))
        page = Image.alpha_composite(black, page.convert("RGBA")).convert("RGB")
    return Image.fromarray(blackened(np.asarray(page), 0, boxes))
