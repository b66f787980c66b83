"""The two pictures made of every image: one for the network, one for people."""

from io import BytesIO
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

RENDITION_SIZE = 256  # pixels; the paper's
PREVIEW_SIZE = 1024  # pixels, longest side


def network_rendition(pixels: NDArray[np.uint8]) -> bytes:
    """PNG of 256x256 8-bit grey from uint8 (rows, columns).

    The whole picture is resized without keeping its aspect, as in the paper: nothing is cut off and no
    border is invented.
    """
    resized = Image.fromarray(pixels).resize((RENDITION_SIZE, RENDITION_SIZE), Image.Resampling.BILINEAR)
    _, png = cv2.imencode(".png", np.asarray(resized))  # a third of the time that Pillow takes
    return png.tobytes()


def preview(pixels: NDArray[np.uint8]) -> bytes:
    """JPEG that keeps the aspect, longest side at most 1024 pixels, never enlarged."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((PREVIEW_SIZE, PREVIEW_SIZE), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def decode_rendition(file: Any) -> NDArray[np.uint8]:
    """uint8 (256, 256) from an open file of a rendition."""
    with Image.open(file) as picture:
        return np.asarray(picture, np.uint8)


def read_rendition(field_file: Any) -> NDArray[np.uint8]:
    """uint8 (256, 256) from a rendition in the file storage. Threads may read the same one at once."""
    with field_file.storage.open(field_file.name, "rb") as file:
        return decode_rendition(file)
